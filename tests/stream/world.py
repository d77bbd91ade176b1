"""Events that keep coming, in batches that overlap, with late, dirty, repeated and contradicting
ones; plain Python, so that a producer needs no Polars."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

STEP, SIZE = 15, 20  # a batch has SIZE payments, of which the last few come again in the next one
START = datetime(2025, 3, 28, 21, tzinfo=timezone.utc)
Row = dict[str, Any]


def pay(i: int) -> Row:
    "Payment i; every fifth is three hours late, some happen at the same moment."
    at = (
        START
        + timedelta(minutes=11 * (i - i % 2))
        - (timedelta(hours=3) if i % 5 == 0 else timedelta(0))
    )
    return dict(
        event_id=f"e{i}",
        event_time=at.isoformat(),
        who=i % 4 - 1,
        place=("a", "ab", "é")[i % 3],
        amount=i * 37 % 1000 + 0.25,
        online=i % 2 == 0,
        kind=("card", "cash")[i % 7 < 3],
    )


def outcome(i: int) -> Row:
    "What became of payment i."
    p = pay(i)
    known = datetime.fromisoformat(p["event_time"]) + timedelta(hours=i % 30)
    return dict(
        event_id=f"e{i}/outcome",
        event_time=known.isoformat(),
        pay_id=p["event_id"],
        who=p["who"],
        place=p["place"],
        bad=i % 6 == 0,
        source="outcome",
    )


def dirty(n: int) -> Row:
    return {**pay(n * STEP), "event_id": f"dirty {n}", "amount": -1.0}


def lie(n: int) -> Row:
    return {**pay(n * STEP), "amount": 5000.5}  # contradicts the batch before


def pay_ids(batches: int) -> set[str]:
    return {f"e{i}" for i in range((batches - 1) * STEP + SIZE)} if batches else set()


def outcome_ids(batches: int) -> set[str]:
    return {f"e{i}/outcome" for i in range(batches * STEP)}


def batch(n: int) -> list[tuple[str, Row]]:
    "The events of batch n, with the names of their streams."
    pays = (
        [pay(i) for i in range(n * STEP, n * STEP + SIZE)]
        + [dirty(n)]
        + ([lie(n - 1)] if n % 4 == 1 else [])
    )
    return [("pay", row) for row in pays] + [
        ("outcome", outcome(i)) for i in range(n * STEP, (n + 1) * STEP)
    ]


def drop(inbox: Path, n: int) -> None:
    "Batch n as one file a stream, renamed into place."
    for stream in ("pay", "outcome"):
        part = inbox / f".{n:05}-{stream}"
        part.write_text("".join(json.dumps(row) + "\n" for s, row in batch(n) if s == stream))
        os.replace(part, inbox / f"{n:05}-{stream}.jsonl")


def send(redis: Any, key: str, n: int) -> None:
    "Batch n as entries, with one that is no JSON and one of an unknown stream."
    with redis.pipeline(transaction=False) as pipe:
        for stream, row in batch(n):
            pipe.xadd(key, dict(stream=stream, event=json.dumps(row)))
        pipe.xadd(key, dict(stream="pay", event=f"{{half {n}"))
        pipe.xadd(key, dict(stream="refund", event=json.dumps(dict(n=n))))
        pipe.execute()
