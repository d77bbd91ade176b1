"A few thousand payments with ties, and the ways to backfill them."

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from helpers import DAWN, FEATURES, OVER, Outcome, Pay, assert_same_bits

import mlkit.backfill as module
from mlkit.backfill import read_features
from mlkit.etl import Logs
from mlkit.eventlog import append, scan
from mlkit.features import FeatureSet
from mlkit.frames import offline
from mlkit.tasks import Job
from mlkit.units import Costs


def world(n: int = 2000, seed: int = 0, days: int = 40) -> dict[Any, pl.DataFrame]:
    "Payments and outcomes; many happen at the same moment, and some customers never come back."
    rng = np.random.default_rng(seed)
    minutes = np.sort(rng.integers(0, days * 24 * 60 // 20, n)) * 20
    pays = pl.DataFrame(
        dict(
            event_id=[f"p{i}" for i in range(n)],
            event_time=[DAWN + timedelta(minutes=int(m)) for m in minutes],
            who=rng.integers(-5, 60, n),
            place=rng.choice(["a", "ab", "é", "ein längerer Name"], n),
            amount=rng.integers(0, 10**8, n),
            online=rng.random(n) < 0.5,
            kind=rng.choice(["card", "cash"], n),
            tip=pl.Series(rng.integers(-1000, 1000, n)).set(pl.Series(rng.random(n) < 0.3), None),
            shade=[(None, "red", "green", "blue")[i] for i in rng.integers(0, 4, n)],
        ),
        schema=Pay.schema(),
    )
    known = pays.filter(pl.Series(rng.random(n) < 0.6))
    outcomes = known.select(
        pl.col("event_id") + "/o",
        pl.col("event_time") + timedelta(days=3),
        pay_id="event_id",
        who="who",
        place="place",
        bad=pl.Series(rng.random(known.height) < 0.2),
        source=pl.Series(rng.choice(["outcome", "review"], known.height)),
    )
    return {Pay: pays, Outcome: outcomes.cast(Outcome.schema())}


def logged(world: dict[Any, pl.DataFrame], logs: Logs, batches: int = 3) -> Logs:
    "In the log, in several batches that overlap in time, hence several files a day."
    for stream, frame in world.items():
        for i in range(batches):
            append(logs[stream], frame.gather_every(batches, i), f"batch {i}")
    return logs


def divide(patch: Any, buckets: int = 1, rows: int = 10**9, budget: int = 2**40) -> None:
    "Slices of so many rows, so many buckets an entity, units of at most `budget` bytes."

    def slice_rows(self, features, stream, total=0, width=1):
        return rows

    def bucket_counts(self, features, rows, width=1):
        return (buckets,) * len(Job(features, "", "", ()).entities)

    patch.setattr(module, "costs", lambda memory_mb: Costs(budget))
    patch.setattr(Costs, "slice_rows", slice_rows)
    patch.setattr(Costs, "bucket_counts", bucket_counts)


def expected(
    logs: Logs, features: FeatureSet = FEATURES, until: Any = None, **versions: int
) -> pl.DataFrame:
    "What `offline` makes of the log."
    events = {
        s: scan(logs[s], until=until, version=versions.get(s.name)).collect()
        for s in (Pay, Outcome)
    }
    return offline(features, events[Pay], events).sort("event_id")


def assert_backfilled(
    out: str | Path,
    logs: Logs,
    features: FeatureSet = FEATURES,
    version: int | None = None,
    until: Any = None,
    **versions: int,
) -> None:
    "The table holds what `offline` computes, bit for bit, and the time of every request."
    table = read_features(features, out, version).collect().sort("event_id")
    assert_same_bits(table.drop("event_time"), expected(logs, features, until, **versions))
    requests = scan(logs[Pay]).select("event_id", "event_time").collect()
    assert (
        table.select("event_id", "event_time")
        .join(requests, on=["event_id", "event_time"], how="anti")
        .is_empty()
    )


__all__ = [
    "DAWN",
    "FEATURES",
    "OVER",
    "Outcome",
    "Pay",
    "assert_backfilled",
    "divide",
    "expected",
    "logged",
    "world",
]
