"Invariant 1: a feature has one definition; offline and online give the same bits."

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
    as_frame,
    ask,
    assert_same_bits,
    empty_state,
    merged,
    numbered,
    worlds,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlkit import chunks, nodes
from mlkit.etl import Batch, Logs, land
from mlkit.eventlog import scan
from mlkit.events import EARLIEST, Fixed, Key, Stream, Text, accept
from mlkit.expressions import row_wise
from mlkit.features import FeatureSet, FeatureView
from mlkit.formats import to_events
from mlkit.frames import offline
from mlkit.lmdbstate import LmdbStore, load_lmdb
from mlkit.online import apply
from mlkit.requests import Online
from mlkit.usecases import fraud, simulator


def raw_rows(stream: type[Stream], events: pl.DataFrame) -> pl.DataFrame:
    "Stored events the way a client or a source gives them: decimals as numbers, times as text."
    shown = [
        (pl.col(n) / f.factor).alias(n) for n, f in stream.fields.items() if isinstance(f, Fixed)
    ]
    return events.with_columns(
        *shown, event_time=pl.col("event_time").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    )


def replay(
    features: FeatureSet, world: dict[type[Stream], pl.DataFrame], logs: Logs, store: LmdbStore
) -> tuple[list[str], list[dict[str, Any]]]:
    "Accept, compute and apply every event as it comes, each in the state that the ones before it left; ids and features of the requests."
    online, ids, answers = Online(features), [], []
    weeks = {
        stream: dict(
            frame.with_columns(week=pl.col("event_time").dt.truncate("1w")).partition_by(
                "week", as_dict=True, include_key=False
            )
        )
        for stream, frame in world.items()
    }
    for week in sorted(set().union(*weeks.values())):
        raw = {stream: raw_rows(stream, of[week]) for stream, of in weeks.items() if week in of}
        requests = {r["event_id"]: r for r in raw.get(features.request, pl.DataFrame()).to_dicts()}
        # a commit an event would only be slower
        landed = land(logs, Batch.checked(f"week of {week[0]}", raw)).events
        for stream, event in merged(landed):
            if stream is features.request:
                request = accept(stream, requests[event["event_id"][0]])
                ids.append(request["event_id"])
                answers.append(ask(online, store, request))
            assert apply(store, stream, event) == 1
    return ids, answers


def assert_parity(
    features: FeatureSet, world: dict[type[Stream], pl.DataFrame], logs: Logs
) -> pl.DataFrame:
    "Replay a world; what was answered on the way is what history says afterwards."
    with empty_state(features) as store:
        ids, answers = replay(features, world, logs, store)
    history = {stream: scan(logs[stream]).collect() for stream in world}
    requests = pl.DataFrame({"event_id": ids}).join(
        history[features.request], on="event_id", how="left", maintain_order="left"
    )
    expected = offline(features, requests, history)
    assert_same_bits(as_frame(answers, features), expected.drop("event_id"))
    return expected


def test_replay_of_simulated_payments(logs):
    "Several thousand simulated payments and their outcomes, one by one."
    raw = simulator.simulate(customers=45, terminals=40, days=40, seed=4)
    world, rejected = to_events(fraud.SIMULATOR, raw.drop("scenario"))
    assert world[fraud.Transaction].height > 3000 and not any(r.height for r in rejected.values())
    frame = assert_parity(fraud.features, world, logs)
    assert (frame["terminal_risk_30d"] > 0).sum() > 100 and frame["customer_n_30d"].max() > 50


def test_replay_of_handbook_payments(logs, handbook):
    "The payments of a few customers and a few terminals over half a year, with every label."
    rows = pl.scan_parquet(handbook)
    busy = (
        rows.filter(pl.col("TX_FRAUD") == 1)
        .group_by("TERMINAL_ID")
        .len()
        .sort("len", "TERMINAL_ID", descending=True)
        .head(12)
        .collect()["TERMINAL_ID"]
    )
    chosen = rows.filter(
        (pl.col("CUSTOMER_ID") < 8) | pl.col("TERMINAL_ID").is_in(busy.implode())
    ).collect()
    world, rejected = to_events(fraud.HANDBOOK, chosen)
    assert chosen.height > 3000 and not any(r.height for r in rejected.values())
    frame = assert_parity(fraud.features, world, logs)
    assert (frame["terminal_risk_7d"] > 0.5).sum() > 100


@settings(max_examples=60)
@given(worlds(), st.sampled_from([2, 3, 128]))
def test_replay_of_generated_streams(world, chunk):
    "Ties, edges of windows, extreme amounts, long silence; small chunks, so that the state splits them."
    online, requests, answers, seen = Online(FEATURES), [], [], dict.fromkeys(world, 0)
    with pytest.MonkeyPatch.context() as patch, empty_state() as store:
        patch.setattr(chunks, "CHUNK", chunk)
        patch.setattr(nodes, "FAN", max(2, chunk))
        for stream, row in merged(world):
            if stream is Pay:
                requests.append(row)
                answers.append(ask(online, store, row.row(0, named=True)))
            apply(store, stream, row.with_columns(seq=pl.lit(seen[stream], pl.Int64)))
            seen[stream] += 1
    assert_same_bits(
        as_frame(answers), offline(FEATURES, pl.concat(requests), world).drop("event_id")
    )


@settings(max_examples=40)
@given(worlds(most=40), st.randoms(use_true_random=False), st.sampled_from([2, 3, 128]))
def test_late_and_repeated_events_end_in_the_same_state(world, random, chunk):
    "Whatever the order of arrival, and however often an event comes: afterwards every moment of the past looks the same."
    arrived = {
        stream: numbered(frame.sample(fraction=1, shuffle=True, seed=random.randrange(2**32)))
        for stream, frame in world.items()
    }
    with pytest.MonkeyPatch.context() as patch, empty_state() as store:
        patch.setattr(chunks, "CHUNK", chunk)
        patch.setattr(nodes, "FAN", max(2, chunk))
        for stream, frame in arrived.items():
            for i in range(frame.height):
                assert apply(store, stream, frame[i : i + 1]) == 1
                again = random.randrange(i + 1)
                assert apply(store, stream, frame[again : again + 1]) == 0
            assert apply(store, stream, frame) == 0
        answers = [ask(Online(FEATURES), store, r) for r in world[Pay].to_dicts()]
    assert_same_bits(as_frame(answers), offline(FEATURES, world[Pay], world).drop("event_id"))


@settings(max_examples=12)
@given(worlds(most=40), st.randoms(use_true_random=False))
def test_bulk_load_equals_one_by_one(tmp_path_factory, world, random):
    "A state loaded from the log answers like one that was kept current, late events included; and goes on from there."
    folder = tmp_path_factory.mktemp("load")
    logs, online = Logs(folder / "workspace"), Online(FEATURES)
    with pytest.MonkeyPatch.context() as patch, empty_state() as kept:
        patch.setattr(chunks, "CHUNK", 3)
        patch.setattr(nodes, "FAN", 2)
        for stream, frame in world.items():
            shuffled = frame.sample(fraction=1, shuffle=True, seed=random.randrange(2**32))
            for n, part in enumerate(shuffled.iter_slices(max(1, frame.height // 2))):
                batch = Batch.checked(f"part {n}", {stream: raw_rows(stream, part)})
                landed = land(logs, batch).events[stream]
                if n == 1:
                    load_lmdb(FEATURES, folder / "state", logs)
                for i in range(landed.height):
                    apply(kept, stream, landed[i : i + 1])
        with (
            LmdbStore(FEATURES, folder / "state", write=True)
            if (folder / "state").exists()
            else empty_state() as loaded
        ):
            for stream in world:
                apply(loaded, stream, scan(logs[stream]).collect())
            brought = as_frame([ask(online, loaded, r) for r in world[Pay].to_dicts()])
        position = load_lmdb(FEATURES, folder / "state", logs)
        with LmdbStore(FEATURES, folder / "state") as fresh:
            bulk = as_frame([ask(online, fresh, r) for r in world[Pay].to_dicts()])
        one_by_one = as_frame([ask(online, kept, r) for r in world[Pay].to_dicts()])
        with kept.reader() as reader:
            assert reader.position() == position
    assert_same_bits(bulk, one_by_one)
    assert_same_bits(brought, one_by_one)


def test_busy_key_spans_many_chunks():
    "A key with far more events than a chunk holds, in order, backwards and all at one moment."

    class Terminal(FeatureView, key="terminal_id"):
        n = fraud.Transaction.count(over=["1h", "30d"])
        spend = fraud.Transaction.mean("amount", over=["1h", "30d"])

    features = FeatureSet(fraud.Transaction, [Terminal])
    n, start = 5 * chunks.CHUNK, int(datetime(2025, 1, 1, tzinfo=UTC).timestamp())
    second = [0] * (2 * chunks.CHUNK) + list(range(1, n - 2 * chunks.CHUNK + 1))
    times = pl.Series([(start + s) * 1_000_000 for s in second]).cast(pl.Datetime("us", "UTC"))
    rows = pl.DataFrame(
        dict(
            event_id=[f"p{i}" for i in range(n)],
            event_time=times,
            customer_id=[1] * n,
            terminal_id=[7] * n,
            amount=list(range(n)),
        )
    )
    expected = offline(features, rows, {fraud.Transaction: rows}).drop("event_id")
    for arrived in (rows, rows.reverse(), rows[1::2].vstack(rows[::2].reverse())):
        with empty_state(features) as store:
            for part in numbered(arrived).iter_slices(100):
                apply(store, fraud.Transaction, part)
            assert_same_bits(
                as_frame([ask(Online(features), store, r) for r in rows.to_dicts()], features),
                expected,
            )


def test_entities_are_told_apart():
    "Keys of two texts that only differ in where the one ends, texts that begin alike, and numbers of either sign."

    class Call(Stream):
        first = Text()
        last = Text()
        number = Key()

    views = [
        type("Name", (FeatureView,), {"n": Call.count(over=["1d"])}, key=("first", "last")),
        type("Number", (FeatureView,), {"n": Call.count(over=["1d"])}, key="number"),
        type("First", (FeatureView,), {"n": Call.count(over=["1d"])}, key="first"),
    ]
    features, texts = (
        FeatureSet(Call, views),
        ["a", "b", "c", "ab", "bc", "abc", "aé", "a\x00", "\x00"],
    )
    rows = pl.DataFrame(
        [
            dict(
                event_id=f"c{i}",
                event_time=DAWN + timedelta(seconds=i),
                first=texts[i % 9],
                last=texts[i // 9 % 9],
                number=[-1, 0, 1, 255, 256, -(2**63), 2**63 - 1][i % 7],
            )
            for i in range(300)
        ],
        schema=Call.schema(),
    )
    with empty_state(features) as store:
        apply(store, Call, numbered(rows))
        assert_same_bits(
            as_frame([ask(Online(features), store, r) for r in rows.to_dicts()], features),
            offline(features, rows, {Call: rows}).drop("event_id"),
        )


def test_position_never_goes_back():
    "An event that comes late, or again, does not make the state seem older than it is."
    rows = numbered(
        pl.DataFrame(
            [
                dict(
                    event_id=f"p{i}",
                    event_time=DAWN + timedelta(hours=i),
                    who=1,
                    place="a",
                    amount=1,
                    online=True,
                    kind="card",
                )
                for i in range(3)
            ],
            schema=Pay.schema(),
        )
    )
    with empty_state() as store:
        apply(store, Pay, rows)
        with store.reader() as reader:
            newest = reader.position()
        apply(store, Pay, rows[:1])
        with store.reader() as reader:
            assert reader.position() == newest
    assert newest["seq"] == {"pay": 2}


@pytest.mark.parametrize("start", [DAWN, EARLIEST], ids=["today", "1970"])
@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
def test_windows_end_where_chunks_begin(chunk, start, monkeypatch):
    "Payments on the hour, some of them two at once, so that every window's edge meets an event, and many the first of a chunk."
    monkeypatch.setattr(chunks, "CHUNK", chunk)
    monkeypatch.setattr(nodes, "FAN", max(2, chunk))
    rows = pl.DataFrame(
        [
            dict(
                event_id=f"p{i:03}",
                event_time=start + timedelta(hours=i - i // 7),
                who=1,
                place="a",
                amount=2**i % 999,
                online=i % 3 == 0,
                kind="card",
            )
            for i in range(60)
        ],
        schema=Pay.schema(),
    )
    world = {
        Pay: rows,
        Outcome: pl.DataFrame(
            [
                dict(
                    event_id=f"o{i:03}",
                    event_time=start + timedelta(hours=i),
                    pay_id="p",
                    who=1,
                    place="a",
                    bad=i % 2 == 0,
                    source="outcome",
                )
                for i in range(60)
            ],
            schema=Outcome.schema(),
        ),
    }
    expected = offline(FEATURES, rows, world).drop("event_id")
    for turned in (False, True):
        with empty_state() as store:
            for stream, frame in world.items():
                for part in numbered(frame.reverse() if turned else frame).iter_slices(7):
                    apply(store, stream, part)
            assert_same_bits(
                as_frame([ask(Online(FEATURES), store, r) for r in rows.to_dicts()]), expected
            )


NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64)
SHAPES = {
    "divided by a number": lambda k: pl.col("x") / k,
    "number divided by": lambda k: k / pl.col("x"),
    "scaled, then divided": lambda k: (pl.col("x") - 1) * 0.1 / k,
    "divided by a column": lambda k: pl.col("x") / pl.col("y") / k,
    "logarithm and root": lambda k: (
        (pl.col("x").abs() + 1).log() / k + pl.col("y").abs().sqrt() * k
    ),
    "power": lambda k: (pl.col("y").abs() + 1).pow(0.3) / k,
    "whole numbers": lambda k: pl.col("n") / k - pl.col("n") * k,
    "choice": lambda k: pl.when(pl.col("x") > k).then(pl.col("x") / k).otherwise(pl.col("y") / 7),
}


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=60)
@example(rows=[(x / 10, 3.7, 5) for x in range(1, 40)], k=3.0)
@given(
    st.lists(
        st.tuples(NUMBERS, NUMBERS, st.one_of(st.none(), st.integers(-(10**6), 10**6))),
        min_size=1,
        max_size=20,
    ),
    st.one_of(st.sampled_from([3.0, 7.0, 0.1, 86400.0, 2.3]), st.floats(1e-3, 1e6)),
)
def test_row_wise_does_not_depend_on_the_number_of_rows(shape, rows, k):
    "A row alone, among others, and in a frame of several chunks has the same value."
    frame = pl.DataFrame(
        rows, schema={"x": pl.Float64, "y": pl.Float64, "n": pl.Int64}, orient="row"
    )
    levels = [[SHAPES[shape](k).alias("first")], [(pl.col("first") / 3).alias("second")]]
    together = row_wise(frame, levels)
    assert_same_bits(
        pl.concat([row_wise(frame[i : i + 1], levels) for i in range(frame.height)]), together
    )
    in_chunks = pl.concat([frame[i : i + 1] for i in range(frame.height)] + [frame], rechunk=False)
    assert_same_bits(row_wise(in_chunks, levels), pl.concat([together, together]))


def test_constant_for_nothing_has_the_type_of_the_feature():
    "`empty=0` is the same fact as `empty=0.0`, online and offline."

    class Place(FeatureView, key="place"):
        risk = Outcome.mean("bad", over=["1d"], empty=0)

    features = FeatureSet(Pay, [Place])
    request = accept(
        Pay,
        dict(
            event_id="p",
            event_time="2025-04-01T12:00:00Z",
            who=1,
            place="a",
            amount=1.5,
            online=True,
            kind="card",
        ),
    )
    rows = pl.DataFrame([request], schema=Pay.schema())
    with empty_state(features) as store:
        answer = ask(Online(features), store, request)
    assert_same_bits(
        as_frame([answer], features),
        offline(features, rows, {Pay: rows, Outcome: pl.DataFrame(schema=Outcome.schema())}).drop(
            "event_id"
        ),
    )
