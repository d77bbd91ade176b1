"`mlkit backfill` and `mlkit train`, as typed."

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from helpers import assert_same_bits

from mlkit.backfill import read_features
from mlkit.etl import Logs
from mlkit.eventlog import append, scan
from mlkit.formats import to_events
from mlkit.frames import offline
from mlkit.records import Record
from mlkit.usecases.fraud import SIMULATOR, Label, Transaction, usecase
from mlkit.usecases.simulator import simulate
from mlkit.workspaces import Workspace

ROOT = Path(__file__).resolve().parents[2]


def mlkit(home: Path, *arguments: str, expect: int = 0) -> str:
    "The command, of this tree, on a home of its own."
    done = subprocess.run(
        [sys.executable, "-c", "from mlkit.cli import main; main()", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "MLKIT_HOME": str(home / "data"),
            "MLKIT_RUNS": str(home / "runs"),
            "COLUMNS": "200",
        },
    )
    assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: Any) -> Path:
    "A workspace whose log holds two batches of payments."
    home = tmp_path_factory.mktemp("home")
    logs = Logs(workspace(home))
    events, _ = to_events(SIMULATOR, simulate(customers=60, terminals=120, days=40))
    for stream, frame in events.items():
        append(logs[stream], frame.gather_every(2), "batch 0")
        append(logs[stream], frame, "batch 1")
    (home / "data" / "fraud" / "active").write_text("simulator")
    return home


def workspace(home: Path) -> Path:
    return home / "data" / "fraud" / "simulator"


def table(home: Path, version: int | None = None) -> pl.DataFrame:
    out = workspace(home) / "features" / usecase.features.hash
    found = read_features(usecase.features, out, version).collect()
    return found.drop("event_time").sort("event_id")


def expected(home: Path, version: int | None) -> pl.DataFrame:
    "What `offline` makes of the log."
    logs = Logs(workspace(home))
    events = {s: scan(logs[s], version=version).collect() for s in (Transaction, Label)}
    return offline(usecase.features, events[Transaction], events).sort("event_id")


OLDER = ("--version", "transaction=1", "--version", "label=1", "--memory", "600")


def test_backfill_as_typed(home):
    for number, (arguments, version) in enumerate([((), None), (OLDER, 1)]):
        message = mlkit(home, "backfill", *arguments)
        features = expected(home, version)
        assert_same_bits(table(home, number), features)
        assert f"{features.height:,} requests" in message
        assert f"version {number} of" in message
        assert f"transaction version {version or 2}" in message


def test_the_state_as_typed(home):
    mlkit(home, "backfill")
    before = table(home).height
    message = mlkit(home, "backfill", "--state")
    assert "online state" in message
    assert "transaction version 2 (up to seq" in message
    assert table(home).height == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--version", "transaction"), "write STREAM=N"),
        (("--version", "sale=1"), "names sale; the features read"),
        (("--memory", "99"), "at least 512"),
        (("--engine", "spark"), "local or dask"),
        (("--engine", "dask"), "--scheduler tcp://"),
        (("--log", "gs://x"), "below s3://"),
        (("--until", "2001-01-01"), "nothing to do"),
        (("--until", "soon"), "write a day or an ISO time"),
        (("--until", "2150-01-01"), "must lie in 1970..2100"),
        (("--until", "0001-01-01T00:00:00+02:00"), "write a day or an ISO time"),
        (("--version", "label=1", "--version", "label=0"), "names label twice"),
        (("--state", "--version", "sale=1"), "names sale; the features read"),
        (("--state", "--version", "label=99"), "has no version 99"),
        (("--state", "--log", "elsewhere"), "from its own log"),
        (("--out", "pyproject.toml"), "is a file"),
        (("--out", "docs"), "give --out a folder, new or empty"),
        (("--out", "/proc/features"), "No such file or directory"),
        (("--out", "a%20b"), "percent sign"),
        (("--engine", "dask", "--scheduler", "somewhere"), "is no address of a Dask scheduler"),
        (("--processes", "0"), "--processes"),
        (("--engine", "dask", "--scheduler", "tcp://127.0.0.1:9"), "no Dask scheduler answers"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(home, arguments, message):
    answer = mlkit(home, "backfill", *arguments, expect=2)
    assert message in re.sub(r"\s+", " ", answer)
    assert "Traceback" not in answer


def requests_before(home: Path, out: Path, moment: str) -> int:
    answer = mlkit(home, "backfill", "--until", moment, "--out", str(out))
    return int(re.search(r"([\d,]+) requests", answer)[1].replace(",", ""))


def test_until_is_a_moment_in_any_zone(home, tmp_path):
    "Three ways to write the same one; an offset is not dropped."
    same = ("2025-01-20T02:00:00+02:00", "2025-01-20T00:00:00Z", "2025-01-20")
    rows = {requests_before(home, tmp_path / "out", moment) for moment in same}
    later = requests_before(home, tmp_path / "out", "2025-01-20T02:00:00Z")
    assert len(rows) == 1
    assert later > rows.pop()


def test_a_run_does_not_mix_the_simulator_with_what_was_streamed(home):
    answer = mlkit(home, "run", "--only", "01_ingest", expect=2)
    assert "did not come from a run" in re.sub(r"\s+", " ", answer)


@pytest.mark.pipeline
def test_training_as_typed(client, tmp_path):
    parameters = [f"-p{p}" for p in ("customers=200", "terminals=400", "trials=0")]
    mlkit(tmp_path, "run", "--only", "01_ingest", "--only", "02_features", *parameters)
    scheduler = client.scheduler.address
    answer = mlkit(tmp_path, "train", "--engine", "dask", "--scheduler", scheduler)
    assert "03_train: done" in answer
    assert "04_check: not asked for" in answer

    folder = tmp_path / "data" / "fraud"
    workspace = Workspace(folder, (folder / "active").read_text())
    trained = Record.read(workspace, "03_train").result
    model = json.loads((Path(trained["folder"]) / "model" / "model.json").read_text())
    assert model["about"]["lineage"]["engine"] == "dask, 2 workers"
    mlkit(tmp_path, "run", "--only", "04_check")
