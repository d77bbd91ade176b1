"A use case of a project's own: will a booking be cancelled? No simulator, no review, no first cut."

from datetime import datetime, timedelta, timezone
from pathlib import Path

import polars as pl

from mlkit.etl import SourceFormat
from mlkit.events import Stream
from mlkit.features import FeatureSet, FeatureView
from mlkit.fields import Category, Fixed, Flag, Key, Text, Time
from mlkit.policy import Policy, Route
from mlkit.splits import LabelRule, Plan
from mlkit.usecase import UseCase


class Booking(Stream):
    "A booking, as it is asked about."

    guest = Key("who is to stay")
    agent = Text("who booked")
    price = Fixed("what it costs", places=2, high=10_000, unit="EUR")
    segment = Category("the kind of guest", values=("group", "single"))


class Outcome(Stream):
    "What became of a booking; its time is when that was known."

    booking_id = Text("the booking's event_id")
    agent = Text("who booked")
    cancelled = Flag("was it cancelled")


OUTCOME = dict(
    event_id=pl.col("event_id") + "/outcome",
    event_time=pl.col("known"),
    booking_id=pl.col("event_id"),
    agent=pl.col("agent"),
    cancelled=pl.col("cancelled"),
)
FILES = SourceFormat(
    "bookings",
    Booking,
    columns=dict(
        id="event_id",
        made="event_time",
        guest="guest",
        agent="agent",
        price="price",
        segment="segment",
        cancelled="cancelled",
        known="known",
    ),
    extra=dict(cancelled=Flag(), known=Time("when the outcome was known")),
    derive={Outcome: OUTCOME},
)


class Agent(FeatureView, key="agent"):
    "What became of this agent's bookings, as far as known."

    n = Booking.count(over=["7d"])
    cancelled = Outcome.mean("cancelled", over=["14d"], empty=0.0)


class Offer(FeatureView):
    "The booking itself."

    price = pl.col("price")
    group = pl.col("segment") == "group"


usecase = UseCase(
    name="bookings",
    request=Booking,
    labels=LabelRule(Outcome, refers="booking_id", value="cancelled"),
    formats=[FILES],
    features=FeatureSet(Booking, [Agent, Offer]),
    policy=Policy(
        "bookings-1", routes=(Route("accept"), Route("call", human=True, probability=0.6))
    ),
    plan=Plan(train=14, wait=3, test=7, folds=2, step=7),
    entity="guest",
    example=dict(
        event_id="b000001",
        event_time="2025-03-01T10:15:00Z",
        guest=17,
        agent="a3",
        price=120.0,
        segment="single",
    ),
)


def write_bookings(path: Path, days: int = 70, per_day: int = 40) -> Path:
    "Bookings of some agents, of whom some lose more guests than others."
    start, rows = datetime(2025, 1, 1, tzinfo=timezone.utc), []
    for number in range(days * per_day):
        made = start + timedelta(days=number / per_day)
        agent = number * 7919 % 12
        cancelled = (number * 104_729 % 97) < (70 if agent % 4 == 0 else 15)
        rows.append(
            dict(
                id=f"b{number:06}",
                made=made,
                guest=number,
                agent=f"a{agent}",
                price=round(50 + number * 31 % 400 + 0.5, 2),
                segment="group" if number % 3 == 0 else "single",
                cancelled=cancelled,
                known=made + timedelta(days=1 + number % 2),
            )
        )
    pl.DataFrame(rows).write_parquet(path)
    return path
