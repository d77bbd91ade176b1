"A plan and a label rule are checked where they are written; a withdrawn label is no label."

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import polars as pl
import pytest

from mlkit.events import Stream
from mlkit.fields import Category, Flag, Key, Text
from mlkit.splits import LabelRule, Plan, SplitError, known_labels, labelled, learnable


class Finding(Stream):
    "What a claim turned out to be; without a value: not known any more."

    claim = Text()
    holder = Key()
    inflated = Flag(optional=True)
    source = Category(values=("outcome", "review"))


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize("name", ["train", "wait", "test", "step"])
@pytest.mark.parametrize("days", [-1, NAN, INFINITY, 7.5, "7", None, True, 3651])
def test_a_plan_that_no_data_could_fill_is_refused(name, days):
    with pytest.raises(SplitError, match=f"{name}={days!r}: give a whole number of days"):
        Plan(**{name: days})


@pytest.mark.parametrize("name", ["train", "test", "step"])
def test_only_the_wait_may_be_nothing(name):
    with pytest.raises(SplitError, match=f"{name}=0"):
        Plan(**{name: 0})
    assert Plan(wait=0).train_end(DAWN) == DAWN


@pytest.mark.parametrize("folds", [1, 0, -1, 2.0, NAN, None])
def test_two_folds_are_the_least(folds):
    with pytest.raises(SplitError, match="from 2 to 3650.*judged on the latest"):
        Plan(folds=folds)


def test_a_plan_of_centuries_is_refused():
    with pytest.raises(SplitError, match="years of data"):
        Plan(train=3000, wait=3650, test=3650, folds=100, step=30)


@pytest.mark.parametrize(
    "rule, message",
    [
        (("claims", "inflated"), "refers 'claims' is no field of Finding; did you mean 'claim'"),
        (("holder", "inflated"), "'holder' is a Key in Finding; it must be Text"),
        (("claim", "inflate"), "value 'inflate'.*mean 'inflated'"),
        (("claim", "source"), "'source' is a Category.*must be Flag"),
        ((["claim"], "inflated"), r"refers \['claim'\] is no field of Finding"),
        (("claim", "inflated", "source"), "by_review 'source': give a field and its value"),
        (("claim", "inflated", ("sauce", "review")), "by_review 'sauce'.*mean 'source'"),
        (("claim", "inflated", ("source", "rumour")), "source cannot be 'rumour'"),
    ],
)
def test_a_label_rule_names_fields_of_fitting_types(rule, message):
    with pytest.raises(SplitError, match=message):
        LabelRule(Finding, *rule)


def test_labels_come_from_a_stream():
    with pytest.raises(SplitError, match="is no Stream"):
        LabelRule(dict, "claim", "inflated")


# %% Labels that are withdrawn

DAWN = datetime(2025, 3, 1, tzinfo=timezone.utc)
RULE = LabelRule(Finding, "claim", "inflated", by_review=("source", "review"))


def days(n: float) -> datetime:
    return DAWN + timedelta(days=n)


CLAIMS = pl.DataFrame(
    {"event_id": ["a", "b"], "event_time": [days(0), days(1)], "holder": [1, 2]},
    schema_overrides={"event_time": pl.Datetime("us", "UTC")},
)


def findings(*events: tuple) -> pl.DataFrame:
    "Label events from (day, claim, value, source)."
    rows = [
        (f"f{i}", days(day), claim, 1, value, source, i)
        for i, (day, claim, value, source) in enumerate(events)
    ]
    return pl.DataFrame(rows, {**Finding.schema(), "seq": pl.Int64}, orient="row")


def words(labels: pl.DataFrame, at: datetime | None = None) -> dict[str, bool]:
    return dict(known_labels(RULE, labels, at).select("event_id", "label").rows())


def test_a_withdrawn_label_is_no_label_from_then_on():
    "Before, the request had one; and a later word gives it one once more."
    labels = findings((2, "a", True, "outcome"), (4, "a", None, "outcome"))
    assert words(labels, days(4)) == {"a": True}
    assert words(labels) == words(labels, days(5)) == {}
    restored = findings(
        (2, "a", True, "outcome"), (4, "a", None, "outcome"), (6, "a", False, "outcome")
    )
    assert words(restored, days(5)) == {}
    assert words(restored) == {"a": False}


def test_a_withdrawn_label_is_neither_learned_from_nor_judged_on():
    labels = findings(
        (2, "a", True, "outcome"), (2, "b", False, "review"), (3, "a", None, "outcome")
    )
    plan = Plan(train=1, wait=4)
    assert labelled(RULE, CLAIMS, labels, days(0), days(2))["event_id"].to_list() == ["b"]
    assert learnable(RULE, plan, CLAIMS, labels, days(5))["event_id"].to_list() == ["b"]
    before = learnable(RULE, plan, CLAIMS, labels, days(3))
    assert before["event_id"].to_list() == ["b"]


def test_a_withdrawn_review_takes_the_request_back_into_the_wait():
    reviewed = findings((2, "b", True, "review"))
    assert learnable(RULE, Plan(), CLAIMS, reviewed, days(3))["event_id"].to_list() == ["b"]
    withdrawn = findings((2, "b", True, "review"), (2.5, "b", None, "review"))
    assert learnable(RULE, Plan(), CLAIMS, withdrawn, days(3)).is_empty()
