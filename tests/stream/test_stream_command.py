"""`mlkit stream` as a person or a service manager runs it: it takes what is there and ends as it
should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from mlkit.etl import Logs
from mlkit.eventlog import scan
from mlkit.stores import ensure_store
from mlkit.stream import Follower
from mlkit.usecases import fraud, simulator

ROOT = Path(__file__).resolve().parents[2]


def command(home: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    "`mlkit stream` in a workspace of its own."
    env = {
        **os.environ,
        "MLKIT_HOME": str(home),
        "MLKIT_WORKSPACE": "live",
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, "-c", "from mlkit.cli import main; main()", "stream", *arguments],
        env=env,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def simulated(path: Path, seed: int) -> int:
    "A file of a known format; how many transactions it has."
    raw = simulator.simulate(customers=8, terminals=8, days=12, seed=seed).with_columns(
        transaction_id=pl.format("{}-{}", pl.lit(seed), "transaction_id")
    )
    simulator.write(raw, path)
    return raw.height


def test_command_takes_what_is_there(tmp_path: Path) -> None:
    "A new workspace, files of a known format: log and state stand at their end."
    inbox = tmp_path / "fraud" / "live" / "inbox"
    inbox.mkdir(parents=True)
    rows = sum(simulated(inbox / f"{n}.parquet", n) for n in range(2))
    process = command(tmp_path, "--once", "--settle", "0")
    out, err = process.communicate()
    assert process.returncode == 0, err
    logs = Logs(tmp_path / "fraud" / "live")
    assert scan(logs[fraud.Transaction]).collect().height == rows
    assert "behind 0" in out.splitlines()[-1]
    assert "batches 2" in out.splitlines()[-1]
    with ensure_store(fraud.features, logs.folder, logs) as store:
        assert Follower(store, logs).position()["transaction"] == rows - 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_command_ends_when_asked_to(tmp_path: Path, how: signal.Signals) -> None:
    "While it waits for more: exit status 0, and the sum of what it did."
    inbox = tmp_path / "fraud" / "live" / "inbox"
    inbox.mkdir(parents=True)
    simulated(inbox / "1.parquet", 1)
    process = command(tmp_path, "--settle", "0")
    while not (inbox / "done" / "1.parquet").exists():
        assert process.poll() is None
        assert not time.sleep(0.02)
    process.send_signal(how)
    out, err = process.communicate()
    assert process.returncode == 0 and "ended: " in out and "batches 1" in out, err


def test_command_says_what_is_wrong(tmp_path: Path) -> None:
    "No such source; a Redis that is not there."
    for arguments, environment, why in (
        (["--source", "tape"], {}, "folder or redis"),
        (
            ["--source", "redis", "--once"],
            {"MLKIT_REDIS_URL": "redis://:secret@127.0.0.1:1/0"},
            "Redis at 127.0.0.1:1",
        ),
    ):
        process = command(tmp_path, *arguments, **environment)
        out, err = process.communicate()
        assert process.returncode == 2
        assert why in " ".join(err.split())
        assert "Traceback" not in err
        assert "secret" not in out + err


def test_command_has_examples() -> None:
    out = command(Path("/nowhere"), "--help").communicate()[0]
    assert "mlkit stream --once" in out
    assert "--follow-only" in out
    assert "--metrics-port" in out
