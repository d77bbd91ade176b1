"""Feast's part of the benchmarks, run in an environment of its own (see `common.feast`); prints one line of JSON.

    feast_side.py offline FOLDER file|duckdb ROWS                 point-in-time join of finished features to the first ROWS payments
    feast_side.py online FOLDER sqlite|redis REPETITIONS [PORT]   one request's precomputed features from an online store

Set up as its documentation has it: two entities, two feature views over Parquet files, a feature service; a local registry that is never
refreshed. Not timed: import, registration, writing the files and the online store.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
from common import peak_mb, percentiles
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RepoConfig,
    ValueType,
)
from feast.types import Float64, Int64

KEYS = ("customer", "terminal")


def store_with(home: Path, frame, **stores: object) -> tuple[FeatureStore, FeatureService]:
    "A feature store with a view for each key; their columns are those that bear its name."
    config = RepoConfig(
        project="benchmark",
        provider="local",
        registry=dict(path=str(home / "registry.db"), cache_ttl_seconds=0),
        entity_key_serialization_version=3,
        **stores,
    )
    views = []
    for key in KEYS:
        names = [c for c in frame.column_names if c.startswith(key) and c != f"{key}_id"]
        pq.write_table(frame.select([f"{key}_id", "event_time", *names]), home / f"{key}.parquet")
        schema = [
            Field(name=f"{key}_id", dtype=Int64),
            *(
                Field(
                    name=n, dtype=Int64 if str(frame.schema.field(n).type) == "int64" else Float64
                )
                for n in names
            ),
        ]
        views.append(
            FeatureView(
                name=key,
                entities=[Entity(name=key, join_keys=[f"{key}_id"], value_type=ValueType.INT64)],
                schema=schema,
                source=FileSource(
                    name=f"{key}_file",
                    path=str(home / f"{key}.parquet"),
                    timestamp_field="event_time",
                ),
            )
        )
    service, store = FeatureService(name="model", features=views), FeatureStore(config=config)
    store.apply(
        [
            *(
                Entity(name=key, join_keys=[f"{key}_id"], value_type=ValueType.INT64)
                for key in KEYS
            ),
            *views,
            service,
        ]
    )
    return store, service


def offline(home: Path, folder: Path, kind: str, rows: int) -> dict:
    frame = pq.read_table(folder / "finished.parquet").slice(0, int(rows))
    store, service = store_with(home, frame, offline_store=dict(type=kind))
    asked = frame.select(["event_id", "event_time", "customer_id", "terminal_id"]).to_pandas()
    before, start = peak_mb(), time.perf_counter()
    joined = store.get_historical_features(entity_df=asked, features=service).to_df()
    seconds = time.perf_counter() - start
    joined.drop(columns=["event_time", "customer_id", "terminal_id"]).to_parquet(
        folder / "joined.parquet", index=False
    )
    return dict(
        rows=len(joined), seconds=round(seconds, 2), peak_mb=peak_mb(), of_it_before_mb=before
    )


def online(home: Path, folder: Path, kind: str, repetitions: int, port: str = "") -> dict:
    frame = pq.read_table(folder / "finished.parquet")
    where = (
        dict(type="redis", connection_string=f"127.0.0.1:{port}")
        if kind == "redis"
        else dict(type="sqlite", path=str(home / "online.db"))
    )
    store, service = store_with(home, frame, online_store=where)
    for key in KEYS:
        store.write_to_online_store(key, pq.read_table(home / f"{key}.parquet").to_pandas())
    request = [{f"{key}_id": frame[f"{key}_id"][0].as_py() for key in KEYS}]
    got = store.get_online_features(features=service, entity_rows=request).to_dict()
    wrong = [
        c
        for c in frame.column_names
        if c not in ("event_id", "event_time") and got[c] != [frame[c][0].as_py()]
    ]
    if wrong:
        raise SystemExit(f"not what was written: {wrong}")

    def read():
        return store.get_online_features(features=service, entity_rows=request).to_dict()

    return dict(
        features=len(got) - len(KEYS), us=percentiles(dict(read=read), int(repetitions))["read"]
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        print(
            json.dumps(
                dict(offline=offline, online=online)[sys.argv[1]](
                    Path(home), Path(sys.argv[2]), *sys.argv[3:]
                )
            )
        )
