"Invariant 1: however events came into the state, it answers as all of history does."

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest
from helpers import (
    DAWN,
    FEATURES,
    UTC,
    Outcome,
    Pay,
    assert_same_bits,
    chunks_of,
    empty_state,
    hourly,
    numbered,
    online_frame,
    pays,
    worlds,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit import chunks
from mlkit.etl import Logs
from mlkit.eventlog import append, scan
from mlkit.events import Stream
from mlkit.features import FeatureSet, FeatureView
from mlkit.fields import _EARLIEST, Key, Text
from mlkit.frames import offline
from mlkit.lmdbstate import LmdbStore, load_lmdb
from mlkit.online import apply
from mlkit.usecases import fraud


def shuffled(frame: pl.DataFrame, random: Any) -> pl.DataFrame:
    return frame.sample(fraction=1, shuffle=True, seed=random.randrange(2**32))


def expected(features: FeatureSet, rows: pl.DataFrame, world: Any = None) -> pl.DataFrame:
    "The features of all rows as history has them."
    world = world or {features.request: rows}
    return offline(features, rows, world).drop("event_id")


@settings(max_examples=40)
@given(worlds(most=40), st.randoms(use_true_random=False), st.sampled_from([2, 3, 128]))
def test_late_and_repeated_events_end_in_the_same_state(world, random, size):
    "Whatever the order of arrival, and however often an event comes."
    with chunks_of(size), empty_state() as store:
        for stream, frame in world.items():
            arrived = numbered(shuffled(frame, random))
            for i in range(arrived.height):
                assert apply(store, stream, arrived[i : i + 1]) == 1
                repeated = random.randrange(i + 1)
                assert apply(store, stream, arrived[repeated : repeated + 1]) == 0
            assert apply(store, stream, arrived) == 0
        answers = online_frame(FEATURES, world[Pay], store)
    assert_same_bits(answers, expected(FEATURES, world[Pay], world))


@settings(max_examples=12)
@given(worlds(most=40), st.randoms(use_true_random=False))
def test_bulk_load_equals_one_by_one(tmp_path_factory, world, random):
    "A state that was loaded answers like one that was kept current, and goes on from there."
    folder = tmp_path_factory.mktemp("load")
    logs, state, requests = Logs(folder / "workspace"), folder / "state", world[Pay]
    with chunks_of(3), empty_state() as kept:
        for stream, frame in world.items():
            half = max(1, frame.height // 2)
            for n, part in enumerate(shuffled(frame, random).iter_slices(half)):
                landed = append(logs[stream], part, f"part {n}").events
                if n == 1:
                    load_lmdb(FEATURES, state, logs)
                for i in range(landed.height):
                    apply(kept, stream, landed[i : i + 1])
        one_by_one = online_frame(FEATURES, requests, kept)
        if state.exists():
            assert_same_bits(brought_up(state, logs, requests), one_by_one)
        position = load_lmdb(FEATURES, state, logs)
        with LmdbStore(FEATURES, state) as fresh:
            assert_same_bits(online_frame(FEATURES, requests, fresh), one_by_one)
        with kept.reader() as reader:
            assert reader.position() == position


def brought_up(state: Any, logs: Logs, requests: pl.DataFrame) -> pl.DataFrame:
    "Answers of a state that was loaded from a part of the log and gets all of it again."
    with LmdbStore(FEATURES, state, write=True) as store:
        for stream in FEATURES.streams:
            apply(store, stream, scan(logs[stream]).collect())
        return online_frame(FEATURES, requests, store)


def test_busy_key_spans_many_chunks():
    "A key with far more events than a chunk holds, in order, backwards, and many at one moment."

    class Terminal(FeatureView, key="terminal_id"):
        n = fraud.Transaction.count(over=["1h", "30d"])
        spend = fraud.Transaction.mean("amount", over=["1h", "30d"])

    features = FeatureSet(fraud.Transaction, [Terminal])
    at_once, n = 2 * chunks.CHUNK, 5 * chunks.CHUNK
    start = datetime(2025, 1, 1, tzinfo=UTC)
    seconds = [0] * at_once + list(range(1, n - at_once + 1))
    rows = pl.DataFrame(
        dict(
            event_id=[f"p{i}" for i in range(n)],
            event_time=[start + timedelta(seconds=s) for s in seconds],
            customer_id=[1] * n,
            terminal_id=[7] * n,
            amount=list(range(n)),
        ),
        schema=fraud.Transaction.schema(),
    )
    mixed = rows[1::2].vstack(rows[::2].reverse())
    for arrived in (rows, rows.reverse(), mixed):
        with empty_state(features) as store:
            for part in numbered(arrived).iter_slices(100):
                apply(store, fraud.Transaction, part)
            answers = online_frame(features, rows, store)
        assert_same_bits(answers, expected(features, rows))


def test_entities_are_told_apart():
    "Texts that differ in where one ends, texts that begin alike, and numbers of either sign."

    class Call(Stream):
        first = Text()
        last = Text()
        number = Key()

    keys = {"Name": ("first", "last"), "Number": "number", "First": "first"}
    members = {"n": Call.count(over=["1d"])}
    views = [type(name, (FeatureView,), members, key=key) for name, key in keys.items()]
    features = FeatureSet(Call, views)
    texts = ["a", "b", "c", "ab", "bc", "abc", "aé", "a\x00", "\x00"]
    numbers = [-1, 0, 1, 255, 256, -(2**63), 2**63 - 1]
    rows = hourly(
        Call,
        300,
        first=lambda i: texts[i % 9],
        last=lambda i: texts[i // 9 % 9],
        number=lambda i: numbers[i % 7],
    )
    seconds = pl.lit(DAWN) + pl.duration(seconds=pl.int_range(pl.len()))
    rows = rows.with_columns(event_time=seconds.cast(rows.schema["event_time"]))
    with empty_state(features) as store:
        apply(store, Call, numbered(rows))
        assert_same_bits(online_frame(features, rows, store), expected(features, rows))


def test_position_never_goes_back():
    "An event that comes late, or again, does not make the state seem older than it is."
    rows = numbered(pays(3))
    with empty_state() as store:
        apply(store, Pay, rows)
        with store.reader() as reader:
            newest = reader.position()
        apply(store, Pay, rows[:1])
        with store.reader() as reader:
            assert reader.position() == newest
    assert newest["seq"] == {"pay": 2}


@pytest.mark.parametrize("start", [DAWN, _EARLIEST], ids=["today", "1970"])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_windows_end_where_chunks_begin(size, start):
    "Every window's edge meets an event on the hour, and many the first of a chunk."
    moment = lambda hour: start + timedelta(hours=hour)
    payments = pays(
        60,
        event_time=lambda i: moment(i - i // 7),  # some of them two at once
        amount=lambda i: 2**i % 999,
        online=lambda i: i % 3 == 0,
    )
    outcomes = hourly(
        Outcome,
        60,
        event_time=moment,
        pay_id=lambda i: "p",
        who=lambda i: 1,
        place=lambda i: "a",
        bad=lambda i: i % 2 == 0,
        source=lambda i: "outcome",
    )
    world = {Pay: payments, Outcome: outcomes}
    for backwards in (False, True):
        with chunks_of(size), empty_state() as store:
            for stream, frame in world.items():
                arrived = frame.reverse() if backwards else frame
                for part in numbered(arrived).iter_slices(7):
                    apply(store, stream, part)
            answers = online_frame(FEATURES, payments, store)
        assert_same_bits(answers, expected(FEATURES, payments, world))
