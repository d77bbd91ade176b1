"Consumers in their own processes, and the things that must hold in the end."

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import world
import zygote
from helpers import FEATURES, Outcome, Pay, as_frame, ask, assert_same_bits

from mlkit.etl import Logs
from mlkit.eventlog import scan
from mlkit.events import check
from mlkit.follower import follow
from mlkit.lmdbstate import LmdbStore, load_lmdb
from mlkit.online import state_folder
from mlkit.requests import Online
from mlkit.stores import ensure_store


class Consumers:
    "Starts consumers; see `zygote`."

    def __init__(self, folder: Path, errors: Path, **given: Any):
        self.folder, self.given, self.errors = folder, given, errors
        paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        self.process = subprocess.Popen(
            [sys.executable, zygote.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors.open("w"),
            text=True,
            env={**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"},
        )
        self.running: set[int] = set()

    def _ask(self, line: str) -> int:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, **options: Any) -> int:
        "The new consumer's pid."
        pid = self._ask(json.dumps(dict(folder=str(self.folder), **{**self.given, **options})))
        self.running.add(pid)
        return pid

    def wait(self, pid: int) -> int:
        "How it ended: 0, 1, or minus the signal that killed it."
        self.running.discard(pid)
        return self._ask(f"wait {pid}")

    def ended(self, pid: int, seconds: float = 0.05) -> bool:
        "Has it ended, or does it so within this time?"
        watch = select.poll()
        watch.register(fd := os.pidfd_open(pid), select.POLLIN)
        try:
            return bool(watch.poll(seconds * 1000))
        finally:
            os.close(fd)

    def kill_after(self, pid: int, seconds: float) -> int:
        "SIGKILL, unless it ends by itself before."
        self.ended(pid, seconds)
        return self.end(pid, signal.SIGKILL)

    def end(self, pid: int, how: signal.Signals = signal.SIGTERM) -> int:
        "Send a signal, SIGTERM once it is listened to; how it ended."
        while how == signal.SIGTERM and not listens(pid, how) and not self.ended(pid):
            pass
        os.kill(pid, how)
        return self.wait(pid)

    def once(self, **options: Any) -> None:
        "A consumer that drains the source and ends as it should."
        assert self.wait(self.start(once=True, **options)) == 0, self.errors.read_text()[-2000:]

    def close(self) -> None:
        for pid in self.running:
            os.kill(pid, signal.SIGKILL)
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


def listens(pid: int, to: signal.Signals) -> bool:
    "Has the process a handler of this signal? As Linux tells it."
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (to - 1) & 1)


# %% What must hold


def payload(logs: Logs, stream: type) -> pl.DataFrame:
    "What the log holds of a stream."
    return scan(logs[stream]).select(list(stream.fields)).collect().sort("event_id")


def assert_log_complete(logs: Logs, batches: int) -> None:
    """Every event of the batches exactly once, numbered without a gap; every refused row in
    quarantine exactly once."""
    for stream, ids in ((Pay, world.pay_ids(batches)), (Outcome, world.outcome_ids(batches))):
        rows = scan(logs[stream]).collect().sort("seq")
        assert sorted(rows["event_id"]) == sorted(ids)
        assert rows["seq"].to_list() == list(range(len(ids)))
    events = [e for n in range(batches) for e in world.batch(n)]
    lies = [world.lie(n - 1) for n in range(batches) if n % 4 == 1]
    sent = pl.DataFrame([row for s, row in events if s == "pay" and row not in lies])
    expected = check(Pay, sent.unique("event_id"))[0].sort("event_id")
    first_word = ~pl.col("event_id").is_in([row["event_id"] for row in lies])
    assert payload(logs, Pay).filter(first_word).equals(expected.filter(first_word))
    kept = (
        logs[Pay].quarantine.read().with_columns(id=pl.col("row").str.json_path_match("$.event_id"))
    )
    contract = kept.filter(pl.col("reason").str.starts_with("amount"))
    assert sorted(contract["id"]) == sorted(f"dirty {n}" for n in range(batches))
    conflicts, stored = (
        kept.filter(pl.col("reason").str.contains("another payload")),
        dict(payload(logs, Pay).select("event_id", "amount").rows()),
    )
    assert sorted(conflicts["id"]) == sorted(row["event_id"] for row in lies)
    for row in conflicts.iter_rows(named=True):
        assert {stored[row["id"]], round(float(json.loads(row["row"])["amount"]) * 100)} == {
            int(world.pay(int(row["id"][1:]))["amount"] * 100),
            500_050,
        }


def assert_unread_kept(logs: Logs, batches: int) -> None:
    "What was no event is in quarantine, with its entry id, exactly once."
    kept = logs.unreadable.read().select(
        pl.col("row").str.json_path_match(f"$.{k}").alias(k) for k in ("entry", "event")
    )
    assert sorted(kept["event"]) == sorted(
        [f"{{half {n}" for n in range(batches)] + [json.dumps(dict(n=n)) for n in range(batches)]
    )
    assert kept["entry"].n_unique() == kept.height


def answers(folder: Path, requests: list[dict[str, Any]]) -> pl.DataFrame:
    "The features of all requests, as the service computes them from the state in a folder."
    online = Online(FEATURES)
    with LmdbStore(FEATURES, folder) as store:
        return as_frame([ask(online, store, r) for r in requests])


def assert_state_equals_bulk_load(logs: Logs, most: int = 100_000) -> int:
    """The followed state stands where a bulk load of the log does and answers every request with
    the same bits; says how many."""
    state, bulk = state_folder(logs.folder, FEATURES), logs.folder / "bulk"
    with ensure_store(FEATURES, logs.folder, logs) as store:
        follow(store, logs)
        with store.reader() as r:
            position = r.position()
    assert load_lmdb(FEATURES, bulk, logs) == position
    assert position["seq"] == {
        s.name: rows - 1
        for s in FEATURES.streams
        if (rows := scan(logs[s]).select(pl.len()).collect().item())
    }
    requests = payload(logs, Pay).sort("event_time", "event_id").tail(most).to_dicts()
    late = [
        {**r, "event_time": requests[-1]["event_time"].replace(microsecond=7)}
        for r in requests[-20:]
    ]
    assert_same_bits(answers(state, requests + late), answers(bulk, requests + late))
    return len(requests)
