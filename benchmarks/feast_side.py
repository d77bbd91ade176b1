"""Feast's part of the benchmarks, in an environment of its own (`common.feast`); prints JSON.

    feast_side.py offline FOLDER file|duckdb ROWS
        point-in-time join of finished features to the first ROWS payments
    feast_side.py online FOLDER sqlite|redis REPETITIONS [PORT]
        one request's precomputed features from an online store

Set up as its documentation has it: two entities, two feature views over Parquet files, a feature
service; a local registry that is never refreshed. Not timed: import, registration, writing the
files and the online store.
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


def view_of(key: str, home: Path, frame) -> FeatureView:
    "A key's features as a view over a file of their own: the columns that bear its name."
    names = [c for c in frame.column_names if c.startswith(key) and c != f"{key}_id"]
    path = home / f"{key}.parquet"
    pq.write_table(frame.select([f"{key}_id", "event_time", *names]), path)
    schema = [Field(name=f"{key}_id", dtype=Int64)]
    for name in names:
        whole = str(frame.schema.field(name).type) == "int64"
        schema.append(Field(name=name, dtype=Int64 if whole else Float64))
    source = FileSource(name=f"{key}_file", path=str(path), timestamp_field="event_time")
    return FeatureView(name=key, entities=[entity(key)], schema=schema, source=source)


def entity(key: str) -> Entity:
    return Entity(name=key, join_keys=[f"{key}_id"], value_type=ValueType.INT64)


def store_with(home: Path, frame, **stores: object) -> tuple[FeatureStore, FeatureService]:
    "A feature store with a view for each key."
    config = RepoConfig(
        project="benchmark",
        provider="local",
        registry=dict(path=str(home / "registry.db"), cache_ttl_seconds=0),
        entity_key_serialization_version=3,
        **stores,
    )
    views = [view_of(key, home, frame) for key in KEYS]
    service, store = FeatureService(name="model", features=views), FeatureStore(config=config)
    store.apply([*map(entity, KEYS), *views, service])
    return store, service


def offline(home: Path, folder: Path, kind: str, rows: int) -> dict:
    frame = pq.read_table(folder / "finished.parquet").slice(0, int(rows))
    store, service = store_with(home, frame, offline_store=dict(type=kind))
    ids = ["customer_id", "terminal_id"]
    asked = frame.select(["event_id", "event_time", *ids]).to_pandas()
    before, start = peak_mb(), time.perf_counter()
    joined = store.get_historical_features(entity_df=asked, features=service).to_df()
    seconds = round(time.perf_counter() - start, 2)
    kept = joined.drop(columns=["event_time", *ids])
    kept.to_parquet(folder / "joined.parquet", index=False)
    return dict(rows=len(joined), seconds=seconds, peak_mb=peak_mb(), of_it_before_mb=before)


def place(kind: str, home: Path, port: str) -> dict[str, str]:
    "Where an online store lies."
    if kind == "redis":
        return dict(type="redis", connection_string=f"127.0.0.1:{port}")
    return dict(type="sqlite", path=str(home / "online.db"))


def online(home: Path, folder: Path, kind: str, repetitions: int, port: str = "") -> dict:
    frame = pq.read_table(folder / "finished.parquet")
    store, service = store_with(home, frame, online_store=place(kind, home, port))
    for key in KEYS:
        store.write_to_online_store(key, pq.read_table(home / f"{key}.parquet").to_pandas())
    request = [{f"{key}_id": frame[f"{key}_id"][0].as_py() for key in KEYS}]

    def read():
        return store.get_online_features(features=service, entity_rows=request).to_dict()

    got = read()
    columns = [c for c in frame.column_names if c not in ("event_id", "event_time")]
    if wrong := [c for c in columns if got[c] != [frame[c][0].as_py()]]:
        raise SystemExit(f"not what was written: {wrong}")
    taken = percentiles(dict(read=read), int(repetitions))["read"]
    return dict(features=len(got) - len(KEYS), us=taken)


def main() -> None:
    part = dict(offline=offline, online=online)[sys.argv[1]]
    with tempfile.TemporaryDirectory() as home:
        print(json.dumps(part(Path(home), Path(sys.argv[2]), *sys.argv[3:])))


if __name__ == "__main__":
    main()
