"Every type of the language, missing or not, in every place: entities, aggregates, expressions."

from __future__ import annotations

from contextlib import nullcontext
from datetime import datetime, timedelta, timezone
from typing import Any

import polars as pl
import pytest
from helpers import (
    DAWN,
    Outcome,
    Pay,
    assert_same_bits,
    assert_state_agrees,
    hourly,
    online_frame,
    pays,
    view,
)

from mlkit.errors import ContractError
from mlkit.events import Stream, accept, check
from mlkit.features import FeatureSet, FeatureView
from mlkit.fields import Category, Fixed, Flag, Key, Text, Time
from mlkit.frames import aggregates, offline
from mlkit.requests import Online


class Booking(Stream):
    "One field of every type, and each once more where it may be missing."

    guest = Text()
    room = Category(values=("single", "double"))
    agent = Key()
    paid = Flag()
    price = Fixed(places=2, unit="EUR")
    arrival = Time()
    company = Key(optional=True)
    note = Text(optional=True)
    meal = Category(values=("none", "full"), optional=True)
    deposit = Flag(optional=True)
    extra = Fixed(places=3, low=-5, high=5, optional=True)
    seen = Time(optional=True)


class Row(FeatureView):
    "Expressions over each of them."

    price = pl.col("price")
    meal = pl.col("meal")
    deposit = pl.col("deposit")
    extra = pl.col("extra")
    lead = (pl.col("arrival") - pl.col("event_time")).dt.total_hours()
    since = (pl.col("event_time") - pl.col("seen")).dt.total_seconds() / 3600
    weekday = pl.col("arrival").dt.weekday()
    company_given = pl.col("company").is_not_null()
    noted = pl.col("note").str.len_bytes()
    full = pl.col("meal") == "full"
    both = pl.col("paid") & pl.col("deposit")
    dear = pl.col("extra") + pl.col("price")


def sometimes(value: Any) -> Any:
    "A column that is missing in every third event."
    return lambda i: None if i % 3 == 1 else value(i)


def bookings(n: int = 30) -> pl.DataFrame:
    return hourly(
        Booking,
        n,
        guest=lambda i: "aé"[i % 2],
        room=lambda i: ("single", "double")[i % 2],
        agent=lambda i: i % 2 - 1,
        paid=lambda i: i % 4 == 0,
        price=lambda i: i * 1001 % 777,
        arrival=lambda i: DAWN + timedelta(days=i, hours=3),
        company=sometimes(lambda i: i),
        note=sometimes(lambda i: "n" * (i + 1)),
        meal=sometimes(lambda i: ("none", "full")[i % 2]),
        deposit=sometimes(lambda i: i % 2 == 0),
        extra=sometimes(lambda i: i * 7 % 5000 - 2500),
        seen=sometimes(lambda i: DAWN - timedelta(minutes=i)),
    )


def aggregates_of_all() -> dict[str, Any]:
    "Each aggregate over each field that it takes."
    members: dict[str, Any] = dict(
        n=Booking.count(over=["1d"]), gap=Booking.since_last(over=["1d"])
    )
    for name, field in Booking.fields.items():
        if not isinstance(field, Time):
            members[f"different_{name}"] = Booking.distinct(name, over=["1d"])
        if isinstance(field, (Fixed, Flag)):
            members[f"total_{name}"] = Booking.sum(name, over=["1d"])
            members[f"mean_{name}"] = Booking.mean(name, over=["1d"])
        if isinstance(field, (Fixed, Flag, Category)):
            members[f"first_{name}"] = Booking.first(name, over=["1d"])
            members[f"last_{name}"] = Booking.last(name, over=["1d"])
    conditions = dict(company=None, meal=[None, "full"], deposit=[None, True], seen=None)
    for name, value in conditions.items():
        members[f"with_{name}"] = Booking.count(over=["1d"], where={name: value})
    return members


@pytest.mark.parametrize("key", ["guest", "room", "agent", "paid", "price"])
def test_every_type_as_an_entity_and_as_a_measure(key):
    features = FeatureSet(Booking, [view(aggregates_of_all(), key), Row])
    assert_state_agrees(features, bookings())


def test_expressions_over_every_type_alone():
    "Also where everything optional is missing, or the frame has one row."
    features = FeatureSet(Booking, [Row])
    rows = bookings()
    whole = offline(features, rows, {}).drop("event_id")
    for i in range(rows.height):
        assert_same_bits(offline(features, rows[i : i + 1], {}).drop("event_id"), whole[i : i + 1])
    assert_same_bits(online_frame(features, rows, Nothing()), whole)


class Nothing:
    "A state that is never asked."

    def reader(self) -> Any:
        return nullcontext(None)


def test_a_value_comes_back_from_every_form():
    "Stored, shown, raw again; and what may be missing is missing in every form."
    for event in bookings(4).to_dicts():
        for name, field in Booking.fields.items():
            assert field.value(field.shown(event[name])) == event[name]
        shown = Booking.to_json(event)
        assert accept(Booking, shown) == event
    with pytest.raises(ValueError, match="missing"):
        Booking.fields["price"].value(None)


def test_a_request_without_what_may_be_missing():
    "Accepted as stored, checked in a frame, and computed with."
    needed = {k: v for k, v in Booking.to_json(bookings(1).row(0, named=True)).items()}
    for name, field in Booking.fields.items():
        if field.optional:
            del needed[name]
    request = accept(Booking, needed)
    good, bad = check(Booking, pl.DataFrame([needed]))
    assert good.row(0, named=True) == request
    assert bad.is_empty()
    features = FeatureSet(Booking, [Row])
    online = Online(features)(request, lambda asks: [])
    assert online["extra"] is None
    assert online["company_given"] is False


COUNTED = FeatureSet(
    Pay, [view(dict(n=Pay.count(over=["1d"]), bad=Outcome.sum("bad", over=["1d"])))]
)
EMPTY = pl.DataFrame(schema=Outcome.schema())
PAID = FeatureSet(Pay, [view(dict(spend=Pay.mean("amount", over=["1d"])))])
NOBODY = pl.when(pl.col("event_id") != "p0001").then("who")
NAIVE = pl.col("event_time").dt.replace_time_zone(None)
MISTAKES = {
    "a stream that is not there": (
        lambda call: call(COUNTED, pays(3), {Pay: pays(3)}),
        "no events of Outcome; these features read Pay, Outcome",
    ),
    "requests without a column": (
        lambda call: call(COUNTED, pays(3).drop("who"), {Pay: pays(3), Outcome: EMPTY}),
        "requests lack the column 'who' of Pay",
    ),
    "events without a column": (
        lambda call: call(COUNTED, pays(3), {Pay: pays(3), Outcome: EMPTY.drop("bad")}),
        "events of Outcome lack the column 'bad'",
    ),
    "requests in naive times": (
        lambda call: call(COUNTED, pays(3).with_columns(NAIVE), {Pay: pays(3), Outcome: EMPTY}),
        "'event_time' of the requests is Datetime",
    ),
    "amounts that are no stored ones": (
        lambda call: call(
            PAID, pays(3).with_columns(pl.col("amount").cast(pl.Float64)), {Pay: pays(3)}
        ),
        "'amount' of the requests is Float64 and must be Int64; give stored",
    ),
    "amounts of events that are no stored ones": (
        lambda call: call(
            PAID, pays(3), {Pay: pays(3).with_columns(pl.col("amount").cast(pl.Float64))}
        ),
        "'amount' of the events of Pay is Float64 and must be Int64",
    ),
    "requests of nobody": (
        lambda call: call(PAID, pays(3).with_columns(who=pl.lit(None, pl.Int64)), {Pay: pays(3)}),
        "'who' of the requests is null in some rows and is not optional",
    ),
    "events of nobody": (
        lambda call: call(PAID, pays(3), {Pay: pays(3).with_columns(who=NOBODY)}),
        "'who' of the events of Pay is null in some rows",
    ),
    "events without an amount": (
        lambda call: call(
            PAID, pays(3), {Pay: pays(3).with_columns(amount=pl.lit(None, pl.Int64))}
        ),
        "'amount' of the events of Pay is null in some rows",
    ),
    "events in naive times": (
        lambda call: call(COUNTED, pays(3), {Pay: pays(3).with_columns(NAIVE), Outcome: EMPTY}),
        "'event_time' of the events of Pay is Datetime",
    ),
}


@pytest.mark.parametrize("call", [offline, aggregates])
@pytest.mark.parametrize("what", MISTAKES)
def test_a_frame_that_cannot_be_used_ends_in_a_sentence(what, call):
    mistake, message = MISTAKES[what]
    with pytest.raises(ContractError, match=message):
        mistake(call)


class Strict(FeatureView):
    "Two expressions that hold for the words they were tried on."

    size = pl.col("amount") * 2
    digits = pl.col("place").cast(pl.Int64)
    twice = pl.col("digits").cast(pl.Float64) + 1


def test_an_expression_that_fails_on_data_is_named():
    "In a frame, and for one request."
    features = FeatureSet(Pay, [Strict])
    good, bad = pays(2, place=lambda i: "7"), pays(2, place=lambda i: "seven")
    assert offline(features, good, {})["twice"].to_list() == [8, 8]
    message = "the feature 'digits' fails on these values: .*seven.*\\. .*strict=False"
    for rows in (bad, bad[:1]):
        with pytest.raises(ContractError, match=message):
            offline(features, rows, {})
    with pytest.raises(ContractError, match=message):
        Online(features)(bad.row(0, named=True), lambda asks: [])


def test_a_request_in_naive_time_ends_in_a_sentence():
    request = pays(1).row(0, named=True) | dict(event_time=datetime(2025, 3, 1))
    with pytest.raises(ContractError, match="no time zone"):
        Online(COUNTED)(request, lambda asks: [])
    aware = request | dict(event_time=datetime(2025, 3, 1, tzinfo=timezone.utc))
    nothing = lambda asks: [(0, [(0, [0] * len(a[0].facts))] * len(a[3])) for a in asks]
    assert Online(COUNTED)(aware, nothing)["who_n_1d"] == 1
