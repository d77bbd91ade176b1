"""No accepted expression wraps: each gives what Python's whole numbers give, at every edge.

Expressions are generated from the operations of Polars; those that `check_range` accepts are
evaluated on the smallest and largest values of their columns, in the type that Polars chooses and
in Python, where nothing overflows.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.errors import ContractError
from mlkit.formats import SourceFormat, to_events
from mlkit.ranges import COUNTS, check_range, check_values

COLUMNS: dict[str, Any] = dict(
    tiny=pl.Int8, small=pl.Int16, short=pl.UInt32, key=pl.Int64, count=pl.Int64, flag=pl.Boolean
)
EDGES = dict(
    tiny=[-128, -1, 0, 127],
    small=[-(2**15), 1, 7, 2**15 - 1],
    short=[0, 1, 5, 2**32 - 1],
    key=[-(2**63), -1, 2, 2**63 - 1],
    count=[0, 1, 1000, COUNTS[1]],
    flag=[True, False, True, False],
)
KNOWN = dict(count=COUNTS)
Pair = tuple[pl.Expr, Callable[[dict[str, Any]], int]]  # for Polars, and for Python


def _both(left: Pair, right: Pair, combine: Callable[[Any, Any], Any]) -> Pair:
    return combine(left[0], right[0]), lambda row: combine(left[1](row), right[1](row))


def _summed(left: Pair, right: Pair) -> Pair:
    return pl.sum_horizontal(left[0], right[0]), lambda row: left[1](row) + right[1](row)


def _largest(left: Pair, right: Pair) -> Pair:
    return pl.max_horizontal(left[0], right[0]), lambda row: max(left[1](row), right[1](row))


def _chosen(left: Pair, right: Pair) -> Pair:
    made = pl.when(pl.col("flag")).then(left[0]).otherwise(right[0])
    return made, lambda row: left[1](row) if row["flag"] else right[1](row)


def _wide(pair: Pair) -> Pair:
    return pair[0].cast(pl.Int64), pair[1]


def column(name: str) -> Pair:
    return pl.col(name), lambda row: row[name]


def literal(n: int) -> Pair:
    return pl.lit(n), lambda row: n


LEAVES = st.one_of(
    st.sampled_from([n for n in COLUMNS if n != "flag"]).map(column),
    st.sampled_from([0, 1, -1, 60, 1000, 2**31, 2**40]).map(literal),
)
PLAIN = [operator.add, operator.sub, operator.mul]


def grown(inner: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    two = st.tuples(inner, inner)
    return st.one_of(
        st.tuples(inner, inner, st.sampled_from(PLAIN)).map(lambda x: _both(*x)),
        two.map(lambda x: _summed(*x)),
        two.map(lambda x: _largest(*x)),
        two.map(lambda x: _chosen(*x)),
        inner.map(lambda p: (p[0].abs(), lambda row: abs(p[1](row)))),
        inner.map(lambda p: (-p[0], lambda row: -p[1](row))),
        inner.map(_wide),
    )


FRAME = pl.DataFrame({c: EDGES[c] for c in COLUMNS}, schema=COLUMNS)
ROWS = [
    {**row, "flag": flag}
    for i in range(4)
    for j in range(4)
    for flag in (True, False)
    for row in [{c: EDGES[c][i if k % 2 else j] for k, c in enumerate(COLUMNS)}]
]


@settings(max_examples=300)
@given(st.recursive(LEAVES, grown, max_leaves=5))
def test_what_is_accepted_does_not_wrap(pair):
    expr, exact = pair
    try:
        found = check_range(expr, COLUMNS, KNOWN)
    except (ContractError, pl.exceptions.PolarsError):
        return
    if found is None:
        return  # floats do not wrap
    try:
        given_ = pl.DataFrame(ROWS, schema=COLUMNS).with_columns(x=expr)["x"].to_list()
    except pl.exceptions.PolarsError:
        return  # an error is no wrong number
    assert given_ == [exact(row) for row in ROWS]
    assert all(found[0] <= value <= found[1] for value in given_)


HOUR = pl.col("event_time").dt.hour()
SINCE = pl.col("event_time") - pl.col("event_time").dt.truncate("1y")
MOMENTS = {"event_time": pl.Datetime("us", "UTC"), "text": pl.String, "huge": pl.UInt128, **COLUMNS}


@pytest.mark.parametrize(
    "expr, accepted",
    [
        (HOUR * 60, False),
        (HOUR.cast(pl.Int64) * 60, True),
        (HOUR**2, False),
        (HOUR.cast(pl.Float64) ** 2, True),
        (pl.sum_horizontal(HOUR, HOUR), True),
        (pl.sum_horizontal(*[HOUR] * 6), False),
        (pl.col("key") + 1, False),
        (pl.col("key") % 7 + 1, True),
        (pl.col("key").abs(), False),
        (-pl.col("tiny"), False),
        (pl.col("count") - pl.col("count"), True),
        (pl.col("count") * pl.col("count"), False),
        (pl.col("text").str.len_chars() - 1, False),
        (pl.col("small").cast(pl.Int8, wrap_numerical=True), False),
        (pl.col("flag") + pl.col("flag"), True),
        (pl.col("key").is_in([1, 2]), True),
        (pl.when(pl.col("tiny") * 2 > 3).then(1).otherwise(0), False),
        (pl.concat_list("key", "key").list.sum(), False),
        (pl.concat_list("key", "key").list.len(), True),
        ((pl.concat_list("key") * pl.concat_list("key")).list.mean(), False),
        (pl.struct(p="key").struct.field("p") + 1, False),
        (pl.col("text").hash() * 2, False),
        (pl.col("text").hash() % 7 + 1, True),
        (SINCE.dt.total_days(), True),
        ((SINCE * 10**12).dt.total_days(), False),
        (pl.duration(days="key").dt.total_days(), False),
        (pl.col("event_time") + pl.duration(days="key") > pl.col("event_time"), False),
        (pl.col("event_time") + pl.duration(days=7) > pl.col("event_time"), True),
        (pl.col("key").cast(pl.Duration("ms")).dt.total_nanoseconds(), False),
        (pl.col("event_time").cast(pl.Int32, wrap_numerical=True), False),
        ((pl.col("key") * 1e3).cast(pl.Int16, wrap_numerical=True), False),
        (pl.concat_list("key", "key").list.get(0), True),
        (pl.concat_list("key", "key").list.get(0) + 1, False),
        (pl.concat_list("tiny", "tiny").list.max().cast(pl.Int64) + 1, True),
        (pl.struct(p="key").struct.field("p"), True),
        (pl.col("text").str.to_integer(strict=False), True),
        (pl.col("text").str.to_integer(strict=False) + 1, False),
        (pl.from_epoch("short", "s") > pl.col("event_time"), True),
        (pl.from_epoch("key", "s") > pl.col("event_time"), False),
        (pl.col("event_time").dt.cast_time_unit("ms") > pl.col("event_time"), True),
        (pl.col("event_time").dt.cast_time_unit("ns") > pl.col("event_time"), False),
        (pl.col("event_time").cast(pl.Date) > pl.date(2025, 3, 1), True),
        (pl.col("huge") * pl.col("huge"), False),
    ],
)
def test_operations_by_name(expr, accepted):
    if accepted:
        check_range(expr, MOMENTS, KNOWN)
        return
    with pytest.raises(ContractError, match="would overflow without an error"):
        check_range(expr, MOMENTS, KNOWN)


def test_what_is_there_decides_where_it_is_known():
    frame = pl.DataFrame({"a": [3, None, -1], "b": ["7", "120", None], "c": [None] * 3})
    text = pl.col("b").cast(pl.Int64)
    assert check_values(pl.col("a") * 2, frame) == (-2, 6)
    assert check_values(text + 1, frame) == (8, 121)
    assert check_values(pl.col("a") * 2, frame.clear()) == (0, 0)
    with pytest.raises(ContractError, match="Int8"):
        check_values(text.cast(pl.Int8) * 2, frame)


def test_a_source_format_computes_within_the_types_of_the_file():
    from mlkit.events import Stream
    from mlkit.fields import Key

    class Visit(Stream):
        guests = Key()

    columns = dict(event_id="event_id", event_time="event_time")
    both = dict(guests=pl.col("adults") + pl.col("children"))
    fmt = SourceFormat("visits", Visit, columns, compute=both)

    def taken(adults: int) -> int:
        frame = pl.DataFrame(dict(event_id=["v"], event_time=["2025-03-01T00:00:00Z"]))
        ages = dict(adults=pl.lit(adults, pl.Int8), children=pl.lit(2, pl.Int8))
        return to_events(fmt, frame.with_columns(**ages))[0][Visit]["guests"][0]

    assert taken(125) == 127
    with pytest.raises(ContractError, match="guests cannot be computed .* Int8"):
        taken(126)
