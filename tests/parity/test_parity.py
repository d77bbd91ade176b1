"Invariant 1: a feature has one definition; offline and online give the same bits."

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from helpers import (
    FEATURES,
    Outcome,
    Pay,
    as_frame,
    ask,
    assert_same_bits,
    chunks_of,
    empty_state,
    merged,
    online_frame,
    pays,
    worlds,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlkit.etl import Batch, Logs, land
from mlkit.eventlog import scan
from mlkit.events import Stream, accept
from mlkit.expressions import row_wise
from mlkit.features import FeatureSet, FeatureView
from mlkit.fields import Fixed
from mlkit.formats import to_events
from mlkit.frames import offline
from mlkit.lmdbstate import LmdbStore
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


def weekly(frame: pl.DataFrame) -> dict[Any, pl.DataFrame]:
    "Events by the week in which they happened."
    week = pl.col("event_time").dt.truncate("1w")
    frame = frame.with_columns(week=week)
    return dict(frame.partition_by("week", as_dict=True, include_key=False))


def replay(
    features: FeatureSet, world: dict[type[Stream], pl.DataFrame], logs: Logs, store: LmdbStore
) -> tuple[list[str], list[dict[str, Any]]]:
    """Ids and features of all requests, each computed in the state that the events before it left.

    Events are landed a week at a time: a commit an event would only be slower."""
    online, ids, answers = Online(features), [], []
    weeks = {stream: weekly(frame) for stream, frame in world.items()}
    for week in sorted(set().union(*weeks.values())):
        raw = {stream: raw_rows(stream, of[week]) for stream, of in weeks.items() if week in of}
        requests = {r["event_id"]: r for r in raw.get(features.request, pl.DataFrame()).to_dicts()}
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
    "Ties, edges of windows, extreme amounts, long silence; chunks so small that they divide."
    online, seen = Online(FEATURES), dict.fromkeys(world, 0)
    requests, answers = [], []
    with chunks_of(chunk), empty_state() as store:
        for stream, row in merged(world):
            if stream is Pay:
                requests.append(row)
                answers.append(ask(online, store, row.row(0, named=True)))
            apply(store, stream, row.with_columns(seq=pl.lit(seen[stream], pl.Int64)))
            seen[stream] += 1
    expected = offline(FEATURES, pl.concat(requests), world).drop("event_id")
    assert_same_bits(as_frame(answers), expected)


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
    rows_alone = [frame[i : i + 1] for i in range(frame.height)]
    assert_same_bits(pl.concat([row_wise(row, levels) for row in rows_alone]), together)
    in_chunks = pl.concat([*rows_alone, frame], rechunk=False)
    assert_same_bits(row_wise(in_chunks, levels), pl.concat([together, together]))


def test_constant_for_nothing_has_the_type_of_the_feature():
    "`empty=0` is the same fact as `empty=0.0`, online and offline."

    class Place(FeatureView, key="place"):
        risk = Outcome.mean("bad", over=["1d"], empty=0)

    features = FeatureSet(Pay, [Place])
    rows = pays(1)
    nothing_known = {Pay: rows, Outcome: pl.DataFrame(schema=Outcome.schema())}
    expected = offline(features, rows, nothing_known).drop("event_id")
    with empty_state(features) as store:
        assert_same_bits(online_frame(features, rows, store), expected)
