"A backfill reads the log at the versions, and until the moment, that it was asked for."

from __future__ import annotations

from datetime import timedelta

import pytest
from division import DAWN, FEATURES, Pay, assert_backfilled, divide, logged, world

import mlkit.tasks as tasks
from mlkit.backfill import BackfillError, backfill


def test_before_a_moment(logs, tmp_path, monkeypatch):
    logged(world(), logs)
    divide(monkeypatch, 2, 331)
    until = DAWN + timedelta(days=20, hours=5)
    backfill(FEATURES, logs, tmp_path / "out", until=until)
    assert_backfilled(tmp_path / "out", logs, until=until)
    with pytest.raises(BackfillError, match="nothing to do"):
        backfill(FEATURES, logs, tmp_path / "out", until=DAWN - timedelta(days=9))


def test_as_of_a_version_of_the_log(logs, tmp_path, monkeypatch):
    logged(world(), logs)
    divide(monkeypatch, 3, 331)
    did = backfill(FEATURES, logs, tmp_path / "out", versions={Pay: 2, "outcome": 1})
    assert did.log == {"pay": 2, "outcome": 1}
    assert did.rows < 2000
    backfill(FEATURES, logs, tmp_path / "out")
    assert_backfilled(tmp_path / "out", logs, version=0, pay=2, outcome=1)
    assert_backfilled(tmp_path / "out", logs, version=1)


@pytest.mark.parametrize(
    "versions, message",
    [
        ({"pay": 99}, "no version 99; its newest is 3"),
        ({"pay": -1}, "no version -1; its newest is 3"),
        ({"sales": 1}, "names sales; the features read pay, outcome"),
    ],
)
def test_versions_that_are_not_there(logs, tmp_path, versions, message):
    logged(world(100), logs)
    with pytest.raises(BackfillError, match=message):
        backfill(FEATURES, logs, tmp_path / "out", versions=versions)


def test_streams_that_have_no_log_yet(logs, tmp_path):
    with pytest.raises(BackfillError, match="holds no log"):
        backfill(FEATURES, logs, tmp_path / "out")
    logged({Pay: world()[Pay]}, logs)
    backfill(FEATURES, logs, tmp_path / "out")
    assert_backfilled(tmp_path / "out", logs)


def test_other_versions_of_a_library_are_refused(logs, tmp_path, monkeypatch):
    "The job says what the driver has; a worker finds something else."
    logged(world(100), logs)
    here = tasks.versions_here()
    monkeypatch.setattr(tasks, "versions_here", lambda: {**here, "polars": "0.1"})
    with pytest.raises(BackfillError, match="Install the same versions"):
        backfill(FEATURES, logs, tmp_path / "out")
