"""A writer of the log in a process of its own.

`land FOLDER FIRST LAST [N]` lands the batches from FIRST to before LAST, saying each one's name,
and kills itself at the N-th call or return of a function; without N it ends by
saying how many there were. It waits for a line on its input first, so that several can start
together.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import polars as pl

from mlkit.etl import Batch, Logs, land
from mlkit.events import Stream
from mlkit.fields import Fixed, Key

SIZE = 20  # rows of a batch
STEP = 15  # of which these are new; the others come again from the batch before
DIRTY = 2  # rows of a batch that break the contract


class Pay(Stream):
    who = Key()
    amount = Fixed(places=2)


def event_ids(n: int) -> list[str]:
    return [f"e{i}" for i in range(n * STEP, n * STEP + SIZE)]


def batch(n: int) -> pl.DataFrame:
    "The raw rows of a batch: good ones over several days, and dirty ones."
    rows = [
        dict(
            event_id=e,
            event_time=datetime(2025, 1, 1, tzinfo=timezone.utc) + timedelta(hours=int(e[1:])),
            who=int(e[1:]) % 7,
            amount=float(e[1:]),
        )
        for e in event_ids(n)
    ]
    return pl.DataFrame(
        rows
        + [
            dict(event_id=f"dirty {n}/{i}", event_time=rows[0]["event_time"], who=1, amount=-1.0)
            for i in range(DIRTY)
        ]
    )


def land_batches(folder: Path, first: int, last: int) -> None:
    logs = Logs(folder)
    for n in range(first, last):
        land(logs, Batch.checked(f"batch {n}", {Pay: batch(n)}))
        print(n, flush=True)


def counting(last: int | None) -> list[int]:
    "Count calls and returns from now on, and die at the last one."
    count = [0]

    def step(*_: object) -> None:
        count[0] += 1
        if count[0] == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(step)
    return count


if __name__ == "__main__":
    folder, first, last, *dies = sys.argv[1:]
    print("ready", flush=True)
    sys.stdin.readline()
    count = counting(int(dies[0]) if dies else None)
    land_batches(Path(folder), int(first), int(last))
    sys.setprofile(None)
    print("steps", count[0], flush=True)
