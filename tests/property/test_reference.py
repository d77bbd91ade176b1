"The vectorised features against slow, obvious ones that share no code with them."

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest
from helpers import FEATURES, OVER, UTC, Outcome, Pay, assert_same_bits, worlds
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.events import Category, ContractError, Fixed, Key, Stream
from mlkit.features import FeatureSet, FeatureView
from mlkit.formats import to_events
from mlkit.frames import offline
from mlkit.requests import Online
from mlkit.usecases import fraud
from mlkit.windows import totals

LENGTH = {"1h": timedelta(hours=1), "1d": timedelta(days=1), "7d": timedelta(days=7)}


def window(
    events: list[dict], request: dict, keys: tuple[str, ...], over: str, own: bool, **where: Any
) -> list[dict]:
    "The events of (t − w, t) with the same keys that meet the conditions, in order of time; at the end the request itself where it is of that stream."
    t = request["event_time"]
    inside = sorted(
        (
            e
            for e in events
            if t - LENGTH[over] < e["event_time"] < t and all(e[k] == request[k] for k in keys)
        ),
        key=lambda e: e["event_time"],
    )
    return [
        e
        for e in inside + [request] * own
        if all(v(e[k]) if callable(v) else e[k] == v for k, v in where.items())
    ]


def share(events: list[dict], flag: Any, empty: float | None = None) -> float | None:
    yes = flag if callable(flag) else lambda e: e[flag]
    return sum(map(yes, events)) / len(events) if events else empty


def money(events: list[dict], of: str = "amount") -> float | None:
    "Mean amount: total cents by count, then by a hundred."
    given = [e[of] for e in events if e[of] is not None]
    return sum(given) / len(given) / 100 if given else None


def gap(events: list[dict], request: dict, empty: float | None = None) -> float | None:
    "Seconds since the latest of the events."
    return (
        (request["event_time"] - max(e["event_time"] for e in events))
        / timedelta(microseconds=1)
        / 1e6
        if events
        else empty
    )


def spread(events: list[dict], of: str = "amount", empty: float | None = None) -> float | None:
    "Sample standard deviation: the exact sum of squares about the mean as the nearest float64 of n times it, then one division, one root and one division."
    given = [e[of] for e in events if e[of] is not None]
    n = len(given)
    if n < 2:
        return empty
    about = n * sum((x - Fraction(sum(given), n)) ** 2 for x in given)
    assert about.denominator == 1
    found = math.sqrt(float(int(about)) / (float(n) * float(n - 1))) / 100
    assert found == pytest.approx(statistics.stdev(given) / 100, rel=1e-14)
    return found


def extreme(events: list[dict], pick: Any, of: str = "amount") -> float | None:
    given = [e[of] for e in events if e[of] is not None]
    return pick(given) / 100 if given else None


def end(events: list[dict], pick: Any, of: str, empty: Any = None, order: Any = lambda v: v) -> Any:
    "The value at the earliest moment (pick min: of several the smallest) or the latest (pick max: the largest)."
    given = [e for e in events if e[of] is not None]
    if not given:
        return empty
    moment = pick(e["event_time"] for e in given)
    return pick((e[of] for e in given if e["event_time"] == moment), key=order)


def different(events: list[dict], of: str) -> int:
    return len({e[of] for e in events} - {None})


def reference(request: dict, pays: list[dict], outcomes: list[dict]) -> dict[str, Any]:
    "The aggregates of `helpers.FEATURES` for one request, event by event."
    who, place, pair = ("who",), ("place",), ("who", "place")
    row: dict[str, Any] = {}
    week, past = (
        window(pays, request, who, "7d", own=True),
        window(pays, request, who, "7d", own=False),
    )
    day, hues = window(pays, request, who, "1d", own=True), ("red", "green", "blue")
    cents = lambda v: None if v is None else v / 100
    for w in OVER:
        mine, there, before = (
            window(pays, request, who, w, own=True),
            window(pays, request, place, w, own=True),
            window(pays, request, who, w, own=False),
        )
        told = window(outcomes, request, place, w, own=False, source="outcome")
        row |= {
            f"who_n_{w}": len(mine),
            f"who_spend_{w}": money(mine),
            f"who_total_{w}": sum(e["amount"] for e in mine) / 100,
            f"who_gap_{w}": gap(before, request),
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
    for w in ("1d", "7d"):
        row[f"pair_bad_{w}"] = float(
            sum(e["bad"] for e in window(outcomes, request, pair, w, own=False))
        )
        row[f"who_shades_{w}"] = different(window(pays, request, who, w, own=True), "shade")
    both = window(outcomes, request, pair, "7d", own=False)
    return row | {
        "who_cards_1d": len(window(pays, request, who, "1d", own=True, kind="card")),
        "who_cash_7d": money(window(pays, request, who, "7d", own=True, kind="cash", online=False)),
        "who_how_7d": end(past, max, "kind"),
        "who_web_7d": end(past, max, "online", False),
        "who_began_1d": end([e for e in day if e is not request] or day, min, "online"),
        "who_hue_7d": end(past, max, "shade", "blue", hues.index),
        "who_tips_1d": money(day, "tip"),
        "who_tip_spread_7d": spread(week, "tip", -1.0),
        "who_tip_least_7d": extreme(week, min, "tip"),
        "who_dear_7d": share(week, lambda e: e["amount"] >= 50_000_000, 0.0),
        "who_middling_7d": sum(1 <= e["amount"] < 100_000_000 for e in week),
        "who_shadeless_7d": sum(e["shade"] in (None, "red") for e in week),
        "place_n_1d": len(window(pays, request, place, "1d", own=True)),
        "place_known_7d": gap(window(outcomes, request, place, "7d", own=False), request, -1.0),
        "place_victims_7d": different(
            window(outcomes, request, place, "7d", own=False, bad=True), "who"
        ),
        "pair_n_7d": len(window(pays, request, pair, "7d", own=True)),
        "pair_turned_7d": end(both, max, "bad"),
        "pair_said_7d": end(both, min, "source", order=("outcome", "review").index),
        "pair_amounts_1d": different(window(pays, request, pair, "1d", own=True), "amount"),
        "pair_share_7d": share(both, "bad"),
    }


def assert_equals_reference(world: dict[type[Stream], pl.DataFrame]) -> None:
    pays, told = world[Pay].to_dicts(), world[Outcome].to_dicts()
    names = [f.name for f in FEATURES.features if f.group]
    schema = {f.name: f.dtype for f in FEATURES.features if f.group}
    expected = pl.DataFrame(
        [{n: row[n] for n in names} for row in (reference(r, pays, told) for r in pays)],
        schema=schema,
        orient="row",
    )
    assert_same_bits(offline(FEATURES, world[Pay], world).select(names), expected)


@settings(max_examples=150)
@given(worlds(most=30))
def test_generated_streams(world):
    assert_equals_reference(world)


@settings(max_examples=40)
@given(worlds(), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3, unique=True))
def test_keys_far_apart(world, keys):
    "Integer keys from all over the 64 bits, where codes have to be found by a join."
    names = dict(zip([1, 2, -9], keys))
    assert_equals_reference(
        {
            s: f.with_columns(pl.col("who").replace_strict(names, return_dtype=pl.Int64))
            for s, f in world.items()
        }
    )


@pytest.mark.parametrize("keys", [1, 3000])
def test_keys_in_blocks(keys):
    "More keys times microseconds than 62 bits hold: counted in ranges of keys, with the same result."
    first, last = datetime(1970, 1, 1, tzinfo=UTC), datetime(2099, 12, 31, tzinfo=UTC)
    rows = [
        dict(
            event_id=f"{t}{k}{n}",
            event_time=t + timedelta(minutes=n),
            who=k,
            place="a",
            amount=k + n,
            online=False,
            kind="card",
        )
        for k in range(keys)
        for t in (first, last)
        for n in (0, 1)
    ]
    frame = pl.DataFrame(rows, schema=Pay.schema()).sample(fraction=1, shuffle=True, seed=1)

    class Who(FeatureView, key="who"):
        n = Pay.count(over=["1h"])
        total = Pay.sum("amount", over=["1h"])
        gap = Pay.since_last(over=["1h"])
        how = Pay.last("kind", over=["1h"])

    found = offline(FeatureSet(Pay, [Who]), frame, {Pay: frame})
    second, amount = frame["event_time"].dt.minute() == 1, frame["amount"]
    assert found["who_n_1h"].to_list() == (second.cast(pl.Int64) + 1).to_list()
    assert found["who_total_1h"].to_list() == [
        (2 * a - 1 if s else a) / 100 for a, s in zip(amount, second)
    ]
    assert found["who_gap_1h"].to_list() == [60.0 if s else None for s in second] and found[
        "who_how_1h"
    ].to_list() == ["card" if s else None for s in second]


def test_totals_beyond_64_bits_are_an_error():
    "Overflow is refused, never wrapped: where it is certain to come, when the feature is defined; else when it comes."

    class Sum(Stream):
        who = Key()
        amount = Fixed(places=0, high=2**53)

    with pytest.raises(ContractError, match="amount.*overflow"):
        Sum.sum("amount", over=["7d"])
    values, begin = np.full(1030, 2**53), np.zeros(1, np.int64)
    with pytest.raises(OverflowError, match="amount"):
        totals(values, begin, np.array([1030]), "amount")
    assert (
        totals(values, begin, np.array([1023]), "amount")[0] == 1023 * 2**53
    )  # though the running total of all does not fit
    assert (
        totals(np.concatenate([values, -values]), np.array([1020]), np.array([1040]), "amount")[0]
        == 0
    )


class Visit(Stream):
    "With fields that may be empty."

    who = Key()
    tip = Fixed(places=2, optional=True)
    kind = Category(values=("a", "b"), optional=True)


VISITS = pl.DataFrame(
    [
        dict(
            event_id=str(i),
            event_time=datetime(2025, 1, 1, i, tzinfo=UTC),
            who=1,
            tip=None if i == 1 else 50,
            kind=None if i == 2 else "a",
        )
        for i in range(4)
    ],
    schema=Visit.schema(),
)


def test_mean_of_an_optional_measure_is_of_those_there_are():
    "A measure that may be missing: an event without it is not counted."
    view = type("Who", (FeatureView,), {"tips": Visit.mean("tip", over=["1d"])}, key="who")
    assert offline(FeatureSet(Visit, [view]), VISITS, {Visit: VISITS})["who_tips_1d"].to_list() == [
        0.5,
        0.5,
        0.5,
        0.5,
    ]


def test_entity_that_may_be_missing_is_refused():
    "Nobody's events are nobody's past."

    class Guest(Stream):
        who = Key(optional=True)

    with pytest.raises(ContractError, match="who"):
        type("Who", (FeatureView,), {"n": Guest.count(over=["1d"])}, key="who")


def test_condition_on_an_optional_field_is_not_met_where_it_is_missing():
    view = type(
        "Who", (FeatureView,), {"n": Visit.count(over=["1d"], where=dict(kind="a"))}, key="who"
    )
    found = offline(FeatureSet(Visit, [view]), VISITS, {Visit: VISITS})["who_n_1d"]
    assert found.dtype == pl.Int64 and found.to_list() == [1, 2, 2, 3]


def test_optional_measure_in_a_row_wise_feature_is_null_on_both_sides():
    features = FeatureSet(Visit, [type("Moment", (FeatureView,), {"double": pl.col("tip") * 2})])
    assert offline(features, VISITS, {})["double"].to_list() == [1.0, None, 1.0, 1.0]
    assert [Online(features)(r, None)["double"] for r in VISITS.to_dicts()] == [1.0, None, 1.0, 1.0]


# %% The handbook's fifteen features

DAYS = 60
SECOND = 1_000_000
DAY = 86_400 * SECOND


class Past:
    "Times (µs, sorted) with running totals of one entity."

    def __init__(self, events: list[tuple[int, int]]):
        events.sort()
        self.times, self.totals = [t for t, _ in events], [0]
        for _, value in events:
            self.totals.append(self.totals[-1] + value)

    def __call__(self, after: int, until: int) -> tuple[int, int]:
        "Count and total of (after, until]."
        a, b = bisect_right(self.times, after), bisect_right(self.times, until)
        return b - a, self.totals[b] - self.totals[a]

    def at(self, t: int) -> int:
        return bisect_right(self.times, t) - bisect_left(self.times, t)


def past_of(rows: list[tuple], key: int, value: int) -> dict[int, Past]:
    "One `Past` for each value of a column."
    events = defaultdict(list)
    for row in rows:
        events[row[key]].append((row[0], row[value]))
    return {k: Past(v) for k, v in events.items()}


@pytest.fixture(scope="module")
def published(handbook) -> tuple[pl.DataFrame, list[tuple], list[tuple]]:
    "All payments of the first days, as the file has them, as rows (µs, customer, terminal, cents, fraud, id); those of every twentieth customer."
    raw = (
        pl.scan_parquet(handbook)
        .filter(pl.col("TX_DATETIME") < datetime(2018, 4, 1) + timedelta(days=DAYS))
        .collect()
    )
    cents = [
        round(Fraction(amount) * 100) for amount in raw["TX_AMOUNT"]
    ]  # some are a product, as 33.199999999999996
    rows = list(
        zip(
            raw["TX_DATETIME"].dt.timestamp("us").to_list(),
            raw["CUSTOMER_ID"],
            raw["TERMINAL_ID"],
            cents,
            raw["TX_FRAUD"],
            raw["TRANSACTION_ID"],
        )
    )
    return raw, rows, [r for r in rows if r[1] % 20 == 0]


def close(value: float, exact: Fraction) -> bool:
    "Within two roundings of the exact value."
    return abs(Fraction(value) - exact) <= abs(exact) * Fraction(2, 2**52)


def test_handbook_features(published):
    "The definition of the Fraud Detection Handbook, for all its payments but those tied to another one to the second."
    raw, rows, asked = published
    world, rejected = to_events(fraud.HANDBOOK, raw)
    assert not any(r.height for r in rejected.values())
    requests = world[fraud.Transaction].filter(pl.col("customer_id") % 20 == 0)
    ours = offline(fraud.features, requests, world).to_dicts()
    customers, terminals = past_of(rows, 1, 3), past_of(rows, 2, 4)
    same_moment = Counter((r[0], r[1]) for r in rows)
    ties, wrong = 0, []
    assert [r["event_id"] for r in ours] == [str(r[5]) for r in asked] and len(asked) > 20_000
    for (t, customer, terminal, cents, _, event_id), got in zip(asked, ours):
        if same_moment[t, customer] > 1 or terminals[terminal].at(t - 7 * DAY):
            ties += 1
            continue
        moment = datetime(1970, 1, 1) + timedelta(microseconds=t)
        good = (
            close(got["amount"], Fraction(cents, 100))
            and got["weekend"] == (moment.weekday() >= 5)
            and got["night"] == (moment.hour <= 6)
        )
        for days in (1, 7, 30):
            n, total = customers[customer](t - days * DAY, t)
            seen, frauds = terminals[terminal](t - (7 + days) * DAY, t - 7 * DAY)
            good &= got[f"customer_n_{days}d"] == n and close(
                got[f"customer_spend_{days}d"], Fraction(total, 100 * n)
            )
            good &= got[f"terminal_seen_{days}d"] == seen and close(
                got[f"terminal_risk_{days}d"], Fraction(frauds, seen) if seen else Fraction(0)
            )
        if not good:
            wrong.append(event_id)
    assert not wrong, f"{len(wrong)} of {len(asked)} rows, the first: {wrong[:3]}"
    assert ties <= len(asked) / 5000, (
        f"{ties} ties in {len(asked)} rows: so many should not be left out"
    )


def test_handbook_features_on_every_row(handbook):
    "All 1.75 million rows against the published windows (t − w, t]: equal, but for rows that tie to the second, and every one that differs is such a tie."
    raw = pl.read_parquet(handbook)
    world, rejected = to_events(fraud.HANDBOOK, raw)
    assert not any(r.height for r in rejected.values())
    ours = offline(fraud.features, world[fraud.Transaction], world)
    t = raw["TX_DATETIME"].dt.timestamp("us").to_numpy()
    cents = (raw["TX_AMOUNT"] * 100).round().cast(pl.Int64).to_numpy()
    differs = np.zeros(raw.height, bool)
    for key, value, shift in (
        ("CUSTOMER_ID", cents, 0),
        ("TERMINAL_ID", raw["TX_FRAUD"].to_numpy(), 7 * DAY),
    ):
        entity = raw[key].to_numpy().astype(np.int64)
        order = np.lexsort((t, entity))
        span = int(t.max() - t.min()) + 100 * DAY
        line, total = (
            (entity * span + t - t.min())[order],
            np.concatenate([[0], np.cumsum(value[order])]),
        )
        asked = entity * span + t - t.min() - shift
        stop = np.searchsorted(line, asked, "right")
        for days in (1, 7, 30):
            begin = np.searchsorted(
                line, np.maximum(asked - days * DAY, entity * span - 1), "right"
            )
            n, s = stop - begin, total[stop] - total[begin]
            mean = s / np.maximum(n, 1) / (100 if not shift else 1)
            names = (
                (f"customer_n_{days}d", f"customer_spend_{days}d")
                if not shift
                else (f"terminal_seen_{days}d", f"terminal_risk_{days}d")
            )
            differs |= (ours[names[0]].to_numpy() != n) | (ours[names[1]].to_numpy() != mean)
    tied = (
        pl.DataFrame(dict(c=raw["CUSTOMER_ID"], t=t))
        .select(pl.struct("c", "t").is_duplicated())
        .to_series()
        .to_numpy()
    )
    terminal = raw["TERMINAL_ID"].to_numpy().astype(np.int64)
    moments = terminal * 2**51 + (t - t.min())
    tied |= np.isin(
        moments - 7 * DAY, moments
    )  # a label becomes known at the very second of this payment
    assert raw.height == 1_754_155 and not (differs & ~tied).any()
    assert 0 < differs.sum() < 200, f"{differs.sum()} rows differ"
    print(f"{differs.sum()} of {raw.height} rows differ, each a tie to the second")
