"The fraud use case's features against the published definition of the handbook, on its data."

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest

from mlkit.formats import to_events
from mlkit.frames import offline
from mlkit.usecases import fraud

DAYS = 60
SECOND = 1_000_000
DAY = 86_400 * SECOND
LENGTHS = (1, 7, 30)
EPOCH = datetime(1970, 1, 1)


class Payment(NamedTuple):
    "A row of the file, its time in microseconds."

    t: int
    customer: int
    terminal: int
    cents: int
    fraud: int
    id: int


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


def past_of(rows: list[Payment], key: str, value: str) -> dict[int, Past]:
    "One `Past` for each value of a column."
    events = defaultdict(list)
    for row in rows:
        events[getattr(row, key)].append((row.t, getattr(row, value)))
    return {k: Past(v) for k, v in events.items()}


@pytest.fixture(scope="module")
def published(handbook) -> pl.DataFrame:
    "The payments of the first days, as the file has them."
    until = datetime(2018, 4, 1) + timedelta(days=DAYS)
    return pl.scan_parquet(handbook).filter(pl.col("TX_DATETIME") < until).collect()


def rows_of(raw: pl.DataFrame) -> list[Payment]:
    # some amounts are a product, as 33.199999999999996
    cents = [round(Fraction(amount) * 100) for amount in raw["TX_AMOUNT"]]
    times = raw["TX_DATETIME"].dt.timestamp("us").to_list()
    names = ("CUSTOMER_ID", "TERMINAL_ID")
    labels = raw["TX_FRAUD"], raw["TRANSACTION_ID"]
    columns = zip(times, *(raw[n] for n in names), cents, *labels)
    return [Payment(*column) for column in columns]


def events_of(raw: pl.DataFrame) -> dict[Any, pl.DataFrame]:
    world, rejected = to_events(fraud.HANDBOOK, raw)
    assert not any(r.height for r in rejected.values())
    return world


def close(value: float, exact: Fraction) -> bool:
    "Within two roundings of the exact value."
    return abs(Fraction(value) - exact) <= abs(exact) * Fraction(2, 2**52)


def is_right(got: dict[str, Any], row: Payment, customer: Past, terminal: Past) -> bool:
    "Does a row of features agree with the definition?"
    moment = EPOCH + timedelta(microseconds=row.t)
    good = close(got["amount"], Fraction(row.cents, 100))
    good &= got["weekend"] == (moment.weekday() >= 5)
    good &= got["night"] == (moment.hour <= 6)
    for days in LENGTHS:
        n, total = customer(row.t - days * DAY, row.t)
        good &= got[f"customer_n_{days}d"] == n
        good &= close(got[f"customer_spend_{days}d"], Fraction(total, 100 * n))
        seen, frauds = terminal(row.t - (7 + days) * DAY, row.t - 7 * DAY)
        risk = Fraction(frauds, seen) if seen else Fraction(0)
        good &= got[f"terminal_seen_{days}d"] == seen
        good &= close(got[f"terminal_risk_{days}d"], risk)
    return good


def test_every_twentieth_customer(published):
    "In whole numbers, for all their payments but those tied to another one to the second."
    rows, world = rows_of(published), events_of(published)
    asked = [r for r in rows if r.customer % 20 == 0]
    requests = world[fraud.Transaction].filter(pl.col("customer_id") % 20 == 0)
    ours = offline(fraud.features, requests, world).to_dicts()
    assert [r["event_id"] for r in ours] == [str(r.id) for r in asked]
    assert len(asked) > 20_000
    customers = past_of(rows, "customer", "cents")
    terminals = past_of(rows, "terminal", "fraud")
    same_moment = Counter((r.t, r.customer) for r in rows)
    ties, wrong = 0, []
    for row, got in zip(asked, ours):
        customer, terminal = customers[row.customer], terminals[row.terminal]
        if same_moment[row.t, row.customer] > 1 or terminal.at(row.t - 7 * DAY):
            ties += 1
        elif not is_right(got, row, customer, terminal):
            wrong.append(row.id)
    assert not wrong, f"{len(wrong)} of {len(asked)} rows, the first: {wrong[:3]}"
    assert ties <= len(asked) / 5000, f"{ties} ties in {len(asked)} rows are too many to leave out"


def windows_of(
    entity: np.ndarray, t: np.ndarray, values: np.ndarray, shift: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    "Days, count and total of (t − shift − days, t − shift], by one sort."
    order = np.lexsort((t, entity))
    first = int(t.min())
    span = int(t.max()) - first + 100 * DAY
    place = entity * span + t - first
    line, total = place[order], np.concatenate([[0], np.cumsum(values[order])])
    stop = np.searchsorted(line, place - shift, "right")
    for days in LENGTHS:
        after = np.maximum(place - shift - days * DAY, entity * span - 1)
        begin = np.searchsorted(line, after, "right")
        yield days, stop - begin, total[stop] - total[begin]


def test_every_row(handbook):
    "All 1.75 million rows against (t − w, t]: equal, but for rows that tie to the second."
    raw = pl.read_parquet(handbook)
    world = events_of(raw)
    ours = offline(fraud.features, world[fraud.Transaction], world)
    t = raw["TX_DATETIME"].dt.timestamp("us").to_numpy()
    cents = (raw["TX_AMOUNT"] * 100).round().cast(pl.Int64).to_numpy()
    customer, terminal = (
        raw[n].to_numpy().astype(np.int64) for n in ("CUSTOMER_ID", "TERMINAL_ID")
    )
    differs = np.zeros(raw.height, bool)
    for days, n, total in windows_of(customer, t, cents, 0):
        differs |= ours[f"customer_n_{days}d"].to_numpy() != n
        differs |= ours[f"customer_spend_{days}d"].to_numpy() != total / np.maximum(n, 1) / 100
    for days, n, total in windows_of(terminal, t, raw["TX_FRAUD"].to_numpy(), 7 * DAY):
        differs |= ours[f"terminal_seen_{days}d"].to_numpy() != n
        differs |= ours[f"terminal_risk_{days}d"].to_numpy() != total / np.maximum(n, 1)
    moments = pl.DataFrame(dict(customer=customer, t=t))
    tied = moments.select(pl.struct("customer", "t").is_duplicated()).to_series().to_numpy()
    # a label becomes known at the very second of this payment
    places = terminal * 2**51 + (t - t.min())
    tied = tied | np.isin(places - 7 * DAY, places)
    assert raw.height == 1_754_155
    assert not (differs & ~tied).any()
    assert 0 < differs.sum() < 200, f"{differs.sum()} rows differ"
