"""Backfill at scale: time and peak memory by rows, within a memory setting, and on a Dask cluster of 1 and 2 workers.

    python benchmarks/scale.py [--rows 100000,1000000,10000000,30000000] [--memory 2048] [--huge] [--no-cluster]

Generated payments with the features of `usecases/fraud`: busy and quiet customers and terminals (power laws), half a year, every payment labelled a
week later. `--huge` adds 10⁸ rows in 2,048 MB, which takes about 25 GB of disk and eight minutes. Every measurement is a process of its own,
whose peak memory the kernel tells (`VmHWM`). The events of a measurement are those of both streams. The last table is an extrapolation and says so.
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
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import polars as pl
from deltalake import write_deltalake

from mlkit.backfill import backfill
from mlkit.etl import Logs
from mlkit.events import TIME
from mlkit.executors import Dask
from mlkit.units import costs
from mlkit.usecases.fraud import Label, Transaction, features

HERE, START, DAYS = Path(__file__).resolve().parent, datetime(2025, 1, 1, tzinfo=timezone.utc), 180


def payments(
    rng: np.random.Generator, first: int, n: int, total: int, day: float, days: float
) -> pl.DataFrame:
    "Payments of some days: seconds of a day around noon, rates of customers and terminals by a power law."
    seconds = (day + np.sort(rng.random(n)) * days) * 86_400
    return pl.DataFrame(
        dict(
            event_time=pl.Series((seconds * 1e6).astype(np.int64)).cast(pl.Duration("us")),
            customer_id=(max(1, total // 350) * rng.random(n) ** 1.6).astype(np.int64),
            terminal_id=(max(1, total // 175) * rng.random(n) ** 2.0).astype(np.int64),
            amount=np.minimum(rng.lognormal(8.0, 1.0, n), 1e7).astype(np.int64),
            is_fraud=rng.random(n) < 0.01,
        )
    ).with_columns(
        event_time=pl.lit(START) + pl.col("event_time"),
        seq=pl.int_range(first, first + n, dtype=pl.Int64),
        event_id="p" + pl.int_range(first, first + n).cast(pl.String),
    )


def generate(folder: Path, total: int) -> None:
    "Write both logs, a million rows or a day at a time."
    rng, logs, batch = np.random.default_rng(total), Logs(folder), min(1_000_000, total)
    for first in range(0, total, batch):
        n = min(batch, total - first)
        rows = payments(rng, first, n, total, DAYS * first / total, DAYS * n / total)
        labels = rows.with_columns(
            transaction_id="event_id",
            event_id=pl.col("event_id") + "/outcome",
            event_time=pl.col("event_time") + timedelta(days=7),
            source=pl.lit("outcome"),
        )
        for stream, frame in ((Transaction, rows), (Label, labels)):
            full = frame.with_columns(
                batch_id=pl.lit("generated"),
                ingested_at=pl.lit(START, TIME),
                event_date=pl.col("event_time").dt.date(),
            ).select(list(logs[stream].schema))
            write_deltalake(logs[stream].uri, full, mode="append", partition_by=["event_date"])


def measure(*arguments: str) -> dict:
    "This script's `one` in a process of its own."
    said = subprocess.run(
        [sys.executable, __file__, "one", *arguments], capture_output=True, text=True
    )
    if said.returncode:
        raise SystemExit(said.stderr)
    print(said.stdout.strip().splitlines()[-1], flush=True)
    return json.loads(said.stdout.strip().splitlines()[-1])


def peak_mb() -> int:
    "Most memory that this process has held. `ru_maxrss` would count what its parent held when it started it."
    return (
        int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
        // 1024
    )


def one(folder: str, memory: str, workers: str) -> None:
    "One backfill of the logs in a folder; workers 0: in this process."
    out, logs = Path(folder) / "features", Logs(folder)
    start = time.perf_counter()
    if int(workers):
        from distributed import Client, LocalCluster

        os.environ["POLARS_MAX_THREADS"] = (
            "1"  # of the workers, which start after this: one core each
        )
        with (
            LocalCluster(
                n_workers=int(workers),
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
                memory_limit=0,
            ) as cluster,
            Client(cluster) as client,
        ):
            client.run(lambda: __import__("mlkit.backfill"))
            start = time.perf_counter()
            done = backfill(features, logs, out, executor=Dask(client), memory_mb=int(memory))
            seconds = time.perf_counter() - start
            peak = max(client.run(peak_mb).values())
    else:
        done = backfill(features, logs, out, memory_mb=int(memory))
        seconds, peak = time.perf_counter() - start, peak_mb()
    print(
        json.dumps(
            dict(
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
        )
    )


def memory_for(events: int) -> tuple[int, int]:
    "GB of a worker with which a key's pieces stay below ten million, and how many there are: at the same memory they grow with the square of the events."
    for gb in (2, 8, 32, 128, 512):
        cost, rows = costs(gb * 1024), events // 2
        buckets = max(cost.bucket_counts(features, {s.name: rows for s in (Transaction, Label)}))
        pieces = buckets * -(-rows // cost.slice_rows(features, Transaction))
        if pieces < 10**7:
            break
    return gb, pieces


def extrapolated(cluster: list[dict]) -> list[dict]:
    "What N workers would take, from the measured cost of an event: work divided by workers, times the efficiency seen from one to two."
    alone, two = cluster[0], cluster[1]
    efficiency = alone["seconds"] / two["seconds"] / 2
    return [
        dict(
            events=events,
            workers=n,
            gb_each=memory_for(events)[0],
            pieces=memory_for(events)[1],
            minutes=round(events * alone["microseconds_per_event"] / 1e6 / n / efficiency / 60, 1),
        )
        for events in (10**9, 10**11)
        for n in (2, 16, 128, 1024)
    ]


def picture(results: dict, path: Path) -> None:
    "Time and memory by rows, both axes logarithmic."
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    x = [r["rows"] for r in results["linear"]]
    left.loglog(x, [r["seconds"] for r in results["linear"]], "o-", label="measured")
    left.loglog(
        x,
        [results["linear"][-1]["seconds"] * n / x[-1] for n in x],
        "--",
        color="0.6",
        label="proportional to rows",
    )
    left.set(xlabel="requests (as many labels besides)", ylabel="seconds", title="Time")
    left.legend()
    right.semilogx(x, [r["peak_mb"] for r in results["linear"]], "o-", label="peak of the process")
    right.axhline(results["memory_setting_mb"], ls="--", color="0.6", label="setting")
    right.set(
        xlabel="requests (as many labels besides)", ylabel="MB", ylim=(0, None), title="Peak memory"
    )
    right.legend()
    fig.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", default="100000,1000000,10000000,30000000")
    parser.add_argument("--memory", type=int, default=2048)
    parser.add_argument("--huge", action="store_true")
    parser.add_argument("--no-cluster", action="store_true")
    parser.add_argument("--cluster-rows", type=int, default=3_000_000)
    given = parser.parse_args()
    results: dict = dict(
        cores=os.cpu_count(), memory_setting_mb=given.memory, linear=[], cluster=[]
    )
    for rows, workers in (
        [(int(n), 0) for n in given.rows.split(",")]
        + [(10**8, 0)] * given.huge
        + [(given.cluster_rows, n) for n in (1, 2)] * (not given.no_cluster)
    ):
        folder = Path(tempfile.mkdtemp())
        try:
            generate(folder, rows)
            results["cluster" if workers else "linear"].append(
                measure(str(folder), str(given.memory), str(workers))
            )
        finally:
            shutil.rmtree(folder)
    if results["cluster"]:
        results["extrapolated"] = extrapolated(results["cluster"])
    for r in results.get("extrapolated", ()):
        print(
            f"{r['events']:.0e} events on {r['workers']:>4} such workers of {r['gb_each']} GB: {r['minutes']:,.1f} min (extrapolated), {r['pieces']:,} pieces a key"
        )
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "scale.json").write_text(json.dumps(results, indent=1))
    picture(results, HERE / "results" / "scale.png")


if __name__ == "__main__":
    one(*sys.argv[2:]) if sys.argv[1:2] == ["one"] else main()
