"""Backfill of the fifteen handbook features: ours, NumPy, Polars, DuckDB, and Feast's join.

    python benchmarks/features.py [payments.parquet] [--quick] [--no-feast]

Without a file, the bundled simulator makes about 1.2 million payments. First the way from file to
log: reading, contract check, append. Then every variant of `backfills.py` in turn, five rounds in
one process: medians, and the ratio of each to ours round by round. Every variant's values are
compared with ours; a difference beyond the last bit must be a tie (another event of the same key
in the same microsecond, or exactly a window's length ago), or the benchmark fails. Peak memory is
that of a process which reads the data and runs one variant once.

Feast computes no windows: it is given the twelve windowed features ready-made, and joins them to
the payments as of their time. It is much slower, so it gets growing numbers of rows until one
takes more than two minutes or 8 GB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl
from backfills import DAYS, VARIANTS, Data
from common import feast, keep, peak_mb

from mlkit.etl import Logs, ingest
from mlkit.eventlog import scan
from mlkit.usecases.fraud import Label, Transaction, usecase

STORES, ROWS, SECONDS, GB = ("file", "duckdb"), (50_000, 300_000), 120, 8


def read(folder: Path) -> Data:
    return Data(pl.read_parquet(folder / "tx.parquet"), pl.read_parquet(folder / "labels.parquet"))


def prepare(source: Path, folder: Path) -> dict[str, Any]:
    "From the file to the log, and from the log to two files that every process reads."
    logs = Logs(folder)
    start = time.perf_counter()
    done = ingest(source, usecase.formats, logs)
    seconds = time.perf_counter() - start
    for stream, name in ((Transaction, "tx"), (Label, "labels")):
        scan(logs[stream]).collect().write_parquet(folder / f"{name}.parquet")
    return dict(rows=done.rows, ingest_to_log_s=round(seconds, 2))


def ties(d: Data) -> pl.Series:
    "Payments with an event of theirs at the very same time, or exactly a window's length ago."
    by_customer = ["customer_id", "event_time"]
    same = d.tx.group_by(by_customer).len().filter(pl.col("len") > 1).drop("len")
    wanted = [("customer_id", same, 0)]
    wanted += [("customer_id", d.tx, days) for days in DAYS]
    wanted += [("terminal_id", d.labels, days) for days in (0, *DAYS)]
    found = []
    for key, events, days in wanted:
        moved = events.select(key, pl.col("event_time").dt.offset_by(f"{days}d"))
        found.append(d.tx.join(moved, on=[key, "event_time"], how="semi")["event_id"])
    return pl.concat(found).unique()


def compare(ours: pl.DataFrame, theirs: pl.DataFrame, tied: pl.Series) -> dict[str, int]:
    "Rows that differ: in the last bit only, or because of ties."
    names = [c for c in theirs.columns if c != "event_id"]
    both = theirs.join(ours, on="event_id", suffix="_ours", validate="1:1")
    if both.height != theirs.height:
        raise SystemExit("rows are missing, or were made up")
    far, differs = [], []
    for n in names:
        mine, yours = pl.col(f"{n}_ours"), pl.col(n)
        apart = (yours.cast(pl.Float64) - mine.cast(pl.Float64)).abs()
        # two units in the last place
        beyond = apart > 4.5e-16 * mine.cast(pl.Float64).abs()
        far.append(beyond.fill_null(False) | (yours.is_null() != mine.is_null()))
        differs.append(yours.ne_missing(mine))
    rows = both.select(
        differs=pl.any_horizontal(differs),
        far=pl.any_horizontal(far),
        tied=pl.col("event_id").is_in(tied.implode()),
    )
    unequal = rows.filter("differs", "far")
    unexplained = unequal.filter(~pl.col("tied")).height
    if unexplained:
        raise SystemExit(f"{unexplained} rows differ, and no tie explains it")
    last_bit = rows.filter(pl.col("differs") & ~pl.col("far")).height
    return dict(compared=both.height, last_bit=last_bit, ties=unequal.height)


def side_by_side(d: Data, rounds: int) -> tuple[dict[str, Any], pl.DataFrame, pl.Series]:
    "Every variant, in turn, `rounds` times after one that does not count."
    d.duck  # noqa: B018 - built beforehand: the tables are DuckDB's, as the frames are Polars'
    taken: dict[str, list[float]] = {name: [] for name in VARIANTS}
    frames = {name: run(d) for name, run in VARIANTS.items()}
    tied = ties(d)
    differ = {name: compare(frames["ours"], frame, tied) for name, frame in frames.items()}
    ours = frames.pop("ours")
    frames.clear()
    for _ in range(rounds):
        for name, run in VARIANTS.items():
            start = time.perf_counter()
            run(d)
            taken[name].append(time.perf_counter() - start)
    result = {}
    for name, seconds in taken.items():
        ratios = [o / t for o, t in zip(taken["ours"], seconds)]
        result[name] = dict(
            median_s=round(statistics.median(seconds), 2),
            min_s=round(min(seconds), 2),
            ours_over_it=round(statistics.median(ratios), 2),
            differs_from_ours=differ[name],
        )
    return result, ours, tied


def alone(name: str, folder: Path) -> None:
    "One variant in this process; its memory, before and at the peak."
    d = read(folder)
    if name == "duckdb":
        d.duck  # noqa: B018
    before = peak_mb()
    VARIANTS[name](d)
    print(json.dumps(dict(peak_mb=peak_mb(), of_it_data_mb=before)))


def memory_of(name: str, folder: Path) -> dict[str, int]:
    "What `alone` prints, in a process of its own."
    command = [sys.executable, __file__, str(folder), "--alone", name]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(printed)


def joined_by_feast(
    folder: Path, d: Data, ours: pl.DataFrame, tied: pl.Series, sizes: list[int]
) -> dict[str, Any]:
    "Feast's point-in-time join of our finished features, for growing numbers of payments."
    windowed = [c for c in ours.columns if c.startswith(("customer_", "terminal_"))]
    d.tx.select("event_id", "event_time", "customer_id", "terminal_id").join(
        ours.select("event_id", *windowed), on="event_id"
    ).sort("event_time").write_parquet(folder / "finished.parquet")
    out: dict[str, Any] = {}
    for store in STORES:
        out[store] = {}
        for n in sizes:
            done = feast("offline", folder, store, n, seconds=SECONDS, gb=GB)
            out[store][f"{n:,} rows"] = done
            if "seconds" not in done:
                break
            joined = pl.read_parquet(folder / "joined.parquet")
            done["differs_from_ours"] = compare(ours, joined, tied)
    return out


def draw(axes: Any, result: dict[str, Any]) -> None:
    "Rows a second: what all of them have in common."
    n = result["rows"]
    bars = {name: n / v["median_s"] for name, v in result["variants"].items()}
    for store, runs in result.get("feast", {}).items():
        for size, run in runs.items():
            if "seconds" in run:
                bars[f"Feast ({store}), join only,\n{size}"] = run["rows"] / run["seconds"]
    colours = ["tab:blue"] + ["tab:gray"] * (len(bars) - 1)
    axes.barh(list(bars), list(bars.values()), color=colours)
    axes.bar_label(axes.containers[0], fmt="{:,.0f}", padding=3)
    axes.set(
        xscale="log",
        xlabel="payments a second, fifteen features each (log scale)",
        title=f"Backfill of {n:,} payments",
    )
    axes.invert_yaxis()
    axes.margins(x=0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-feast", action="store_true")
    parser.add_argument("--alone", choices=VARIANTS, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.alone:
        return alone(a.alone, a.source)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = a.source or usecase.simulator(
            folder / "source.parquet",
            customers=500 if a.quick else 5000,
            terminals=1000 if a.quick else 10_000,
            days=120,
        )
        result = prepare(source, folder)
        d = read(folder)
        result["variants"], ours, tied = side_by_side(d, 2 if a.quick else 5)
        for name, variant in result["variants"].items():
            variant["memory_alone"] = memory_of(name, folder)
        if not a.no_feast:
            sizes = ROWS[:1] if a.quick else (*ROWS, d.tx.height)
            sizes = [n for n in sizes if n <= d.tx.height]
            result["feast"] = joined_by_feast(folder, d, ours, tied, sizes)
    keep("features", result, lambda axes: draw(axes, result))


if __name__ == "__main__":
    main()
