"""Backfill at scale: time and peak memory by rows, and on a Dask cluster of 1 and 2 workers.

    python benchmarks/scale.py [--rows 100000,1000000,10000000,30000000] [--memory 2048]
                               [--huge] [--no-cluster] [--cluster-rows 3000000]

Generated payments with the features of `usecases/fraud`: busy and quiet customers and terminals
(power laws), half a year, every payment labelled a week later. `--huge` adds 10⁸ rows in 2,048 MB,
which takes about 25 GB of disk and eight minutes. Every measurement is a process of its own, whose
peak memory the kernel tells (`VmHWM`). The events of a measurement are those of both streams. The
last table is an extrapolation and says so.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from deltalake import write_deltalake

from mlkit.backfill import Backfilled, backfill
from mlkit.etl import Logs
from mlkit.events import Stream
from mlkit.executors import Dask
from mlkit.fields import TIME
from mlkit.tables import claiming
from mlkit.units import costs
from mlkit.usecases.fraud import Label, Transaction, features

HERE = Path(__file__).resolve().parent
START, DAYS = datetime(2025, 1, 1, tzinfo=timezone.utc), 180


def payments(
    rng: np.random.Generator,
    first: int,  # number of the first payment
    n: int,
    total: int,
    day: float,  # they happen on this day …
    days: float,  # … and so many days
) -> pl.DataFrame:
    "Payments of some days, rates of customers and terminals by a power law."
    seconds = (day + np.sort(rng.random(n)) * days) * 86_400
    since = pl.Series((seconds * 1e6).astype(np.int64)).cast(pl.Duration("us"))
    frame = pl.DataFrame(
        dict(
            event_time=since,
            customer_id=(max(1, total // 350) * rng.random(n) ** 1.6).astype(np.int64),
            terminal_id=(max(1, total // 175) * rng.random(n) ** 2.0).astype(np.int64),
            amount=np.minimum(rng.lognormal(8.0, 1.0, n), 1e7).astype(np.int64),
            is_fraud=rng.random(n) < 0.01,
        )
    )
    return frame.with_columns(
        event_time=pl.lit(START) + pl.col("event_time"),
        seq=pl.int_range(first, first + n, dtype=pl.Int64),
        event_id="p" + pl.int_range(first, first + n).cast(pl.String),
    )


def labels_of(rows: pl.DataFrame) -> pl.DataFrame:
    "What becomes known of payments a week later."
    return rows.with_columns(
        transaction_id="event_id",
        event_id=pl.col("event_id") + "/outcome",
        event_time=pl.col("event_time") + timedelta(days=7),
        source=pl.lit("outcome"),
    )


def write(logs: Logs, stream: type[Stream], frame: pl.DataFrame) -> None:
    "Append to a log without the checks of `eventlog.append`."
    full = frame.with_columns(
        batch_id=pl.lit("generated"),
        ingested_at=pl.lit(START, TIME),
        event_date=pl.col("event_time").dt.date(),
    ).select(list(logs[stream].schema))
    write_deltalake(
        logs[stream].uri,
        full,
        mode="append",
        partition_by=["event_date"],
        commit_properties=claiming(seq=int(full["seq"].max()) + 1),
    )


def generate(folder: Path, total: int) -> None:
    "Write both logs, a million rows or a day at a time."
    rng, logs, batch = np.random.default_rng(total), Logs(folder), min(1_000_000, total)
    for first in range(0, total, batch):
        n = min(batch, total - first)
        rows = payments(rng, first, n, total, DAYS * first / total, DAYS * n / total)
        write(logs, Transaction, rows)
        write(logs, Label, labels_of(rows))


def peak_mb() -> int:
    "Most memory that this process has held; `ru_maxrss` would count what its parent held."
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) // 1024
    raise OSError("the kernel does not tell")


@contextmanager
def cluster(workers: int) -> Iterator[Any]:
    "A client of a local cluster whose workers have one core each, with the package imported."
    from distributed import Client, LocalCluster

    os.environ["POLARS_MAX_THREADS"] = "1"  # of the workers, which start after this
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=0,
        ) as local,
        Client(local) as client,
    ):
        client.run(lambda: __import__("mlkit.backfill"))
        yield client


def timed(folder: str, memory_mb: int, **options: Any) -> tuple[Backfilled, float]:
    "A backfill, and its seconds."
    start = time.perf_counter()
    out = Path(folder) / "features"
    done = backfill(features, Logs(folder), out, memory_mb=memory_mb, **options)
    return done, time.perf_counter() - start


def one(folder: str, memory: str, workers: str) -> None:
    "One backfill of the logs in a folder; workers 0: in this process."
    if int(workers):
        with cluster(int(workers)) as client:
            done, seconds = timed(folder, int(memory), executor=Dask(client))
            peak = max(client.run(peak_mb).values())
    else:
        done, seconds = timed(folder, int(memory))
        peak = peak_mb()
    result = dict(
        rows=done.rows,
        events=2 * done.rows,
        workers=int(workers),
        memory_setting_mb=int(memory),
        seconds=round(seconds, 2),
        peak_mb=peak,
        slices=done.blocks,
        buckets=done.buckets,
        units=done.units,
        microseconds_per_event=round(seconds / done.rows / 2 * 1e6, 3),
    )
    print(json.dumps(result))


def measure(rows: int, memory: int, workers: int) -> dict[str, Any]:
    "`one` in a process of its own, on logs of its own."
    folder = tempfile.mkdtemp()
    try:
        generate(Path(folder), rows)
        command = [sys.executable, __file__, "one", folder, str(memory), str(workers)]
        done = subprocess.run(command, capture_output=True, text=True)
    finally:
        shutil.rmtree(folder)
    if done.returncode:
        raise SystemExit(done.stderr)
    line = done.stdout.strip().splitlines()[-1]
    print(line, flush=True)
    return json.loads(line)


def memory_for(events: int) -> tuple[int, int]:
    """GB of a worker with which an entity's pieces stay below ten million, and how many they are.

    At the same memory the pieces grow with the square of the events.
    """
    rows = events // 2
    for gb in (2, 8, 32, 128, 512):
        cost = costs(gb * 1024)
        buckets = max(cost.bucket_counts(features, {s.name: rows for s in (Transaction, Label)}))
        pieces = buckets * -(-rows // cost.slice_rows(features, Transaction))
        if pieces < 10**7:
            break
    return gb, pieces


def extrapolated(alone: dict[str, Any], two: dict[str, Any]) -> list[dict[str, Any]]:
    "What N workers would take: work divided by workers, at the efficiency seen from one to two."
    efficiency, table = alone["seconds"] / two["seconds"] / 2, []
    for events in (10**9, 10**11):
        gb, pieces = memory_for(events)
        seconds = events * alone["microseconds_per_event"] / 1e6 / efficiency
        for n in (2, 16, 128, 1024):
            minutes = round(seconds / n / 60, 1)
            table.append(dict(events=events, workers=n, gb_each=gb, pieces=pieces, minutes=minutes))
    return table


def picture(results: dict[str, Any], path: Path) -> None:
    "Time and memory by rows, both axes logarithmic."
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    measured, x_label = results["linear"], "requests (as many labels besides)"
    rows, seconds = [r["rows"] for r in measured], [r["seconds"] for r in measured]
    proportional = [seconds[-1] * n / rows[-1] for n in rows]
    left.loglog(rows, seconds, "o-", label="measured")
    left.loglog(rows, proportional, "--", color="0.6", label="proportional to rows")
    left.set(xlabel=x_label, ylabel="seconds", title="Time")
    left.legend()
    right.semilogx(rows, [r["peak_mb"] for r in measured], "o-", label="peak of the process")
    right.axhline(results["memory_setting_mb"], ls="--", color="0.6", label="setting")
    right.set(xlabel=x_label, ylabel="MB", ylim=(0, None), title="Peak memory")
    right.legend()
    figure.savefig(path, dpi=120)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", default="100000,1000000,10000000,30000000")
    parser.add_argument("--memory", type=int, default=2048)
    parser.add_argument("--huge", action="store_true")
    parser.add_argument("--no-cluster", action="store_true")
    parser.add_argument("--cluster-rows", type=int, default=3_000_000)
    return parser.parse_args()


def main() -> None:
    given = parsed()
    sizes = [int(n) for n in given.rows.split(",")] + [10**8] * given.huge
    results: dict[str, Any] = dict(cores=os.cpu_count(), memory_setting_mb=given.memory)
    results["linear"] = [measure(n, given.memory, 0) for n in sizes]
    results["cluster"] = []
    if not given.no_cluster:
        results["cluster"] = [measure(given.cluster_rows, given.memory, n) for n in (1, 2)]
        results["extrapolated"] = extrapolated(*results["cluster"])
    for r in results.get("extrapolated", ()):
        print(
            f"{r['events']:.0e} events on {r['workers']:>4} such workers of {r['gb_each']} GB: "
            f"{r['minutes']:,.1f} min (extrapolated), {r['pieces']:,} pieces an entity"
        )
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "scale.json").write_text(json.dumps(results, indent=1))
    picture(results, HERE / "results" / "scale.png")


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        one(*sys.argv[2:])
    else:
        main()
