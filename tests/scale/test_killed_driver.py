"A backfill that is killed or damaged shows nothing; the same command takes up where it was."

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from division import FEATURES, Pay, assert_backfilled, divide, logged, world

import mlkit.backfill as module
from mlkit.backfill import BackfillError, backfill, read_features
from mlkit.eventlog import append
from mlkit.tasks import Job, done

DRIVER = """
import os, signal, sys
from pytest import MonkeyPatch
from division import FEATURES, divide
from mlkit.backfill import backfill
from mlkit.etl import Logs

folder, stage, share = sys.argv[1:]

def die(done, total, text):
    if text == stage and done >= float(share) * total:
        os.kill(os.getpid(), signal.SIGKILL)

divide(MonkeyPatch(), 3, 331)
backfill(FEATURES, Logs(folder + "/workspace"), folder + "/out", on_progress=die)
"""
STAGES = [("reading the log", 0.5), ("windows", 0.5), ("writing features", 1)]


def killed_at(folder: Path, stage: str, share: float) -> None:
    "Run a driver that kills itself."
    dead = subprocess.run(
        [sys.executable, "-c", DRIVER, str(folder), stage, str(share)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert dead.returncode == -signal.SIGKILL, dead.stderr


@pytest.mark.parametrize("stage, share", STAGES)
def test_nothing_is_visible(logs, tmp_path, monkeypatch, stage, share):
    logged(world(), logs)
    divide(monkeypatch, 3, 331)
    killed_at(tmp_path, stage, share)
    with pytest.raises(BackfillError, match="holds no features"):
        read_features(FEATURES, tmp_path / "out")
    did = backfill(FEATURES, logs, tmp_path / "out")
    assert did.resumed > 0
    assert did.version == 0
    assert_backfilled(tmp_path / "out", logs)
    assert not list((tmp_path / "out" / "_scratch").glob("*"))


def test_the_earlier_table_stays(logs, tmp_path, monkeypatch):
    first = world()
    logged(first, logs)
    divide(monkeypatch, 3, 331)
    backfill(FEATURES, logs, tmp_path / "out")
    late = first[Pay][:5].with_columns(event_id=pl.col("event_id") + "/late")
    append(logs[Pay], late, "late")
    killed_at(tmp_path, "writing features", 1)
    assert_backfilled(tmp_path / "out", logs, pay=3)
    assert backfill(FEATURES, logs, tmp_path / "out").version == 1
    assert_backfilled(tmp_path / "out", logs)


def test_scratch_of_another_job_is_not_taken(logs, tmp_path, monkeypatch):
    logged(world(500), logs)
    divide(monkeypatch, 3, 331)
    scratch, resumed = [], []
    monkeypatch.setattr(module, "_remove", scratch.append)
    for versions in ({}, {"pay": 1}, {}):
        did = backfill(FEATURES, logs, tmp_path / "out", versions=versions)
        resumed.append(did.resumed)
    assert scratch[0] == scratch[2] != scratch[1]
    assert resumed[:2] == [0, 0]
    assert resumed[2] == len(done(Job(FEATURES, scratch[0], "", ()))) > 0
    assert_backfilled(tmp_path / "out", logs)


def test_a_block_that_lacks_rows_is_not_written(logs, tmp_path, monkeypatch):
    logged(world(), logs)
    divide(monkeypatch, 3, 331)
    honest = module.windows

    def forgetful(job, unit):
        rows = honest(job, unit)
        return [0] * len(rows) if unit.name == "windows-0-1-0" else rows

    monkeypatch.setattr(module, "windows", forgetful)
    with pytest.raises(BackfillError, match="requests have their aggregates"):
        backfill(FEATURES, logs, tmp_path / "out")
    with pytest.raises(BackfillError, match="holds no features"):
        read_features(FEATURES, tmp_path / "out")
