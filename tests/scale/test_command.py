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

from mlkit.backfill import BackfillError, read_features
from mlkit.etl import Logs
from mlkit.eventlog import append, scan
from mlkit.executors import connect
from mlkit.formats import to_events
from mlkit.frames import offline
from mlkit.usecases.fraud import SIMULATOR, Label, Transaction, usecase
from mlkit.usecases.simulator import simulate

ROOT = Path(__file__).resolve().parents[2]


def mlkit(home: Path, *arguments: str, expect: int = 0) -> str:
    "The command, of this tree, on a home of its own."
    done = subprocess.run(
        [sys.executable, "-c", "from mlkit.cli import main; main()", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
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
    logs, (events, _) = (
        Logs(home / "data" / "fraud" / "simulator"),
        to_events(SIMULATOR, simulate(customers=60, terminals=120, days=40)),
    )
    for stream, frame in events.items():
        for i, part in enumerate((frame.filter(pl.int_range(pl.len()) % 2 == 0), frame)):
            append(logs[stream], part, f"batch {i}")
    (home / "data" / "fraud" / "active").write_text("simulator")
    return home


def table(home: Path, version: int | None = None) -> pl.DataFrame:
    return (
        read_features(
            usecase.features,
            home / "data" / "fraud" / "simulator" / "features" / usecase.features.hash,
            version,
        )
        .collect()
        .drop("event_time")
        .sort("event_id")
    )


def test_backfill_as_typed(home):
    logs = Logs(home / "data" / "fraud" / "simulator")
    for i, (arguments, versions) in enumerate(
        [
            ((), {}),
            (
                ("--version", "transaction=1", "--version", "label=1", "--memory", "600"),
                {Transaction: 1, Label: 1},
            ),
        ]
    ):
        said = mlkit(home, "backfill", *arguments)
        events = {s: scan(logs[s], version=versions.get(s)).collect() for s in (Transaction, Label)}
        assert_same_bits(
            table(home, i), offline(usecase.features, events[Transaction], events).sort("event_id")
        )
        assert (
            f"{events[Transaction].height:,} requests" in said
            and f"version {i} of" in said
            and f"transaction version {versions.get(Transaction, 2)}" in said
        )
    assert (
        "online state" in (said := mlkit(home, "backfill", "--state"))
        and "transaction version 2 (up to seq" in said
        and table(home).height == table(home, 1).height
    )


@pytest.mark.parametrize(
    "arguments, says",
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
def test_what_cannot_be_done_is_said_in_a_line(home, arguments, says):
    said = mlkit(home, "backfill", *arguments, expect=2)
    assert says in re.sub(r"\s+", " ", said) and "Traceback" not in said


def test_until_is_a_moment_in_any_zone(home, tmp_path):
    "Three ways to write the same one; an offset is not dropped."
    rows = [
        re.search(
            r"([\d,]+) requests",
            mlkit(home, "backfill", "--until", t, "--out", str(tmp_path / "out")),
        )[1]
        for t in ("2025-01-20T02:00:00+02:00", "2025-01-20T00:00:00Z", "2025-01-20")
    ]
    later = re.search(
        r"([\d,]+) requests",
        mlkit(home, "backfill", "--until", "2025-01-20T02:00:00Z", "--out", str(tmp_path / "out")),
    )[1]
    assert len(set(rows)) == 1 and int(later.replace(",", "")) > int(rows[0].replace(",", ""))


def test_a_run_does_not_mix_the_simulator_with_what_was_streamed(home, tmp_path):
    said = mlkit(home, "run", "--only", "01_ingest", expect=2)
    assert "did not come from a run" in re.sub(r"\s+", " ", said)


def test_a_scheduler_without_workers_is_said_to_have_none():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=0, processes=True, host="127.0.0.1", dashboard_address=None
        ) as cluster,
        pytest.raises(BackfillError, match="has no workers"),
    ):
        connect(cluster.scheduler_address, 1)


@pytest.mark.pipeline
def test_training_as_typed(client, tmp_path):
    mlkit(
        tmp_path,
        "run",
        "--only",
        "01_ingest",
        "--only",
        "02_features",
        "-p",
        "customers=200",
        "-p",
        "terminals=400",
        "-p",
        "trials=0",
    )
    said = mlkit(tmp_path, "train", "--engine", "dask", "--scheduler", client.scheduler.address)
    assert "03_train: done" in said and "04_check: not asked for" in said
    workspace = tmp_path / "data" / "fraud" / (tmp_path / "data" / "fraud" / "active").read_text()
    result = json.loads((workspace / "steps" / "03_train.json").read_text())["result"]
    assert (
        json.loads((Path(result["folder"]) / "model" / "model.json").read_text())["about"][
            "lineage"
        ]["engine"]
        == "dask, 2 workers"
    )
    mlkit(tmp_path, "run", "--only", "04_check")
