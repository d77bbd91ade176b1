"Invariant 2: what happened, or became known, at or after a moment changes nothing before it."

from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest
from helpers import (
    DAWN,
    FEATURES,
    STEPS,
    Outcome,
    Pay,
    assert_same_bits,
    empty_state,
    numbered,
    online_frame,
    outcomes,
    some_pays,
    worlds,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.errors import ContractError
from mlkit.features import FeatureView
from mlkit.frames import offline
from mlkit.online import apply
from mlkit.splits import LabelRule, known_labels, labelled

MICROSECOND = timedelta(microseconds=1)
LABELS = LabelRule(Outcome, refers="pay_id", value="bad")


def pay(event_id: str, at: timedelta, who: int = 1, place: str = "a", amount: int = 100) -> dict:
    "One stored payment, some time after the start."
    return dict(
        event_id=event_id,
        event_time=DAWN + at,
        who=who,
        place=place,
        amount=amount,
        online=False,
        kind="card",
    )


def outcome(of: dict, known: timedelta, bad: bool = True, source: str = "outcome") -> dict:
    "What a payment turned out to be, known some time after the start."
    return dict(
        event_id=f"{of['event_id']}/{source}",
        event_time=DAWN + known,
        pay_id=of["event_id"],
        who=of["who"],
        place=of["place"],
        bad=bad,
        source=source,
    )


def features_of(payments: list[dict], labels: list[dict], event_id: str) -> dict:
    "One row of the offline frame."
    world = {
        Pay: pl.DataFrame(payments, schema=Pay.schema()),
        Outcome: pl.DataFrame(labels, schema=Outcome.schema()),
    }
    return offline(FEATURES, world[Pay], world).row(
        by_predicate=pl.col("event_id") == event_id, named=True
    )


@settings(max_examples=80)
@given(worlds(), st.integers(0, 23))
def test_later_events_change_no_earlier_row(world, nth):
    "Rows up to a moment need only what lies strictly before it; the rest is as if it were not."
    now = world[Pay]["event_time"][nth % world[Pay].height]
    asked = world[Pay].filter(pl.col("event_time") <= now)
    before = {stream: frame.filter(pl.col("event_time") < now) for stream, frame in world.items()}
    assert_same_bits(offline(FEATURES, asked, before), offline(FEATURES, asked, world))


@settings(max_examples=60)
@given(worlds(), st.integers(0, 23))
def test_online_state_that_is_ahead_does_not_show_it(world, nth):
    "A state that already holds the future answers about the past as if it did not."
    request = world[Pay].row(nth % world[Pay].height, named=True)
    with empty_state() as ahead, empty_state() as behind:
        for stream, frame in world.items():
            apply(ahead, stream, numbered(frame))
            earlier = pl.col("event_time") < request["event_time"]
            apply(behind, stream, numbered(frame).filter(earlier))
        asked = pl.DataFrame([request], schema=Pay.schema())
        expected = online_frame(FEATURES, asked, behind)
        assert_same_bits(online_frame(FEATURES, asked, ahead), expected)


@settings(max_examples=60)
@given(worlds(), st.integers(0, 23))
def test_own_row_is_the_only_one_of_its_moment(world, nth):
    "A request is counted once, among the events or not; others of equal time are not seen."
    pays, i = world[Pay], nth % world[Pay].height
    request = pays[i : i + 1]
    itself = pl.col("event_id") == request["event_id"][0]
    elsewhen = pl.col("event_time") != request["event_time"][0]
    alone = {**world, Pay: pays.filter(elsewhen | itself)}
    without = {**world, Pay: pays.filter(~itself)}
    expected = offline(FEATURES, request, world)
    assert_same_bits(offline(FEATURES, request, alone), expected)
    assert_same_bits(offline(FEATURES, request, without), expected)


def test_order_of_rows_means_nothing():
    "Events of equal time give the same rows in whatever order the log returns them."
    paid = [pay(f"p{i}", timedelta(hours=i // 3), who=i % 2, amount=i) for i in range(30)]
    told = [outcome(p, timedelta(hours=5 + i // 4), bad=i % 3 == 0) for i, p in enumerate(paid)]
    rows = pl.DataFrame(paid, schema=Pay.schema())
    world = {Pay: rows, Outcome: pl.DataFrame(told, schema=Outcome.schema())}
    turned = {stream: frame.reverse() for stream, frame in world.items()}
    assert_same_bits(offline(FEATURES, rows, turned), offline(FEATURES, rows, world))


@pytest.mark.parametrize(
    "wait",
    [
        -timedelta(days=7),
        -timedelta(days=1),
        -MICROSECOND,
        timedelta(0),
        MICROSECOND,
        timedelta(days=1),
    ],
)
def test_label_is_invisible_until_it_is_known(wait):
    "A label counts for requests after the moment it became known, however old its payment."
    old = pay("old", timedelta(0))
    now = timedelta(days=7)
    row = features_of([old, pay("now", now)], [outcome(old, now + wait)], "now")
    seen = timedelta(days=-7) < wait < timedelta(0)
    assert (row["place_seen_7d"], row["place_risk_7d"]) == ((1, 1.0) if seen else (0, 0.0))


@pytest.mark.parametrize(
    "length, name",
    [
        (timedelta(hours=1), "who_n_1h"),
        (timedelta(days=1), "who_n_1d"),
        (timedelta(days=7), "who_n_7d"),
    ],
)
def test_window_is_open_at_both_ends(length, name):
    "(t − w, t), and the request itself."
    for ago, counted in [
        (length + MICROSECOND, 1),
        (length, 1),
        (length - MICROSECOND, 2),
        (MICROSECOND, 2),
        (timedelta(0), 1),
    ]:
        other, now = pay("other", timedelta(days=30) - ago), pay("now", timedelta(days=30))
        assert features_of([other, now], [], "now")[name] == counted, f"{ago} ago"


@settings(max_examples=60)
@given(st.data())
def test_training_knows_only_what_was_known_at_the_cut(data):
    "Labels from the cut on change nothing that training sees; the latest earlier word counts."
    payments = data.draw(some_pays())
    labels = numbered(data.draw(outcomes(payments)))
    at, step = (
        data.draw(st.sampled_from(payments["event_time"].to_list())),
        data.draw(st.sampled_from(STEPS)),
    )
    cut = at + step
    known = labels.filter(pl.col("event_time") < cut)
    assert known_labels(LABELS, labels, at=cut).equals(known_labels(LABELS, known))
    rows = labelled(LABELS, payments, known, DAWN, cut)
    assert labelled(LABELS, payments, labels, DAWN, cut, at=cut).equals(rows)
    words = {}
    for row in sorted(known.to_dicts(), key=lambda r: (r["event_time"], r["seq"])):
        words[row["pay_id"]] = row["bad"]
    assert dict(known_labels(LABELS, labels, at=cut).select("event_id", "label").rows()) == words


OTHER_ROWS = {
    "mean of the column": pl.col("amount") - pl.col("amount").mean(),
    "largest of the column": pl.col("amount") / pl.col("amount").max(),
    "missing filled by the mean": pl.col("who_spend_1d").fill_null(pl.col("who_spend_1d").mean()),
    "condition on the mean": pl.when(pl.col("amount") > pl.col("amount").mean())
    .then(1)
    .otherwise(0),
    "first row": pl.col("amount") - pl.col("amount").first(),
    "number of rows": pl.col("amount") / pl.len(),
    "row before": pl.col("amount") - pl.col("amount").shift(1),
    "running total": pl.col("amount").cum_sum(),
    "rank": pl.col("amount").rank(),
    "group": pl.col("amount").mean().over("who"),
    "rolling": pl.col("amount").rolling_mean(3),
    "last known value": pl.col("amount").fill_null(strategy="forward"),
    "sorted": pl.col("amount").sort(),
}


@pytest.mark.parametrize("what", OTHER_ROWS)
def test_expression_over_other_rows_is_refused(what):
    "Row-wise features cannot reach into the rest of the frame, where the future lies."
    with pytest.raises(ContractError, match="other rows"):
        type("Moment", (FeatureView,), {"f": OTHER_ROWS[what]})


def test_row_wise_expressions_are_allowed():
    "What needs only the row itself is not refused."
    fine = dict(
        a=pl.col("amount").is_in([1.0, 2.0]),
        b=pl.sum_horizontal("amount", "who"),
        c=pl.col("amount").clip(0, 5),
        d=pl.col("event_time").dt.hour() / 24,
        e=pl.when(pl.col("amount") > 3).then(pl.col("amount")).otherwise(None),
        f=pl.coalesce("amount", pl.lit(1.0)),
        g=pl.col("amount").is_null().cast(pl.Int64),
        h=pl.lit(1.0),
        i=pl.col("place").str.len_bytes(),
        j=pl.max_horizontal("amount", pl.lit(3.0)).log1p(),
    )
    assert list(type("Moment", (FeatureView,), fine).members) == list(fine)
