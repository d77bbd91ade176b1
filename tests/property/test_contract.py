"One contract: a row of a frame and a single request get the same verdict and stored values."

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import polars as pl
import pytest
from helpers import UTC
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.errors import ContractError
from mlkit.events import Stream, accept, check
from mlkit.fields import TIME, Category, Fixed, Flag, Key, Text, Time


class Thing(Stream):
    "One field of every kind."

    key = Key()
    amount = Fixed(places=2, low=-100, high=1_000_000)
    fine = Fixed(places=6, low=-1, high=1)
    tip = Fixed(places=0, high=2**53, optional=True)
    flag = Flag()
    note = Text(optional=True, longest=12)
    kind = Category(values=("a", "é", "b c"))
    seen = Time(optional=True)


GOOD = dict(
    event_id="x",
    event_time="2025-04-11T10:15:00Z",
    key=1,
    amount=57.16,
    fine=0.000001,
    tip=None,
    flag=True,
    note=None,
    kind="a",
    seen=None,
)


def single(row: dict[str, Any]) -> dict[str, Any] | None:
    "What `accept` stores; None where it refuses, and only ever by `ContractError`."
    try:
        return accept(Thing, row)
    except ContractError:
        return None


def framed(row: dict[str, Any]) -> dict[str, Any] | None:
    "What `check` stores of a frame of this one row; None where it refuses."
    good, bad = check(Thing, pl.DataFrame({n: [v] for n, v in row.items()}, strict=False))
    assert good.height + bad.height == 1 and good.schema == Thing.schema()
    assert bad.is_empty() or bad["reason"][0]
    return good.row(0, named=True) if good.height else None


def as_text(row: dict[str, Any]) -> dict[str, Any]:
    "The row as a CSV file would hold it."
    text = {n: None if v is None else str(v) for n, v in row.items()}
    for name, value in row.items():
        if isinstance(value, bool):
            text[name] = str(value).lower()
    return text


ZONES = st.one_of(st.none(), st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m))))
MOMENTS = st.datetimes(datetime(1969, 12, 30), datetime(2100, 1, 3), timezones=ZONES)
TIMES = st.one_of(
    MOMENTS,
    st.builds(
        lambda t, sep, spec: t.isoformat(sep, spec),
        MOMENTS,
        st.sampled_from("T "),
        st.sampled_from(["auto", "seconds", "milliseconds", "microseconds"]),
    ),
    st.datetimes().map(lambda t: t.isoformat() + "Z"),
)
CENTS = st.integers(-11_000, 100_000_100).map(lambda c: c / 100)
DECIMALS = st.one_of(
    CENTS,
    st.integers(-10_000, 10_000).map(lambda m: m / 1000),
    st.integers(-200, 2_000_000),
    st.floats(),
    st.sampled_from(
        [
            0.0,
            -0.0,
            0.29,
            57.165,
            -100,
            -100.01,
            1e6,
            1_000_000.01,
            0.1 + 0.2,
            999_999.999,
            1e300,
            float("inf"),
            float("nan"),
            10**18,
        ]
    ),
)
TEXTS = st.one_of(
    st.text(max_size=14),
    st.sampled_from(["", "é" * 6, "é" * 7, "\x00", "1" * 12, "1" * 13, "NaN", "null"]),
)
VALUES = dict(
    event_id=TEXTS,
    event_time=TIMES,
    key=st.integers(-(2**63), 2**63 - 1),
    amount=DECIMALS,
    fine=st.one_of(DECIMALS, st.integers(-(10**6), 10**6).map(lambda m: m / 10**6)),
    tip=st.one_of(st.none(), st.integers(-3, 2**53 + 3)),
    flag=st.booleans(),
    note=st.one_of(st.none(), TEXTS),
    kind=st.one_of(st.sampled_from(["a", "é", "b c", "A", ""]), TEXTS),
    seen=st.one_of(st.none(), TIMES),
)


CHANGED = st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=2, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({n: VALUES[n] for n in names})
)
# the other fields are good, so that each verdict is about one or two
ROWS = CHANGED.map(lambda changed: GOOD | changed)


@settings(max_examples=500)
@given(ROWS)
def test_same_verdict_and_values(row):
    "Values of the kinds that JSON and Parquet have."
    assert single(row) == framed(row)


@settings(max_examples=300)
@given(ROWS)
def test_what_is_accepted_survives_a_file_of_text(row):
    "A CSV file of accepted requests gives the same events."
    if (stored := single(row)) is not None:
        assert framed(as_text(row)) == stored


@settings(max_examples=200)
@given(
    st.sampled_from(list(VALUES)),
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.lists(st.integers(), max_size=2),
        st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
    ),
)
def test_any_json_value_gets_an_answer(name, value):
    "Whatever a client sends: stored values or `ContractError`; a frame accepts the same."
    stored = single({**GOOD, name: value})
    if stored is not None:
        assert framed({**GOOD, name: value}) == stored


@pytest.mark.parametrize(
    "name, value",
    [
        ("amount", 10**400),
        ("amount", -(10**400)),
        ("event_time", "0001-01-01T00:00:00+23:00"),
        ("event_time", "9999-12-31T23:59:59-23:00"),
        ("event_time", datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))),
        ("event_id", "\ud800"),
        ("kind", []),
        ("key", 2**63),
        ("tip", 2**53 + 1),
    ],
    ids=[
        "huge",
        "hugely negative",
        "before all time",
        "after all time",
        "before all time, typed",
        "lone surrogate",
        "list",
        "65 bits",
        "no float64",
    ],
)
def test_extreme_value_is_a_contract_error(name, value):
    with pytest.raises(ContractError, match=name):
        accept(Thing, {**GOOD, name: value})


@pytest.mark.parametrize(
    "text",
    [
        "2025-04-11",
        "2025-04-11T10:15",
        "20250411T101500",
        "2025-W15-5",
        "2025-04-11T10:15:00,5",
        "2025-04-11x10:15:00",
        "2025-04-11T10:15:00.Z",
        "2025-04-11T10:15:00+02",
        "2025-04-11T10:15:00+0530",
        "2025-04-11T10:15:00+05:30:15",
        "2025-04-11T10:15:00+24:00",
        "2025-04-11T10:15:00z",
        "2016-12-31T23:59:60",
        "2025-04-11T24:00:00",
        "2025-4-1T1:5:0",
        "+2025-04-11T10:15:00",
        "12025-04-11T10:15:00",
        "2025-02-29T00:00:00",
        "2024-02-29T00:00:00",
        "2025-04-11T10:15:00.1234567",
        "2025-04-11T10:15:00.123456789123",
        "1969-12-31T23:59:59.9999999Z",
        "2025-04-11T10:15:00-00:00",
        "2025-04-11T10:15:00 +02:00",
        "٢٠٢٥-04-11T10:15:00",
        "2025-04-11T10:15:00\n",
        "now",
        "",
    ],
)
def test_same_verdict_on_unusual_times(text):
    "No way of writing a time is good for a request and bad for a file, or the other way round."
    row = {**GOOD, "event_time": text}
    assert single(row) == framed(row)


@pytest.mark.parametrize("name, value", [("amount", True), ("key", True), ("tip", False)])
def test_flag_is_no_number(name, value):
    "A column of yes and no is not taken for amounts or keys: the whole frame is refused."
    assert single({**GOOD, name: value}) is None
    with pytest.raises(ContractError, match=f"{name}: a column of type Boolean"):
        framed({**GOOD, name: value})


@settings(max_examples=60)
@given(
    st.lists(
        st.fixed_dictionaries(
            {n: st.one_of(st.just(as_text(GOOD)[n]), st.text(max_size=6), st.none()) for n in GOOD}
        ),
        min_size=1,
        max_size=20,
    )
)
def test_frame_is_the_sum_of_its_rows(rows):
    "Rows are judged one by one, no row is lost, and each refused one has its reasons."
    frame = pl.DataFrame(rows, schema={n: pl.String for n in GOOD})
    good, bad = check(Thing, frame)
    alone = [framed(r) for r in rows]
    kept = [a for a in alone if a is not None]
    refused = [r for r, a in zip(rows, alone) if a is None]
    assert good.to_dicts() == kept
    assert bad.drop("reason").to_dicts() == refused
    assert bad["reason"].str.len_chars().min() != 0


def test_every_fault_is_named():
    "A refusal lists each field that is wrong, so that one answer is enough to mend the request."
    wrong = dict(key="x", amount=-101, flag=1, kind=None, colour="red")
    with pytest.raises(ContractError) as e:
        accept(Thing, GOOD | wrong)
    named = [part.split(":")[0] for part in str(e.value).split("; ")]
    assert named == ["colour", "key", "amount", "flag", "kind"]


@pytest.mark.parametrize(
    "frame, message",
    [
        (pl.DataFrame([GOOD]).drop("amount"), "missing: amount"),
        (pl.DataFrame([GOOD]).with_columns(colour=pl.lit("red")), "unknown: colour"),
    ],
)
def test_columns_must_fit(frame, message):
    with pytest.raises(ContractError, match=message):
        check(Thing, frame)


def test_times_of_any_type_mean_the_same_moment():
    "Nanoseconds, milliseconds, other zones, none, and text."
    moment = datetime(2025, 4, 11, 10, 15, tzinfo=UTC)
    given = [
        pl.Series([moment]).cast(TIME).dt.convert_time_zone("Asia/Kolkata"),
        pl.Series([moment.replace(tzinfo=None)]).cast(pl.Datetime("ns")),
        pl.Series([moment.replace(tzinfo=None)]).cast(pl.Datetime("ms")),
        pl.Series(["2025-04-11 15:45:00+05:30"]),
        pl.Series([" 2025-04-11T10:15:00Z "]),
    ]
    for column in given:
        good, _ = check(Thing, pl.DataFrame([GOOD]).with_columns(event_time=column))
        assert good["event_time"].to_list() == [moment], column.dtype
