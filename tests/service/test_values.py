"What is served is what the log gives, bit for bit, while events land and the state is rebuilt."

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import polars as pl
import pytest
from served import BEGIN, FRAUD, ROOT, payments

from mlkit.decisions import read_decisions
from mlkit.etl import Batch, land
from mlkit.eventlog import scan
from mlkit.frames import offline
from mlkit.online import apply
from mlkit.parity import compare
from mlkit.release import environment
from mlkit.stores import open_store

pytestmark = pytest.mark.service
Transaction = FRAUD.request


def decisions(served, ids: set[str]) -> list[dict]:
    return [d for d in read_decisions(served.workspace / "decisions") if d["decision_id"] in ids]


def test_served_features_equal_the_offline_frame_bit_for_bit(served):
    coming = payments(150, BEGIN + timedelta(days=4), seed=1)
    ids = set()
    with open_store(FRAUD.features, served.workspace.path, write=True) as store:
        for i, row in enumerate(coming.iter_rows(named=True)):
            status, answer = served.post({**row, "event_time": row["event_time"].isoformat()})
            assert status == 200
            ids.add(answer["decision_id"])
            batch = Batch.checked(f"one-{i}", {Transaction: coming[i : i + 1]})
            apply(store, Transaction, land(served.logs, batch).events[Transaction])
    log = scan(served.logs[Transaction]).collect()
    asked = log.filter(pl.col("event_id").is_in(coming["event_id"].implode()))
    labels = {s: pl.DataFrame(schema=served.logs[s].schema) for s in FRAUD.features.streams}
    expected = offline(FRAUD.features, asked, labels | {Transaction: log})
    names = FRAUD.features.names
    frame = pl.DataFrame(
        [{"event_id": d["request"]["event_id"], **d["values"]} for d in decisions(served, ids)],
        schema={"event_id": pl.String, **{n: expected.schema[n] for n in names}},
    )
    found = compare(frame, expected, names)
    assert (found["compared"], found["different"]) == (150, 0)


@contextmanager
def asking(served, request: dict) -> Iterator[list[tuple[int, dict]]]:
    "Answers to one request, sent over and over from another thread."
    answers: list[tuple[int, dict]] = []
    end = threading.Event()

    def ask() -> None:
        while not end.is_set():
            answers.append(served.post(request))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        end.set()
        thread.join()


def rebuild(served, *arguments: str) -> None:
    "Load the state anew, as another process."
    env = environment(
        served.workspace,
        MLKIT_HOME=str(served.settings.home),
        MLKIT_WORKSPACE=served.workspace.name,
    )
    program = "from mlkit.cli import main; main()"
    command = [sys.executable, "-c", program, "backfill", "--state", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0 and "online state" in done.stdout, done.stdout + done.stderr


def test_the_state_is_rebuilt_while_the_service_answers(served):
    "At an old version of the log and at the newest: every answer is whole, and of one of the two."
    request = dict(
        event_id="while it is rebuilt",
        event_time=(BEGIN + timedelta(days=5)).isoformat(),
        customer_id=1,
        terminal_id=2,
        amount=12.5,
    )
    with asking(served, request) as answers:
        for arguments in [("--version", f"{Transaction.name}=1"), ()] * 2:
            rebuild(served, *arguments)
            before = len(answers)
            while len(answers) < before + 20:
                time.sleep(0.01)
    assert all(status == 200 and a["degraded"] == [] for status, a in answers)
    ids = {a["decision_id"] for _, a in answers}
    seen = {json.dumps(d["values"]) for d in decisions(served, ids)}
    counts = {json.loads(v)["customer_n_30d"] for v in seen}
    assert len(seen) == 2 and counts == {n + 1 for n in (counted(served, 1), counted(served, None))}


def counted(served, version: int | None) -> int:
    "Payments of customer 1 in the log at a version."
    past = scan(served.logs[Transaction], version=version, until=BEGIN + timedelta(days=5))
    return past.filter(pl.col("customer_id") == 1).collect().height
