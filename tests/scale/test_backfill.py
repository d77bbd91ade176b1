"A backfill by partitions equals the offline frame bit for bit, however it is divided, and whatever happens to it."

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from division import DAWN, FEATURES, OVER, Outcome, Pay, assert_backfilled, divide, logged, world
from helpers import Who, assert_same_bits, worlds
from hypothesis import given, settings

import mlkit.backfill as module
from mlkit.backfill import BackfillError, Local, backfill, done, key_hash, read_features
from mlkit.etl import Logs
from mlkit.eventlog import append
from mlkit.events import Fixed, Key, Stream, at_least
from mlkit.features import FeatureSet, FeatureView
from mlkit.frames import offline


@pytest.mark.parametrize("buckets", [1, 3, 7])
@pytest.mark.parametrize("rows", [10**9, 331])
def test_any_division_gives_the_same_bits(logs, tmp_path, monkeypatch, buckets, rows):
    logged(world(), logs)
    divide(monkeypatch, buckets, rows)
    did = backfill(FEATURES, logs, tmp_path / "out")
    assert (
        did.rows == 2000
        and set(did.buckets.values()) == {buckets}
        and did.blocks == (1 if rows > 2000 else 7)
    )
    assert_backfilled(tmp_path / "out", logs)


@settings(max_examples=12)
@given(world=worlds())
def test_any_small_world(world):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        logs = logged(world, Logs(Path(folder) / "workspace"), 2)
        divide(patch, 3, 5)
        backfill(FEATURES, logs, f"{folder}/out")
        assert_backfilled(f"{folder}/out", logs)


def test_a_bucket_that_is_too_large_is_divided_by_time(logs, tmp_path, monkeypatch):
    logged(world(days=90), logs)
    divide(monkeypatch, 2, 100, 400_000)
    did = backfill(FEATURES, logs, tmp_path / "out")
    assert did.units > 2 * 3 * 2
    assert_backfilled(tmp_path / "out", logs)


def test_a_key_that_does_not_fit_is_named(logs, tmp_path, monkeypatch):
    busy = world()
    busy[Pay] = busy[Pay].with_columns(
        who=pl.when(pl.int_range(pl.len()) % 10 > 0).then(4711).otherwise("who")
    )
    logged(busy, logs)
    divide(monkeypatch, 3, 100, 100_000)
    with pytest.raises(
        BackfillError, match=r"who = 4711 has [\d,]+ of [\d,]+ events .* --memory \d+"
    ):
        backfill(FEATURES, logs, tmp_path / "out")
    with pytest.raises(BackfillError, match="holds no features"):
        read_features(FEATURES, tmp_path / "out")


def test_processes(logs, tmp_path, monkeypatch):
    logged(world(), logs)
    divide(monkeypatch, 2, 700)
    backfill(FEATURES, logs, tmp_path / "out", executor=Local(2))
    assert_backfilled(tmp_path / "out", logs)


def test_before_a_moment(logs, tmp_path, monkeypatch):
    logged(world(), logs)
    divide(monkeypatch, 2, 331)
    until = DAWN + timedelta(days=20, hours=5)
    backfill(FEATURES, logs, tmp_path / "out", until=until)
    assert_backfilled(tmp_path / "out", logs, until=until)
    with pytest.raises(BackfillError, match="nothing to do"):
        backfill(FEATURES, logs, tmp_path / "out", until=DAWN - timedelta(days=9))


def test_as_of_a_version_of_the_log(logs, tmp_path, monkeypatch):
    logged(world(), logs)
    divide(monkeypatch, 3, 331)
    did = backfill(FEATURES, logs, tmp_path / "out", versions={Pay: 2, "outcome": 1})
    assert did.log == {"pay": 2, "outcome": 1} and did.rows < 2000
    backfill(FEATURES, logs, tmp_path / "out")
    assert_backfilled(tmp_path / "out", logs, version=0, pay=2, outcome=1)
    assert_backfilled(tmp_path / "out", logs, version=1)
    with pytest.raises(BackfillError, match="no version 99; its newest is 3"):
        backfill(FEATURES, logs, tmp_path / "out", versions={"pay": 99})
    with pytest.raises(BackfillError, match="names sales; the features read pay, outcome"):
        backfill(FEATURES, logs, tmp_path / "out", versions={"sales": 1})


def test_streams_that_have_no_log_yet(logs, tmp_path):
    with pytest.raises(BackfillError, match="holds no log"):
        backfill(FEATURES, logs, tmp_path / "out")
    logged({Pay: world()[Pay]}, logs)
    backfill(FEATURES, logs, tmp_path / "out")
    assert_backfilled(tmp_path / "out", logs)


def test_feature_sets_without_windows_or_without_rows(logs, tmp_path):
    class Plain(FeatureView):
        third = pl.col("amount") / 3

    class Wide(FeatureView):
        weekday = pl.col("event_time").dt.weekday().cast(pl.UInt32)

    class Elsewhere(FeatureView, key="who"):
        bad = Outcome.sum("bad", over=OVER)

    logged(world(300), logs)
    for i, features in enumerate(
        [FeatureSet(Pay, [Plain, Wide]), FeatureSet(Pay, [Who]), FeatureSet(Pay, [Elsewhere])]
    ):
        backfill(features, logs, tmp_path / f"out-{i}")
        assert_backfilled(tmp_path / f"out-{i}", logs, features)
    with pytest.raises(BackfillError, match="Give another --out"):
        backfill(FEATURES, logs, tmp_path / "out-0")


def test_other_versions_of_a_library_are_refused(logs, tmp_path, monkeypatch):
    logged(world(100), logs)
    here = module.versions_here()
    monkeypatch.setattr(
        module, "versions_here", lambda: {**here, "polars": "0.1"}
    )  # what a worker finds; the job says what the driver has
    with pytest.raises(BackfillError, match="Install the same versions"):
        backfill(FEATURES, logs, tmp_path / "out")


def test_a_block_that_lacks_rows_is_not_written(logs, tmp_path, monkeypatch):
    logged(world(), logs)
    divide(monkeypatch, 3, 331)
    honest = module.windows

    def forgetful(job, name, unit):
        said = honest(job, name, unit)
        return (name, [0] * len(said[1])) if name == "windows-0-1-0" else said

    monkeypatch.setattr(module, "windows", forgetful)
    with pytest.raises(BackfillError, match="requests have their aggregates"):
        backfill(FEATURES, logs, tmp_path / "out")
    with pytest.raises(BackfillError, match="holds no features"):
        read_features(FEATURES, tmp_path / "out")


def test_hashes_are_what_they_always_were():
    frame = pl.DataFrame(
        {
            "who": np.array([0, -1, 2**63 - 1], np.int64),
            "place": ["", "é", "x" * 300],
            "flag": [True, False, True],
        }
    )
    assert [hash_ % 997 for hash_ in key_hash(frame, ["who"]).tolist()] == [427, 535, 74]
    assert [hash_ % 997 for hash_ in key_hash(frame, ["place"]).tolist()] == [427, 429, 645]
    assert [hash_ % 997 for hash_ in key_hash(frame, ["place", "who", "flag"]).tolist()] == [
        627,
        65,
        667,
    ]
    long = pl.DataFrame({"place": [f"shop {i % 999}" for i in range(70_000)]})
    assert (key_hash(long, ["place"])[-999:] == key_hash(long[-999:], ["place"])).all()


DRIVER = """
import os, signal, sys
from pytest import MonkeyPatch
from division import FEATURES, divide
from mlkit.backfill import backfill
from mlkit.etl import Logs
folder, stage, share = sys.argv[1:]
divide(MonkeyPatch(), 3, 331)
def die(done, total, text):
    if text == stage and done >= float(share)*total: os.kill(os.getpid(), signal.SIGKILL)
backfill(FEATURES, Logs(folder + "/workspace"), folder + "/out", on_progress=die)
"""


@pytest.mark.parametrize(
    "stage, share", [("reading the log", 0.5), ("windows", 0.5), ("writing features", 1)]
)
def test_a_killed_driver_leaves_nothing_visible(logs, tmp_path, monkeypatch, stage, share):
    logged(world(), logs)
    divide(monkeypatch, 3, 331)
    dead = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path), stage, str(share)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    with pytest.raises(BackfillError, match="holds no features"):
        read_features(FEATURES, tmp_path / "out")
    did = backfill(FEATURES, logs, tmp_path / "out")
    assert did.resumed > 0 and did.version == 0
    assert_backfilled(tmp_path / "out", logs)
    assert not list((tmp_path / "out" / "_scratch").glob("*"))


def test_a_killed_repeat_leaves_the_earlier_table(logs, tmp_path, monkeypatch):
    first = world()
    logged(first, logs)
    divide(monkeypatch, 3, 331)
    backfill(FEATURES, logs, tmp_path / "out")
    append(logs[Pay], first[Pay][:5].with_columns(event_id=pl.col("event_id") + "/again"), "late")
    subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path), "writing features", "1"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
    )
    assert_backfilled(tmp_path / "out", logs, pay=3)
    assert backfill(FEATURES, logs, tmp_path / "out").version == 1
    assert_backfilled(tmp_path / "out", logs)


def test_scratch_of_another_job_is_not_taken(logs, tmp_path, monkeypatch):
    logged(world(500), logs)
    divide(monkeypatch, 3, 331)
    seen = []
    monkeypatch.setattr(module, "_remove", seen.append)
    for versions in ({}, {"pay": 1}, {}):
        seen.append(backfill(FEATURES, logs, tmp_path / "out", versions=versions).resumed)
    assert seen[0] == seen[4] != seen[2] and seen[1] == seen[3] == 0 < seen[5]
    assert len(done(module.Job(FEATURES, seen[0], "", ()))) == seen[5]
    assert_backfilled(tmp_path / "out", logs)


class Transfer(Stream):
    sender = Key()
    receiver = Key()
    amount = Fixed(places=2, high=1e6)


class Sender(FeatureView, key="sender"):
    "What the sender has received, is among what others sent."

    got = Transfer.sum("amount", over=["1d", "7d"], by="receiver")
    large = Transfer.count(over=["7d"], by="receiver", where=dict(amount=at_least(5000)))
    of = Transfer.distinct("sender", over=["7d"], by="receiver")
    sent = Transfer.count(over=["7d"])
    told = Outcome.count(over=["7d"], by="who")


class Back(FeatureView, key=("sender", "receiver")):
    n = Transfer.count(over=["7d"], by=("receiver", "sender"))


@pytest.mark.parametrize("budget", [2**40, 300_000])
def test_requests_under_another_name(logs, tmp_path, monkeypatch, budget):
    "An entity that is looked up among the requests by another field than it asks with."
    rng, n = np.random.default_rng(8), 2000
    hours = np.sort(rng.integers(0, 90 * 24, n))
    moved = pl.DataFrame(
        dict(
            event_id=[f"t{i}" for i in range(n)],
            event_time=[DAWN + timedelta(hours=int(h)) for h in hours],
            sender=rng.integers(-3, 20, n),
            receiver=rng.integers(-3, 20, n),
            amount=rng.integers(0, 10**6, n),
        ),
        schema=Transfer.schema(),
    )
    told, features = world()[Outcome], FeatureSet(Transfer, [Sender, Back])
    append(logs[Transfer], moved, "moved")
    append(logs[Outcome], told, "told")
    divide(monkeypatch, 3, 331, budget)
    did = backfill(features, logs, tmp_path / "out")
    assert set(did.buckets) == {
        "sender",
        "sender as receiver",
        "sender as who",
        "sender+receiver as receiver+sender",
    } and (did.units > 4 * 3) == (budget < 2**40)
    expected = offline(features, moved, {Transfer: moved, Outcome: told}).sort("event_id")
    assert expected["back_n_7d"].max() > 1 and expected["sender_told_7d"].max() > 0
    assert_same_bits(
        read_features(features, tmp_path / "out").collect().sort("event_id").drop("event_time"),
        expected,
    )
