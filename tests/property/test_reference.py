"Invariant 1, offline: frames equal a naive reference that goes through all events for each row."

from __future__ import annotations

import math
import statistics
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest
from helpers import FEATURES, OVER, UTC, Outcome, Pay, assert_same_bits, view, worlds
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.errors import ContractError
from mlkit.events import Stream
from mlkit.features import FeatureSet
from mlkit.fields import Category, Fixed, Key
from mlkit.frames import offline
from mlkit.windows import totals

LENGTH = {"1h": timedelta(hours=1), "1d": timedelta(days=1), "7d": timedelta(days=7)}
HUES = ("red", "green", "blue")
SOURCES = ("outcome", "review")


class Past:
    "What one request can see of its own stream and of another."

    def __init__(self, request: dict, pays: list[dict], outcomes: list[dict]):
        self.request, self.pays_, self.outcomes_ = request, pays, outcomes

    def _window(self, events: list[dict], keys: tuple[str, ...], over: str) -> list[dict]:
        "The events of (t − w, t) with the same keys, in order of time."
        t, found = self.request["event_time"], []
        for e in events:
            same = all(e[k] == self.request[k] for k in keys)
            if same and t - LENGTH[over] < e["event_time"] < t:
                found.append(e)
        return sorted(found, key=lambda e: e["event_time"])

    def before(self, over: str, *keys: str) -> list[dict]:
        "Payments before the request."
        return self._window(self.pays_, keys, over)

    def pays(self, over: str, *keys: str, **where: Any) -> list[dict]:
        "Payments that meet the conditions, the request itself among them."
        return meeting([*self.before(over, *keys), self.request], where)

    def outcomes(self, over: str, *keys: str, **where: Any) -> list[dict]:
        "Outcomes that had become known."
        return meeting(self._window(self.outcomes_, keys, over), where)


def meeting(events: list[dict], where: dict[str, Any]) -> list[dict]:
    return [e for e in events if all(e[k] == v for k, v in where.items())]


def given_of(events: list[dict], of: str) -> list[Any]:
    return [e[of] for e in events if e[of] is not None]


def share(events: list[dict], flag: Any, empty: float | None = None) -> float | None:
    yes = flag if callable(flag) else lambda e: e[flag]
    return sum(map(yes, events)) / len(events) if events else empty


def money(events: list[dict], of: str = "amount") -> float | None:
    "Mean amount: total cents by count, then by a hundred."
    values = given_of(events, of)
    return sum(values) / len(values) / 100 if values else None


def gap(events: list[dict], request: dict, empty: float | None = None) -> float | None:
    "Seconds since the latest of the events."
    if not events:
        return empty
    since = request["event_time"] - max(e["event_time"] for e in events)
    return since / timedelta(microseconds=1) / 1e6


def spread(events: list[dict], of: str = "amount", empty: float | None = None) -> float | None:
    """Sample standard deviation.

    The exact sum of squares about the mean, as the nearest float64 of n times it; then one
    division, one root and one division.
    """
    values = given_of(events, of)
    n = len(values)
    if n < 2:
        return empty
    mean = Fraction(sum(values), n)
    about = n * sum((x - mean) ** 2 for x in values)
    assert about.denominator == 1
    found = math.sqrt(float(int(about)) / (float(n) * float(n - 1))) / 100
    assert found == pytest.approx(statistics.stdev(values) / 100, rel=1e-14)
    return found


def extreme(events: list[dict], pick: Any, of: str = "amount") -> float | None:
    values = given_of(events, of)
    return pick(values) / 100 if values else None


def end(events: list[dict], pick: Any, of: str, empty: Any = None, order: Any = None) -> Any:
    "The value at the earliest moment (pick=min; of several the smallest) or the latest (max)."
    some = [e for e in events if e[of] is not None]
    if not some:
        return empty
    moment = pick(e["event_time"] for e in some)
    return pick((e[of] for e in some if e["event_time"] == moment), key=order)


def cents(value: int | None) -> float | None:
    return None if value is None else value / 100


def different(events: list[dict], of: str) -> int:
    return len(set(given_of(events, of)))


def of_each_length(past: Past, w: str) -> dict[str, Any]:
    "The features that `helpers.FEATURES` has over each of its windows."
    mine, there, before = past.pays(w, "who"), past.pays(w, "place"), past.before(w, "who")
    told = past.outcomes(w, "place", source="outcome")
    return {
        f"who_n_{w}": len(mine),
        f"who_spend_{w}": money(mine),
        f"who_total_{w}": sum(e["amount"] for e in mine) / 100,
        f"who_gap_{w}": gap(before, past.request),
        f"who_spread_{w}": spread(mine),
        f"who_least_{w}": extreme(mine, min),
        f"who_most_{w}": extreme(mine, max),
        f"who_opening_{w}": cents(end(before or mine, min, "amount")),
        f"who_latest_{w}": cents(end(before, max, "amount")),
        f"who_places_{w}": different(mine, "place"),
        f"place_people_{w}": different(there, "who"),
        f"who_carded_{w}": share(mine, lambda e: e["kind"] == "card"),
        f"place_web_{w}": share(there, "online"),
        f"place_seen_{w}": len(told),
        f"place_risk_{w}": share(told, "bad", 0.0),
    }


def of_the_customer(past: Past) -> dict[str, Any]:
    "The customer's other features."
    day, week = past.pays("1d", "who"), past.pays("7d", "who")
    before, before_day = past.before("7d", "who"), past.before("1d", "who")
    return {
        "who_cards_1d": len(past.pays("1d", "who", kind="card")),
        "who_cash_7d": money(past.pays("7d", "who", kind="cash", online=False)),
        "who_how_7d": end(before, max, "kind"),
        "who_web_7d": end(before, max, "online", False),
        "who_began_1d": end(before_day or day, min, "online"),
        "who_hue_7d": end(before, max, "shade", "blue", HUES.index),
        "who_shades_1d": different(day, "shade"),
        "who_shades_7d": different(week, "shade"),
        "who_tips_1d": money(day, "tip"),
        "who_tip_spread_7d": spread(week, "tip", -1.0),
        "who_tip_least_7d": extreme(week, min, "tip"),
        "who_dear_7d": share(week, lambda e: e["amount"] >= 50_000_000, 0.0),
        "who_middling_7d": sum(1 <= e["amount"] < 100_000_000 for e in week),
        "who_shadeless_7d": sum(e["shade"] in (None, "red") for e in week),
    }


def of_the_place(past: Past) -> dict[str, Any]:
    "Those of the place, and of customer and place together."
    pair = ("who", "place")
    both = past.outcomes("7d", *pair)
    return {
        "place_n_1d": len(past.pays("1d", "place")),
        "place_known_7d": gap(past.outcomes("7d", "place"), past.request, -1.0),
        "place_victims_7d": different(past.outcomes("7d", "place", bad=True), "who"),
        "pair_n_7d": len(past.pays("7d", *pair)),
        "pair_bad_1d": float(sum(e["bad"] for e in past.outcomes("1d", *pair))),
        "pair_bad_7d": float(sum(e["bad"] for e in both)),
        "pair_turned_7d": end(both, max, "bad"),
        "pair_said_7d": end(both, min, "source", order=SOURCES.index),
        "pair_amounts_1d": different(past.pays("1d", *pair), "amount"),
        "pair_share_7d": share(both, "bad"),
    }


def reference(request: dict, pays: list[dict], outcomes: list[dict]) -> dict[str, Any]:
    "The aggregates of `helpers.FEATURES` for one request, event by event."
    past = Past(request, pays, outcomes)
    row = of_the_customer(past) | of_the_place(past)
    for w in OVER:
        row |= of_each_length(past, w)
    return row


def assert_equals_reference(world: dict[type[Stream], pl.DataFrame]) -> None:
    pays, told = world[Pay].to_dicts(), world[Outcome].to_dicts()
    schema = {f.name: f.dtype for f in FEATURES.features if f.group}
    rows = [reference(r, pays, told) for r in pays]
    assert all(row.keys() == schema.keys() for row in rows)
    expected = pl.DataFrame(rows, schema=schema, orient="row")
    assert_same_bits(offline(FEATURES, world[Pay], world).select(expected.columns), expected)


@settings(max_examples=150)
@given(worlds(most=30))
def test_generated_streams(world):
    assert_equals_reference(world)


@settings(max_examples=40)
@given(worlds(), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3, unique=True))
def test_keys_far_apart(world, keys):
    "Integer keys from all over the 64 bits, where codes have to be found by a join."
    names = dict(zip([1, 2, -9], keys))
    renamed = pl.col("who").replace_strict(names, return_dtype=pl.Int64)
    assert_equals_reference({s: frame.with_columns(renamed) for s, frame in world.items()})


@pytest.mark.parametrize("keys", [1, 3000])
def test_keys_in_blocks(keys):
    "More keys times microseconds than 62 bits hold: counted in ranges of keys, the same result."
    rows = []
    for k in range(keys):
        for t in (datetime(1970, 1, 1, tzinfo=UTC), datetime(2099, 12, 31, tzinfo=UTC)):
            for n in (0, 1):
                at = t + timedelta(minutes=n)
                row = dict(event_id=f"{t}{k}{n}", event_time=at, who=k, amount=k + n)
                rows.append(row | dict(place="a", online=False, kind="card"))
    frame = pl.DataFrame(rows, schema=Pay.schema()).sample(fraction=1, shuffle=True, seed=1)
    members = dict(
        n=Pay.count(over=["1h"]),
        total=Pay.sum("amount", over=["1h"]),
        gap=Pay.since_last(over=["1h"]),
        how=Pay.last("kind", over=["1h"]),
    )
    found = offline(FeatureSet(Pay, [view(members)]), frame, {Pay: frame})
    second, amounts = (frame["event_time"].dt.minute() == 1).to_list(), frame["amount"].to_list()
    total = [(2 * a - 1 if s else a) / 100 for a, s in zip(amounts, second)]
    assert found["who_n_1h"].to_list() == [1 + s for s in second]
    assert found["who_total_1h"].to_list() == total
    assert found["who_gap_1h"].to_list() == [60.0 if s else None for s in second]
    assert found["who_how_1h"].to_list() == ["card" if s else None for s in second]


def test_totals_beyond_64_bits_are_an_error():
    "Refused, never wrapped: where it is certain to come, when the feature is defined."

    class Sum(Stream):
        who = Key()
        amount = Fixed(places=0, high=2**53)

    with pytest.raises(ContractError, match="amount.*overflow"):
        Sum.sum("amount", over=["7d"])
    values, begin = np.full(1030, 2**53), np.zeros(1, np.int64)
    with pytest.raises(OverflowError, match="amount"):
        totals(values, begin, np.array([1030]), "amount")
    # the running total of all does not fit, but each window does
    assert totals(values, begin, np.array([1023]), "amount")[0] == 1023 * 2**53
    both = np.concatenate([values, -values])
    assert totals(both, np.array([1020]), np.array([1040]), "amount")[0] == 0


class Visit(Stream):
    "With fields that may be empty."

    who = Key()
    tip = Fixed(places=2, optional=True)
    kind = Category(values=("a", "b"), optional=True)


def visits() -> pl.DataFrame:
    "Four; the second has no tip, the third no kind."
    rows = []
    for i in range(4):
        row = dict(event_id=str(i), event_time=datetime(2025, 1, 1, i, tzinfo=UTC), who=1)
        rows.append(row | dict(tip=None if i == 1 else 50, kind=None if i == 2 else "a"))
    return pl.DataFrame(rows, schema=Visit.schema())


def test_mean_of_an_optional_measure_is_of_those_there_are():
    "An event without the measure is not counted."
    features = FeatureSet(Visit, [view(dict(tips=Visit.mean("tip", over=["1d"])))])
    found = offline(features, visits(), {Visit: visits()})
    assert found["who_tips_1d"].to_list() == [0.5, 0.5, 0.5, 0.5]


def test_entity_that_may_be_missing_is_refused():
    "Events without an entity belong to no entity's past."

    class Guest(Stream):
        who = Key(optional=True)

    with pytest.raises(ContractError, match="who"):
        view({"n": Guest.count(over=["1d"])})


def test_condition_on_an_optional_field_is_not_met_where_it_is_missing():
    features = FeatureSet(Visit, [view({"n": Visit.count(over=["1d"], where=dict(kind="a"))})])
    found = offline(features, visits(), {Visit: visits()})["who_n_1d"]
    assert found.dtype == pl.Int64
    assert found.to_list() == [1, 2, 2, 3]
