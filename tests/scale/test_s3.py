"The log and the backfill in object storage."

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest
from division import FEATURES, Outcome, Pay, assert_backfilled, divide, expected, logged, world
from helpers import assert_same_bits

from mlkit.backfill import BackfillError, backfill, read_features
from mlkit.etl import Batch, Logs, land
from mlkit.eventlog import append, compact, fingerprint, scan
from mlkit.executors import Local
from mlkit.tables import LogError


def rows_by_fingerprint(log) -> int:
    return int(fingerprint(log).split(":")[0])


def test_the_log_keeps_its_promises_on_s3(bucket):
    payments = world(300)[Pay]
    logs = Logs(f"{bucket}/some/prefix")
    log = logs[Pay]
    assert append(log, payments[:200], "one").new == 200
    assert append(log, payments[:200], "one").new == 0

    before = fingerprint(log)
    conflict = payments[:1].with_columns(amount=pl.lit(1, pl.Int64))
    done = append(log, pl.concat([payments[100:], conflict]), "two")
    assert (done.new, done.duplicates, done.conflicts) == (100, 100, 1)
    bad = payments[:2].with_columns(kind=pl.lit("gold"), event_id=pl.lit("x"))
    assert land(logs, Batch.checked("three", {Pay: bad})).new == 0
    assert log.quarantine.read().height == 3
    assert log.quarantine.uri == f"{bucket}/some/prefix/quarantine/pay"

    assert scan(log).collect()["event_id"].n_unique() == 300 == rows_by_fingerprint(log)
    assert scan(log, version=1).collect().height == 200
    assert fingerprint(log) != before
    assert compact(log) > 0
    assert scan(log).collect().height == 300 == rows_by_fingerprint(log)
    assert append(Logs(f"{bucket}/some/prefix")[Pay], payments, "four").duplicates == 300


def test_writers_at_once_on_s3_give_out_no_place_twice(bucket):
    payments = world(400)[Pay]

    def write(i: int) -> int:
        part = payments[100 * i : 100 * i + 100]
        return append(Logs(f"{bucket}/w")[Pay], part, f"batch {i}", attempts=50).new

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(write, range(4))) == 400
    assert sorted(scan(Logs(f"{bucket}/w")[Pay]).collect()["seq"]) == list(range(400))


def test_a_backfill_on_s3(bucket, monkeypatch):
    logs = logged(world(900), Logs(f"{bucket}/w"))
    divide(monkeypatch, 2, 331)
    backfill(FEATURES, logs, f"{bucket}/features", executor=Local(2))
    did = backfill(FEATURES, logs, f"{bucket}/features", versions={Pay: 2, Outcome: 2})
    assert did.version == 1 and did.resumed == 0
    assert_backfilled(f"{bucket}/features", logs, version=0)
    assert_backfilled(f"{bucket}/features", logs, version=1, pay=2, outcome=2)


def test_the_same_bits_as_on_a_disk(bucket, logs, tmp_path, monkeypatch):
    divide(monkeypatch, 3, 331)
    frames = []
    for place, where in ((bucket, Logs(f"{bucket}/w")), (tmp_path, logs)):
        backfill(FEATURES, logged(world(500), where), f"{place}/features")
        found = read_features(FEATURES, f"{place}/features").collect()
        frames.append(found.drop("event_time").sort("event_id"))
    assert_same_bits(*frames)
    assert_same_bits(frames[0], expected(logs))


def test_other_stores_are_refused_by_name():
    message = "gs://somewhere/log/pay: a log lives in a folder of this machine or below s3://"
    with pytest.raises(LogError, match=message):
        scan(Logs("gs://somewhere")[Pay])
    with pytest.raises(BackfillError, match="at least 512"):
        backfill(FEATURES, Logs("unused"), "unused", memory_mb=8)
