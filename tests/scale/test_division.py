"A backfill equals the offline frame bit for bit, however it is divided."

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from division import DAWN, FEATURES, OVER, Outcome, Pay, assert_backfilled, divide, logged, world
from helpers import Who, assert_same_bits, worlds
from hypothesis import given, settings

from mlkit.backfill import BackfillError, backfill, read_features
from mlkit.etl import Logs
from mlkit.eventlog import append
from mlkit.events import Stream, at_least
from mlkit.executors import Local
from mlkit.features import FeatureSet, FeatureView
from mlkit.fields import Fixed, Key
from mlkit.frames import offline


@pytest.mark.parametrize("buckets", [1, 3, 7])
@pytest.mark.parametrize("rows", [10**9, 331])
def test_any_division_gives_the_same_bits(logs, tmp_path, monkeypatch, buckets, rows):
    logged(world(), logs)
    divide(monkeypatch, buckets, rows)
    did = backfill(FEATURES, logs, tmp_path / "out")
    assert did.rows == 2000
    assert set(did.buckets.values()) == {buckets}
    assert did.blocks == (1 if rows > 2000 else 7)
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
    mostly = pl.when(pl.int_range(pl.len()) % 10 > 0).then(4711).otherwise("who")
    busy[Pay] = busy[Pay].with_columns(who=mostly)
    logged(busy, logs)
    divide(monkeypatch, 3, 100, 100_000)
    message = r"who = 4711 has [\d,]+ of [\d,]+ events .* --memory \d+"
    with pytest.raises(BackfillError, match=message):
        backfill(FEATURES, logs, tmp_path / "out")
    with pytest.raises(BackfillError, match="holds no features"):
        read_features(FEATURES, tmp_path / "out")


def test_processes(logs, tmp_path, monkeypatch):
    logged(world(), logs)
    divide(monkeypatch, 2, 700)
    backfill(FEATURES, logs, tmp_path / "out", executor=Local(2))
    assert_backfilled(tmp_path / "out", logs)


class Plain(FeatureView):
    third = pl.col("amount") / 3


class Wide(FeatureView):
    weekday = pl.col("event_time").dt.weekday().cast(pl.UInt32)


class Elsewhere(FeatureView, key="who"):
    bad = Outcome.sum("bad", over=OVER)


@pytest.mark.parametrize("views", [[Plain, Wide], [Who], [Elsewhere]])
def test_sets_without_windows_or_without_rows(logs, tmp_path, views):
    logged(world(300), logs)
    features = FeatureSet(Pay, views)
    backfill(features, logs, tmp_path / "out")
    assert_backfilled(tmp_path / "out", logs, features)
    with pytest.raises(BackfillError, match="Give another --out"):
        backfill(FEATURES, logs, tmp_path / "out")


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


ENTITIES = {"sender", "sender as receiver", "sender as who", "sender+receiver as receiver+sender"}


def transfers(n: int = 2000) -> pl.DataFrame:
    "Three months of transfers among twenty-odd people."
    rng = np.random.default_rng(8)
    hours = np.sort(rng.integers(0, 90 * 24, n))
    return pl.DataFrame(
        dict(
            event_id=[f"t{i}" for i in range(n)],
            event_time=[DAWN + timedelta(hours=int(h)) for h in hours],
            sender=rng.integers(-3, 20, n),
            receiver=rng.integers(-3, 20, n),
            amount=rng.integers(0, 10**6, n),
        ),
        schema=Transfer.schema(),
    )


@pytest.mark.parametrize("budget", [2**40, 300_000])
def test_requests_under_another_name(logs, tmp_path, monkeypatch, budget):
    "An entity that is looked up among the requests by another field than it asks with."
    moved, told = transfers(), world()[Outcome]
    features = FeatureSet(Transfer, [Sender, Back])
    append(logs[Transfer], moved, "moved")
    append(logs[Outcome], told, "told")
    divide(monkeypatch, 3, 331, budget)
    did = backfill(features, logs, tmp_path / "out")
    assert set(did.buckets) == ENTITIES
    assert (did.units > 4 * 3) == (budget < 2**40)

    expected = offline(features, moved, {Transfer: moved, Outcome: told}).sort("event_id")
    assert expected["back_n_7d"].max() > 1
    assert expected["sender_told_7d"].max() > 0
    found = read_features(features, tmp_path / "out").collect().sort("event_id")
    assert_same_bits(found.drop("event_time"), expected)
