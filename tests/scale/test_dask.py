"The same bits on a cluster of processes, one of which is killed half-way."

from __future__ import annotations

import os
import signal

import pytest
from division import FEATURES, assert_backfilled, divide, logged, world

from mlkit.backfill import BackfillError, backfill
from mlkit.etl import Logs
from mlkit.executors import Dask, connect


def test_a_cluster_gives_the_same_bits(client, logs, tmp_path, monkeypatch):
    logged(world(), logs)
    divide(monkeypatch, 3, 331)
    did = backfill(FEATURES, logs, tmp_path / "out", executor=Dask(client))
    assert did.resumed == 0 and len(client.run(os.getpid)) == 2
    assert_backfilled(tmp_path / "out", logs)


@pytest.mark.parametrize("stage", ["reading the log", "windows", "writing features"])
def test_a_killed_worker_changes_nothing(client, logs, tmp_path, monkeypatch, stage):
    logged(world(), logs)
    divide(monkeypatch, 7, 331)
    killed: list[int] = []

    def kill(done: int, total: int, text: str) -> None:
        if text == stage and not killed and done >= total // 3:
            killed.append(next(iter(client.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    backfill(FEATURES, logs, tmp_path / "out", executor=Dask(client), on_progress=kill)
    assert killed
    assert_backfilled(tmp_path / "out", logs)
    client.wait_for_workers(2, timeout=300)
    assert killed[0] not in client.run(os.getpid).values()


def test_a_cluster_that_works_on_s3(client_near, bucket, monkeypatch):
    "Log, scratch and table in a bucket, one worker killed: all that driver and workers share is an address."
    logs, killed = logged(world(700), Logs(f"{bucket}/w")), list[int]()
    divide(monkeypatch, 3, 331)

    def kill(done: int, total: int, text: str) -> None:
        if text == "windows" and not killed:
            killed.append(next(iter(client_near.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    backfill(FEATURES, logs, f"{bucket}/features", executor=Dask(client_near), on_progress=kill)
    assert killed
    assert_backfilled(f"{bucket}/features", logs)


def test_no_scheduler_is_said_to_be_missing():
    with pytest.raises(BackfillError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
        connect("tcp://127.0.0.1:9", 1)
