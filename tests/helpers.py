"A small use case with every kind of aggregate, generated events, and comparison bit for bit."

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import strategies as st

from mlkit import chunks, nodes
from mlkit.events import Stream, at_least, between
from mlkit.features import FeatureSet, FeatureView
from mlkit.fields import Category, Fixed, Flag, Key, Text
from mlkit.frames import offline
from mlkit.lmdbstate import LmdbStore
from mlkit.online import apply
from mlkit.requests import Online

UTC = timezone.utc
# a Friday evening: streams cross midnight and the weekend
DAWN = datetime(2025, 3, 28, 21, tzinfo=UTC)
OVER = ["1h", "1d", "7d"]


class Pay(Stream):
    who = Key()
    place = Text()
    amount = Fixed(places=2, high=1_000_000, unit="EUR")
    online = Flag()
    kind = Category(values=("card", "cash"))
    tip = Fixed(places=2, low=-1000, high=1000, optional=True)
    shade = Category(values=("red", "green", "blue"), optional=True)


class Outcome(Stream):
    pay_id = Text()
    who = Key()
    place = Text()
    bad = Flag()
    source = Category(values=("outcome", "review"))


class Transfer(Stream):
    "Money from one to another: an entity has two names."

    sender = Key()
    receiver = Key()
    amount = Fixed(places=2, high=1e6)


class Who(FeatureView, key="who"):
    n = Pay.count(over=OVER)
    spend = Pay.mean("amount", over=OVER)
    total = Pay.sum("amount", over=OVER)
    gap = Pay.since_last(over=OVER)
    cards = Pay.count(over=["1d"], where=dict(kind="card"))
    cash = Pay.mean("amount", over=["7d"], where=dict(kind="cash", online=False))
    spread = Pay.std("amount", over=OVER)
    least = Pay.min("amount", over=OVER)
    most = Pay.max("amount", over=OVER)
    opening = Pay.first("amount", over=OVER)
    latest = Pay.last("amount", over=OVER)
    places = Pay.distinct("place", over=OVER)
    shades = Pay.distinct("shade", over=["1d", "7d"])
    how = Pay.last("kind", over=["7d"])
    began = Pay.first("online", over=["1d"])
    web = Pay.last("online", over=["7d"], empty=False)
    hue = Pay.last("shade", over=["7d"], empty="blue")
    tips = Pay.mean("tip", over=["1d"])
    tip_spread = Pay.std("tip", over=["7d"], empty=-1)
    tip_least = Pay.min("tip", over=["7d"])
    carded = Pay.share(dict(kind="card"), over=OVER)
    dear = Pay.share(
        dict(amount=at_least(500_000)), over=["7d"], where=dict(kind=["card", "cash"]), empty=0
    )
    middling = Pay.count(over=["7d"], where=dict(amount=between(0.01, 1_000_000)))
    shadeless = Pay.count(over=["7d"], where=dict(shade=[None, "red"]))


class Place(FeatureView, key="place"):
    n = Pay.count(over=["1d"])
    web = Pay.mean("online", over=OVER)
    seen = Outcome.count(over=OVER, where=dict(source="outcome"))
    risk = Outcome.mean("bad", over=OVER, where=dict(source="outcome"), empty=0.0)
    known = Outcome.since_last(over=["7d"], empty=-1)
    people = Pay.distinct("who", over=OVER)
    victims = Outcome.distinct("who", over=["7d"], where=dict(bad=True))


class Pair(FeatureView, key=("who", "place")):
    n = Pay.count(over=["7d"])
    bad = Outcome.sum("bad", over=["1d", "7d"])
    share = Outcome.mean("bad", over=["7d"])
    turned = Outcome.last("bad", over=["7d"])
    said = Outcome.first("source", over=["7d"])
    amounts = Pay.distinct("amount", over=["1d"])


class Row(FeatureView):
    amount = pl.col("amount")
    weekend = pl.col("event_time").dt.weekday() >= 6
    third = pl.col("amount") / 3
    pace = pl.col("who_n_1h") / 7.3 - pl.col("who_n_7d") * 0.1
    usual = pl.col("amount") / pl.col("who_spend_7d")
    size = (pl.col("amount") + 1).log() / 2.3
    late = pl.col("who_gap_7d").fill_null(-1.0) / 86400
    again = pl.col("third") / 7 + pl.col("usual")
    of_all = pl.col("amount") / pl.col("who_total_1h")
    clock = pl.col("event_time").dt.convert_time_zone("Europe/Berlin").dt.hour() >= 3
    shade = pl.col("shade")
    same = pl.col("who_how_7d") == pl.col("kind")
    mood = (
        pl.when(pl.col("amount") > 1000)
        .then(pl.lit("high"))
        .otherwise(pl.lit("low"))
        .cast(pl.Enum(["low", "high"]))
    )


FEATURES = FeatureSet(Pay, [Who, Place, Pair, Row])


def view(members: dict[str, Any], key: Any = "who", name: str = "Who") -> type[FeatureView]:
    return type(name, (FeatureView,), members, key=key)


def hourly(stream: type[Stream], n: int, **columns: Callable[[int], Any]) -> pl.DataFrame:
    "Stored events an hour apart; a column is a function of the event's number."
    rows = []
    for i in range(n):
        row = dict(event_id=f"p{i:04}", event_time=DAWN + timedelta(hours=i))
        rows.append(row | {name: column(i) for name, column in columns.items()})
    return pl.DataFrame(rows, schema=stream.schema())


PLAIN = dict(
    who=lambda i: 1,
    place=lambda i: "a",
    amount=lambda i: i,
    online=lambda i: True,
    kind=lambda i: "card",
)


def pays(n: int, **columns: Callable[[int], Any]) -> pl.DataFrame:
    "Payments an hour apart, all alike but for their amounts and the columns that are given."
    return hourly(Pay, n, **(PLAIN | columns))


# %% Generated streams

STEPS = [
    timedelta(0),
    timedelta(microseconds=1),
    timedelta(seconds=7),
    timedelta(minutes=20),
    timedelta(hours=1),
    timedelta(hours=1, microseconds=-1),
    timedelta(hours=23),
    timedelta(days=1),
    timedelta(days=6),
    timedelta(days=7),
    timedelta(days=7, microseconds=1),
    timedelta(days=40),
]
AMOUNTS = st.one_of(st.sampled_from([0, 1, 100_000_000]), st.integers(0, 100_000_000))


@st.composite
def some_pays(draw: Any, most: int = 24) -> pl.DataFrame:
    "Stored payments in order of time, with ties, and windows hit exactly and by a microsecond."
    steps = draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=most))
    at, rows = DAWN, []
    for i, step in enumerate(steps):
        at += step
        rows.append(
            dict(
                event_id=f"p{i:03}",
                event_time=at,
                who=draw(st.sampled_from([1, 2, -9])),
                place=draw(st.sampled_from(["a", "ab", "é"])),
                amount=draw(AMOUNTS),
                online=draw(st.booleans()),
                kind=draw(st.sampled_from(["card", "cash"])),
                tip=draw(
                    st.one_of(
                        st.none(), st.sampled_from([-100_000, 0, 100_000]), st.integers(-500, 500)
                    )
                ),
                shade=draw(st.sampled_from([None, "red", "green", "blue"])),
            )
        )
    return pl.DataFrame(rows, schema=Pay.schema())


@st.composite
def outcomes(draw: Any, payments: pl.DataFrame) -> pl.DataFrame:
    "Outcomes of some payments: known at once, much later, or at the moment of another payment."
    times, rows = payments["event_time"].to_list(), []
    for p in payments.iter_rows(named=True):
        for source in draw(
            st.sampled_from([(), ("outcome",), ("outcome",), ("review", "outcome")])
        ):
            known = draw(
                st.one_of(
                    st.sampled_from(times),
                    st.sampled_from(STEPS).map(lambda step, at=p["event_time"]: at + step),
                )
            )
            rows.append(
                dict(
                    event_id=f"{p['event_id']}/{source}",
                    event_time=max(known, p["event_time"]),
                    pay_id=p["event_id"],
                    who=p["who"],
                    place=p["place"],
                    bad=draw(st.booleans()),
                    source=source,
                )
            )
    return pl.DataFrame(rows, schema=Outcome.schema())


@st.composite
def worlds(draw: Any, most: int = 24) -> dict[type[Stream], pl.DataFrame]:
    "Payments and what became known of them."
    payments = draw(some_pays(most))
    return {Pay: payments, Outcome: draw(outcomes(payments))}


def numbered(frame: pl.DataFrame) -> pl.DataFrame:
    "With `seq` in the order of the rows, as the log gives it to rows in order of arrival."
    return frame.with_columns(seq=pl.int_range(pl.len(), dtype=pl.Int64))


def merged(world: dict[type[Stream], pl.DataFrame]) -> list[tuple[type[Stream], pl.DataFrame]]:
    "All events of all streams, one row each, in order of time."
    rows = [
        (at, stream, frame[i : i + 1])
        for stream, frame in world.items()
        for i, at in enumerate(frame["event_time"].to_list())
    ]
    return [(stream, row) for _, stream, row in sorted(rows, key=lambda r: r[0])]


# %% Comparison


@contextmanager
def empty_state(features: FeatureSet = FEATURES) -> Iterator[LmdbStore]:
    "An online state that holds nothing."
    with (
        TemporaryDirectory() as folder,
        LmdbStore(features, folder, write=True, create=True) as store,
    ):
        yield store


@contextmanager
def chunks_of(size: int) -> Iterator[None]:
    "Chunks and nodes so small that a few events fill several."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK", size)
        patch.setattr(nodes, "FAN", max(2, size))
        yield


def ask(online: Online, store: LmdbStore, request: dict[str, Any]) -> dict[str, Any]:
    "The features of one request, as the service computes them."
    with store.reader() as reader:
        return online(request, reader)


PYTHON = {pl.Int64: int, pl.Float64: float, pl.Boolean: bool}


def as_frame(answers: list[dict[str, Any]], features: FeatureSet = FEATURES) -> pl.DataFrame:
    "Online answers as a frame; each value must have its feature's own Python type."
    for f in features.features:
        wanted = str if f.words else PYTHON.get(f.dtype)
        for answer in answers:
            value = answer[f.name]
            if wanted and value is not None:
                assert type(value) is wanted, f.name
    schema = {f.name: f.dtype for f in features.features}
    return pl.DataFrame(answers, schema=schema, orient="row")


def online_frame(features: FeatureSet, requests: pl.DataFrame, store: Any) -> pl.DataFrame:
    "The features of each request, as the service computes them from a state."
    online = Online(features)
    return as_frame([ask(online, store, r) for r in requests.to_dicts()], features)


def assert_state_agrees(features: FeatureSet, rows: pl.DataFrame) -> None:
    "A state that holds all events answers each of them as the offline frame has it."
    stream = features.request
    expected = offline(features, rows, {stream: rows}).drop("event_id")
    with empty_state(features) as store:
        apply(store, stream, numbered(rows))
        assert_same_bits(online_frame(features, rows, store), expected)


def bits(column: pl.Series) -> np.ndarray:
    "The nulls, then the values as integers: equal exactly when the columns are, bit for bit."
    if column.dtype == pl.Enum:
        column = column.to_physical()
    if column.dtype == pl.String:
        column = column.hash()
    nothing: Any = False if column.dtype == pl.Boolean else 0
    values = column.fill_null(nothing).to_numpy()
    whole = values.view(np.int64) if values.dtype == np.float64 else values.astype(np.int64)
    return np.stack([column.is_null().to_numpy().astype(np.int64), whole])


def assert_same_bits(got: pl.DataFrame, expected: pl.DataFrame) -> None:
    "Equality, not nearness; the message shows the first rows that differ."
    assert got.columns == expected.columns
    assert got.height == expected.height > 0
    for name in got.columns:
        assert got.schema[name] == expected.schema[name], name
        differ = (bits(got[name]) != bits(expected[name])).any(axis=0)
        if differ.any():
            rows = pl.Series(differ)
            ours, theirs = (f[name].filter(rows).head(3).to_list() for f in (got, expected))
            count = f"{differ.sum()} of {len(differ)} rows"
            raise AssertionError(f"{name} differs in {count}: {ours} is not {theirs}")


def folder_bytes(folder: Path) -> dict[str, bytes]:
    "Every file below a folder and what is in it; lock files hold nothing."
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix != ".lock"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}
