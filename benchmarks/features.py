"""Backfill of the fifteen handbook features, side by side with a plain numpy version of the same windows.

    python benchmarks/features.py [payments.parquet]

Without a file, the bundled simulator makes about 1.2 million payments. Cold: reading the file, contract check, log; then features
alone, five times, each beside the numpy reference, which knows nothing of contracts, labels or conditions: it sorts, adds up, subtracts.
"""
from __future__ import annotations

import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from mlkit.etl import Logs, ingest
from mlkit.eventlog import scan
from mlkit.features import offline
from mlkit.usecases.fraud import Label, Transaction, features, simulate, usecase

DAY = 86_400_000_000


def numpy_reference(tx: pl.DataFrame, labels: pl.DataFrame) -> dict[str, np.ndarray]:
    "The twelve windows by prefix sums: one sort a series, two binary searches a window."
    t = tx["event_time"].dt.timestamp("us").to_numpy()
    start, span = int(t.min()) - 40*DAY, int(labels["event_time"].dt.timestamp("us").max()) - int(t.min()) + 80*DAY
    out = {}
    for key, events, value in (("customer_id", tx, "amount"), ("terminal_id", labels, "is_fraud")):
        e = events[key].to_numpy()*span + events["event_time"].dt.timestamp("us").to_numpy() - start
        order = np.argsort(e, kind="stable"); e = e[order]
        total = np.concatenate([[0], np.cumsum(events[value].cast(pl.Int64).to_numpy()[order])])
        asked = tx[key].to_numpy()*span + t - start
        by = np.argsort(asked, kind="stable"); asked = asked[by]
        stop = np.searchsorted(e, asked, "left")
        for days in (1, 7, 30):
            begin = np.searchsorted(e, asked - days*DAY, "right")
            n, s = np.empty(len(t), np.int64), np.empty(len(t), np.int64)
            n[by], s[by] = stop - begin, total[stop] - total[begin]
            out[f"{key}_{days}"] = s/np.maximum(n, 1)
    return out


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else simulate(folder/"source.parquet", customers=5000, terminals=10_000, days=120)
    logs = Logs(folder)
    start = time.perf_counter()
    done = ingest(source, usecase.formats, logs)
    ingest_s = time.perf_counter() - start
    events = {s: scan(logs[s]).collect() for s in (Transaction, Label)}
    start = time.perf_counter(); offline(features, events[Transaction], events); cold_s = time.perf_counter() - start
    ours, reference = [], []
    for _ in range(5):
        start = time.perf_counter(); offline(features, events[Transaction], events); ours.append(time.perf_counter() - start)
        start = time.perf_counter(); numpy_reference(events[Transaction], events[Label]); reference.append(time.perf_counter() - start)
    print(json.dumps(dict(rows=done.rows, ingest_to_log_s=round(ingest_s, 2), features_first_s=round(cold_s, 2), features_median_s=round(statistics.median(ours), 2), numpy_median_s=round(statistics.median(reference), 2),
                          ratio=round(statistics.median(o/r for o, r in zip(ours, reference)), 2), peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024), indent=1))


if __name__ == "__main__": main()
