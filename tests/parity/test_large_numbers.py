"Many entities, large numbers: blocks, radix passes, squares and totals beyond 64 bits."

from __future__ import annotations

import math
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from helpers import (
    UTC,
    Pay,
    assert_state_agrees,
    empty_state,
    hourly,
    numbered,
    online_frame,
    pays,
    view,
)

from mlkit import chunks
from mlkit.eventlog import append
from mlkit.events import Stream
from mlkit.features import FeatureSet
from mlkit.fields import Fixed, Key
from mlkit.frames import offline
from mlkit.lmdbstate import LmdbStore, load_lmdb
from mlkit.online import apply, fill
from mlkit.windows import key_codes, totals

COUNT = FeatureSet(Pay, [view(dict(n=Pay.count(over=["7d"])))])


def test_more_entities_than_sixteen_bits():
    "In order of time, dealt out by the low and by the high half of the entity's number."
    members = dict(n=Pay.count(over=["7d"]), total=Pay.sum("amount", over=["7d"]))
    rows = pays(40, who=lambda i: (i % 2) * 2**16 + 3 * (i % 4 > 1))
    found = offline(FeatureSet(Pay, [view(members)]), rows, {Pay: rows})
    who = rows["who"].to_list()
    for i, w in enumerate(who):
        mine = [j for j in range(i + 1) if who[j] == w]
        assert found["who_n_7d"][i] == len(mine)
        assert found["who_total_7d"][i] == sum(mine) / 100


def test_requests_of_entities_below_all_that_have_events():
    "Numbers of entities are never negative, also where the smallest is only asked about."
    events = pays(6, who=lambda i: 5)
    asked = pays(12, who=lambda i: (3, 5)[i % 2]).with_columns(
        pl.col("event_id") + "/asked", pl.col("event_time") + timedelta(minutes=1)
    )
    found = offline(COUNT, asked, {Pay: events})
    assert found["who_n_7d"].to_list() == [1, 3, 1, 5, 1, 7, 1, 7, 1, 7, 1, 7]
    theirs, ours = key_codes(pl.DataFrame({"0": [5, 7]}), pl.DataFrame({"0": [3, 9]}))
    assert theirs.tolist() == [2, 4]
    assert ours.tolist() == [0, 6]


def test_no_requests_in_blocks():
    "Nobody asks, of so many entities that they are counted in blocks."
    times = [datetime(1970, 1, 1, tzinfo=UTC), datetime(2099, 12, 31, tzinfo=UTC)]
    rows = pays(6000, who=lambda i: i // 2)
    rows = rows.with_columns(event_time=pl.Series(times * 3000, dtype=Pay.schema()["event_time"]))
    assert offline(COUNT, rows.clear(), {Pay: rows}).height == 0


class Huge(Stream):
    "Amounts whose squares need more than 64 bits."

    who = Key()
    amount = Fixed(places=0, high=9e12)


# 2 · 2^62 is 2^63: the first low half that is negative
AMOUNTS = [2**31, 2**31, 1, 9 * 10**12, 0, 9 * 10**12 - 1, 2**32, 3, 8_999_999_999_999]
AMOUNTS += [2**42 + 1, 7, 5]
HUGE = FeatureSet(Huge, [view(dict(spread=Huge.std("amount", over=["5h"])))])
HUGE_ROWS = hourly(Huge, len(AMOUNTS), who=lambda i: 1, amount=AMOUNTS.__getitem__)


def deviations() -> list[float | None]:
    "Of each amount with the four before it, by whole numbers of any size."
    found: list[float | None] = [None]
    for i in range(1, len(AMOUNTS)):
        given = AMOUNTS[max(0, i - 4) : i + 1]
        n = len(given)
        spread = n * sum(x * x for x in given) - sum(given) ** 2
        found.append(math.sqrt(float(spread) / (float(n) * float(n - 1))))
    return found


def test_squares_beyond_64_bits_offline():
    found = offline(HUGE, HUGE_ROWS, {Huge: HUGE_ROWS})
    assert found["who_spread_5h"].to_list() == deviations()


@pytest.mark.parametrize("chunk", [1, 3, 128])
def test_squares_beyond_64_bits_online(chunk, logs, tmp_path, monkeypatch):
    "One by one, with one late, and loaded at once."
    monkeypatch.setattr(chunks, "CHUNK", chunk)
    with empty_state(HUGE) as store:
        for part in numbered(HUGE_ROWS)[[0, 1, *range(3, 10), 2, 10, 11]].iter_slices(1):
            apply(store, Huge, part)
        assert online_frame(HUGE, HUGE_ROWS, store)["who_spread_5h"].to_list() == deviations()
    append(logs[Huge], HUGE_ROWS, "all")
    load_lmdb(HUGE, tmp_path / "state", logs)
    with LmdbStore(HUGE, tmp_path / "state") as store:
        assert online_frame(HUGE, HUGE_ROWS, store)["who_spread_5h"].to_list() == deviations()


def test_smallest_sums_that_do_not_fit():
    "2^63 itself, and one that only the lower halves of the values bring above it."
    begin, low = np.zeros(1, np.int64), 4_190_211 * 2**31 + 2**31 - 1
    assert 1025 * 4_190_211 * 2**31 < 2**63 <= 1025 * low
    for value, n in [(2**53, 1024), (low, 1025)]:
        with pytest.raises(OverflowError, match="amount"):
            totals(np.full(n, value), begin, np.array([n]), "amount")


class Sum(Stream):
    who = Key()
    amount = Fixed(places=0, high=9.2e12)


SUMS = FeatureSet(Sum, [view(dict(s=Sum.sum("amount", over=["1d"])))])


def million(n: int, who: int = 1) -> pl.DataFrame:
    "The largest amounts, every 25 minutes."
    columns = dict(
        event_id=pl.Series(range(n)).cast(pl.String),
        seq=np.arange(n),
        event_time=pl.Series(np.arange(n) * 1_500_000_000).cast(pl.Datetime("us", "UTC")),
        who=np.arange(n) % who,
        amount=np.full(n, 92 * 10**11),
    )
    return pl.DataFrame(columns)


def expected(asked: pl.DataFrame, frame: pl.DataFrame) -> list[float]:
    return offline(SUMS, asked, {Sum: frame})["who_s_1d"].to_list()


def test_total_of_all_entities_beyond_64_bits_when_loading():
    "Of all entities together, when the state is loaded."
    frame = million(1_200_000, who=2)
    with empty_state(SUMS) as store:
        with store.writer() as writer:
            fill(writer, SUMS, iter([(Sum, frame, frame.height - 1)]))
        found = online_frame(SUMS, frame[-3:], store)["who_s_1d"].to_list()
    assert found == expected(frame[-3:], frame)


def test_total_of_an_entity_since_ever_beyond_64_bits():
    "Of one entity since ever, the window itself being small: loaded, and then applied to."
    frame = million(1_003_000)
    with empty_state(SUMS) as store:
        with store.writer() as writer:
            fill(writer, SUMS, iter([(Sum, frame[:1_002_500], 1_002_499)]))
        asked = frame[[1000, 1_002_130]]
        found = online_frame(SUMS, asked, store)["who_s_1d"].to_list()
        assert found == expected(asked, frame)
        for part in frame[1_002_500:].iter_slices(100):
            assert apply(store, Sum, part) == part.height
        found = online_frame(SUMS, frame[-3:], store)["who_s_1d"].to_list()
        assert found == expected(frame[-3:], frame)


def test_more_than_64_facts_of_one_entity():
    "An entity without events has as many facts as any other."
    fields = {f"x{i}": Fixed(places=2, high=100) for i in range(33)}
    big = type("Big", (Stream,), dict(who=Key(), **fields))
    members = {}
    for name in fields:
        members[f"least_{name}"] = big.min(name, over=["1d"])
        members[f"total_{name}"] = big.sum(name, over=["1d"])
    columns = {name: lambda i: 5 + i for name in fields}
    features = FeatureSet(big, [view(members)])
    assert len(features.names) == 66
    assert_state_agrees(features, hourly(big, 3, who=lambda i: i % 2, **columns))
