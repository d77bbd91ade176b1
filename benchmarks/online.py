"""One request's features in process: state look-ups alone, and all fifteen features; for keys with few and with many events.

    python benchmarks/online.py
"""
from __future__ import annotations

import json
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import polars as pl

from mlkit.etl import Logs
from mlkit.eventlog import append
from mlkit.features import Online, micros
from mlkit.online import OnlineStore, load
from mlkit.usecases.fraud import Transaction, features

NOW = datetime(2025, 3, 1, tzinfo=timezone.utc)


def history(per_key: dict[int, int]) -> pl.DataFrame:
    "Payments over thirty days, `per_key[customer]` of each customer."
    rng = np.random.default_rng(0)
    parts = [pl.DataFrame(dict(event_id=[f"{c}-{i}" for i in range(n)], event_time=[NOW - timedelta(days=30)*float(x) for x in rng.random(n)], customer_id=[c]*n, terminal_id=[c]*n, amount=rng.integers(1, 20_000, n)), schema=Transaction.schema()) for c, n in per_key.items()]
    return pl.concat(parts)


def percentiles(call, times: int = 3000) -> dict[str, float]:
    "Microseconds."
    for _ in range(200): call()
    taken = np.empty(times)
    for i in range(times):
        start = time.perf_counter(); call(); taken[i] = time.perf_counter() - start
    return {f"p{q}": round(float(np.percentile(taken, q))*1e6, 1) for q in (50, 99)}


def main() -> None:
    folder, sizes = Path(tempfile.mkdtemp()), {1: 100, 2: 10_000, 3: 300_000}
    logs = Logs(folder)
    append(logs[Transaction], history(sizes), "history")
    load(features, folder/"state", logs)
    online, out = Online(features), {}
    with OnlineStore(features, folder/"state") as store:
        for customer, n in sizes.items():
            request = dict(event_id="x", event_time=NOW, customer_id=customer, terminal_id=customer, amount=5716)
            def windows(request=request):
                with store.reader() as lookup:
                    for series, _, lengths, _ in online.plan: lookup(series, tuple(request[k] for k in series.key), micros(NOW), lengths)
            def everything(request=request):
                with store.reader() as lookup: online(request, lookup)
            out[f"{n:,} events in the key"] = dict(windows_us=percentiles(windows), all_features_us=percentiles(everything))
    print(json.dumps(out, indent=1))


if __name__ == "__main__": main()
