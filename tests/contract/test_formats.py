"A source format is checked where it is written, and gives the same events for the same rows."

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone

import polars as pl
import pytest

from mlkit.errors import UserError
from mlkit.etl import Logs, ingest
from mlkit.eventlog import scan
from mlkit.events import Stream
from mlkit.fields import Category, Fixed, Flag, Key, Text, Time
from mlkit.formats import (
    SourceFormat,
    decimal,
    find_format,
    midnight_utc,
    number,
    row_number,
    to_events,
)


class Order(Stream):
    buyer = Key()
    price = Fixed(places=2)
    note = Text(optional=True)


class Return(Stream):
    "What became of an order."

    order = Text()
    refund = Fixed(places=2)
    kind = Category(values=("all of it", "a part"))


COLUMNS = dict(id="event_id", at="event_time", who="buyer", eur="price", back="returned")
EXTRA = dict(returned=Time(optional=True))
RETURN = dict(
    event_id=pl.col("event_id") + "/return",
    event_time=pl.col("returned"),
    order=pl.col("event_id"),
    refund=pl.col("price"),
    kind=pl.when(pl.col("price") > 100).then(pl.lit("a part")).otherwise(pl.lit("all of it")),
)


def shop(**changes) -> SourceFormat:
    given = dict(columns=COLUMNS, extra=EXTRA, derive={Return: RETURN})
    return SourceFormat("shop", Order, **{**given, **changes})


def derived(**changes) -> dict:
    return dict(derive={Return: {**RETURN, **changes}})


def without(name: str) -> dict:
    return dict(derive={Return: {n: e for n, e in RETURN.items() if n != name}})


MISTAKES = {
    "unknown field": (dict(columns={**COLUMNS, "c": "colour"}), "no field 'colour'"),
    "mapped twice": (dict(columns={**COLUMNS, "iban": "buyer"}), "'buyer' has 2 origins"),
    "mapped and computed": (dict(compute=dict(buyer=pl.col("x"))), "'buyer' has 2 origins"),
    "not mapped": (
        dict(columns={c: n for c, n in COLUMNS.items() if n != "price"}),
        "'price' has no origin",
    ),
    "extra is there already": (
        dict(extra={**EXTRA, "note": Text(optional=True)}),
        "'note' is a field of Order already",
    ),
    "used and ignored": (dict(ignore=("who",)), "'who' is both used and ignored"),
    "computed by text": (dict(compute=dict(note="words")), "'words' is no Polars expression"),
    "derived from what is not there": (
        derived(order=pl.col("order_id")),
        "order: the row has no 'order_id'",
    ),
    "derived of a wrong type": (derived(refund=pl.col("event_id")), "refund: String is no Fixed"),
    "derived from a date": (
        derived(event_time=pl.col("returned").dt.date()),
        "a date without a time of day is no Time",
    ),
    "derived by nonsense": (derived(refund=pl.col("event_id").dt.day()), "refund: "),
    "derived from all rows": (derived(refund=pl.col("price").sum()), "looks at other rows"),
    "derived from rows before": (derived(refund=pl.col("price").cum_sum()), "looks at other rows"),
    "derived from a group": (
        derived(refund=pl.col("price").max().over("buyer")),
        "looks at other rows",
    ),
    "derived for some rows": (
        derived(refund=pl.col("price").filter(pl.col("price") > 1)),
        "has not one value a row",
    ),
    "computed from all rows": (
        dict(columns={**COLUMNS, "who": "event_id"}, compute=dict(buyer=pl.col("x").sum())),
        "looks at other rows",
    ),
    "computed from the row before": (
        dict(columns={**COLUMNS, "who": "event_id"}, compute=dict(buyer=pl.col("x").shift())),
        "looks at other rows",
    ),
    "no dict": (dict(columns=list(COLUMNS)), "columns is a dict"),
    "derived by a list": (dict(derive={Return: ["order"]}), "is a dict"),
    "ignored as text": (dict(ignore="colour"), "ignore is a list or a tuple"),
    "derived by text": (derived(order="event_id"), "order: 'event_id' is no Polars expression"),
    "derived field is missing": (without("refund"), "field 'refund' is missing"),
    "derived field is unknown": (derived(colour=pl.lit(1)), "Return has no field 'colour'"),
    "derived for the main stream": (dict(derive={Order: RETURN}), "other than the main one"),
    "derived for no stream": (dict(derive={"return": RETURN}), "other than the main one"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found_where_they_are_written(mistake):
    changes, message = MISTAKES[mistake]
    with pytest.raises(UserError, match="source format 'shop'") as e:
        shop(**changes)
    assert message in str(e.value)


def test_several_mistakes_are_all_named():
    with pytest.raises(UserError) as e:
        shop(columns={**COLUMNS, "c": "colour"}, **derived(order=pl.col("x"), refund=pl.lit("y")))
    assert all(word in str(e.value) for word in ("colour", "order: ", "refund: "))


def rows(**changes: list) -> pl.DataFrame:
    given = dict(
        id=["a", "b"],
        at=["2025-03-01T10:00:00Z"] * 2,
        who=["1", "2"],
        eur=["12.50", "250.00"],
        back=["2025-03-04T10:00:00Z", None],
    )
    return pl.DataFrame({**given, **changes})


def test_derived_expressions_see_amounts_in_their_own_unit():
    "As they are written, and stored exactly."
    events, refused = to_events(shop(), rows(back=["2025-03-04T10:00:00Z"] * 2))
    assert events[Return]["refund"].to_list() == events[Order]["price"].to_list() == [1250, 25000]
    assert events[Return]["kind"].to_list() == ["all of it", "a part"]
    assert not any(frame.height for frame in refused.values())


def test_a_row_without_its_moment_has_no_derived_event():
    assert to_events(shop(), rows())[0][Return]["order"].to_list() == ["a"]


BOOKING = dict(buyer=pl.col("who").cast(pl.Int64), price=pl.lit(1.5))


def booked(**compute) -> SourceFormat:
    given = dict(event_id=row_number("o-"), event_time=midnight_utc("day"), **BOOKING)
    return SourceFormat("booked", Order, {}, compute={**given, **compute})


@pytest.mark.parametrize(
    "days", [["2025-03-01", "2025-03-02"], [date(2025, 3, 1), date(2025, 3, 2)]]
)
def test_ids_and_moments_that_a_file_does_not_hold(days):
    "Row numbers and midnights, of text and of dates."
    events, refused = to_events(booked(), pl.DataFrame(dict(day=days, who=[1, 2])))
    assert refused[Order].is_empty() and events[Order]["event_id"].to_list() == ["o-1", "o-2"]
    first = datetime(2025, 3, 1, tzinfo=timezone.utc)
    assert events[Order]["event_time"].to_list() == [first, first + timedelta(days=1)]


def test_a_row_number_counts_refused_rows_too():
    "So that it does not change when the contract does; what was refused is kept as it was."
    raw = pl.DataFrame(dict(day=["2025-03-01", "soon", "2025-03-02"], who=[1, 2, 3]))
    events, refused = to_events(booked(), raw)
    assert events[Order]["event_id"].to_list() == ["o-1", "o-3"]
    assert refused[Order]["event_id"].to_list() == ["o-2"]
    assert refused[Order]["event_time"][0].startswith("soon")
    assert refused[Order]["reason"][0].startswith("event_time: not a time")


def test_a_longer_export_repeats_its_first_rows(logs: Logs, tmp_path):
    raw = pl.DataFrame(dict(day=["2025-03-01", "2025-03-02", "2025-03-03"], who=[1, 2, 3]))
    for height in (2, 3):
        raw.head(height).write_parquet(tmp_path / f"{height}.parquet")
        done = ingest(tmp_path / f"{height}.parquet", [booked()], logs)
    assert (done.appended, done.duplicates) == ({"order": 1}, 2)
    assert scan(logs[Order]).collect()["event_id"].sort().to_list() == ["o-1", "o-2", "o-3"]


def test_a_date_is_no_moment(logs: Logs, tmp_path):
    "A column of dates for a time is refused, with the way to say which moment is meant."
    days = pl.Series([date(2025, 3, 1)] * 2)
    rows(at=days).write_parquet(tmp_path / "file.parquet")
    with pytest.raises(UserError, match="file.parquet: .*midnight_utc"):
        ingest(tmp_path / "file.parquet", [shop()], logs)
    assert logs[Order].version() == -1


def test_what_cannot_be_computed_from_a_file_is_named(tmp_path, logs: Logs):
    pl.DataFrame(dict(day=["2025-03-01"], who=["one"])).write_csv(tmp_path / "file.csv")
    with pytest.raises(UserError, match="file.csv: source format 'booked': .*computed"):
        ingest(tmp_path / "file.csv", [booked()], logs)


def test_what_cannot_be_derived_from_a_file_is_named():
    strict = shop(**derived(kind=pl.col("event_id").cast(pl.Int64).cast(pl.String)))
    with pytest.raises(UserError, match="source format 'shop': .*kind cannot be computed"):
        to_events(strict, rows())


def test_columns_of_expressions_belong_to_the_format():
    assert booked().misfit(["day", "who"]) == []
    assert booked().misfit(["who", "x"]) == ["column 'day' is missing", "column 'x' is unknown"]


def test_the_nearest_format_is_that_with_the_fewest_wrong_columns():
    "However few sentences the wrong ones take."
    parcel = type("Parcel", (Stream,), dict(box=Key(), x=Key(), y=Key()))
    formats = [SourceFormat(s.name, s, {n: n for n in s.fields}) for s in (parcel, Order)]
    with pytest.raises(UserError, match="Nearest is 'order', but column 'price' is missing"):
        find_format(formats, ["event_id", "event_time", "buyer", "price_", "note"])


@pytest.mark.parametrize("other, same", [(pl.col("eur") / 100, False), (pl.col("eur"), True)])
def test_two_formats_of_one_stream_make_the_same_or_neither(other, same):
    columns = dict(id="event_id", at="event_time", who="buyer")
    cents, euros = (
        SourceFormat(name, Order, columns, compute=dict(price=price), lenient=True)
        for name, price in (("euros", pl.col("eur")), ("cents", other))
    )
    named = ["id", "at", "who", "eur"]
    if same:
        assert find_format([euros, cents], named) is euros
        return
    with pytest.raises(UserError, match="several formats, 'cents' and 'euros'"):
        find_format([euros, cents], named)


@pytest.mark.parametrize("make", [number, lambda column: decimal(column, 2)])
def test_what_is_no_number_is_refused_and_not_missing(make):
    "Optional or not: 12,50 is no amount, and is not none either."

    class Tip(Stream):
        tip = Fixed(optional=True)

    columns = dict(id="event_id", at="event_time")
    fmt = SourceFormat("tips", Tip, columns, compute=dict(tip=make("given")))
    given = pl.DataFrame(dict(id=["a", "b", "c"], at=["2025-03-01T10:00:00Z"] * 3))
    events, refused = to_events(fmt, given.with_columns(given=pl.Series(["12,50", "1.5", None])))
    assert events[Tip]["tip"].to_list() == [150, None]
    assert refused[Tip]["reason"].to_list() == ["tip: not a fixed with 2 decimals"]


def test_without_a_format_no_file_can_be_read():
    with pytest.raises(UserError, match="no SourceFormat"):
        find_format([], ["a"])


def test_flags_and_optional_fields_need_no_column():
    "A lenient format takes a file with some of the optional columns."

    class Visit(Stream):
        member = Flag()
        remark = Text(optional=True)

    own = SourceFormat("visit", Visit, {n: n for n in Visit.fields}, lenient=True)
    assert own.misfit(["event_id", "event_time", "member"]) == []
    assert own.misfit(["event_id", "event_time", "remark"]) == ["column 'member' is missing"]
