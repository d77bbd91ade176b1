"A third use case, as small as one can be: tickets with what the others lack, and a file of them."

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from pathlib import Path

import polars as pl

from mlkit.etl import SourceFormat
from mlkit.events import Stream
from mlkit.features import FeatureSet, FeatureView
from mlkit.fields import Category, Fixed, Flag, Text, Time
from mlkit.policy import Policy, Route
from mlkit.splits import LabelRule, Plan
from mlkit.usecase import UseCase


class Ticket(Stream):
    account = Text("who asks")
    urgent = Flag("marked as urgent")
    waited = Fixed("minutes on the line, where it was a call", places=1, high=600, optional=True)
    channel = Category("how it came, where that is known", values=("mail", "call"), optional=True)


class Verdict(Stream):
    ticket = Text("the ticket's event_id")
    account = Text("who asked")
    escalated = Flag("did it have to be; missing takes the verdict before it back", optional=True)


class Account(FeatureView, key="account"):
    n = Ticket.count(over=["7d", "30d"])
    wait = Ticket.mean("waited", over=["30d"])
    channels = Ticket.distinct("channel", over=["30d"])
    how = Ticket.last("channel", over=["30d"])
    trouble = Verdict.mean("escalated", over=["30d"])


class Ask(FeatureView):
    urgent = pl.col("urgent")
    waited = pl.col("waited")
    channel = pl.col("channel")
    long = pl.col("waited") > pl.col("account_wait_30d")


_VERDICT = dict(
    event_id=pl.col("event_id") + "/verdict",
    event_time=pl.col("closed"),
    ticket=pl.col("event_id"),
    account=pl.col("account"),
    escalated=pl.col("escalated"),
)

TICKETS = SourceFormat(
    "tickets",
    Ticket,
    columns={n: n for n in (*Ticket.fields, "closed", "escalated")},
    extra=dict(closed=Time(optional=True), escalated=Flag()),
    derive={Verdict: _VERDICT},
)
WITHDRAWN = SourceFormat("withdrawn", Verdict, columns={n: n for n in Verdict.fields})

usecase = UseCase(
    name="tiny",
    request=Ticket,
    labels=LabelRule(Verdict, refers="ticket", value="escalated"),
    formats=[TICKETS, WITHDRAWN],
    features=FeatureSet(Ticket, [Account, Ask]),
    policy=Policy("tiny-1", (Route("answer"), Route("desk", human=True, probability=0.5))),
    plan=Plan(train=21, wait=4, test=7, folds=2, step=7),
    entity="event_id",
    example=dict(event_id="t1", event_time="2025-03-01T09:00:00Z", account="ann", urgent=False),
)


def write(
    folder: Path,  # gets `tickets.csv` and `withdrawn.csv`
    rows: int = 700,
) -> str:  # a glob of both
    "Ten tickets a day; the urgent ones of some accounts are escalated, and a few of those not."
    chance, start = random.Random(0), datetime(2025, 1, 1, tzinfo=timezone.utc)
    tickets, withdrawn = [], []
    for i in range(rows):
        when = start + timedelta(minutes=144 * i + chance.randrange(100))
        account, call = chance.choice("abcdefgh"), chance.random() < 0.6
        risk = 0.1 + 0.3 * (account in "abc") + 0.3 * (urgent := chance.random() < 0.4)
        closed = when + timedelta(hours=chance.randrange(2, 72))
        ticket = dict(event_id=f"t{i:03}", event_time=when.isoformat(), account=account)
        ticket |= dict(urgent=urgent, waited=round(chance.random() * 30, 1) if call else None)
        ticket |= dict(channel=chance.choice(["call", None]) if call else "mail")
        tickets.append(ticket | dict(closed=closed.isoformat(), escalated=chance.random() < risk))
        if tickets[-1]["escalated"] and i % 9 == 0:
            back = dict(event_id=f"t{i:03}/back", ticket=f"t{i:03}", account=account)
            later = (closed + timedelta(days=2)).isoformat()
            withdrawn.append(back | dict(event_time=later, escalated=None))
    pl.DataFrame(tickets).write_csv(folder / "tickets.csv")
    pl.DataFrame(withdrawn).write_csv(folder / "withdrawn.csv")
    return str(folder / "*.csv")
