"The same bits on a cluster of processes, one of which is killed half-way."

from __future__ import annotations

import os

import pytest
from division import FEATURES, assert_backfilled, divide, logged, world

from mlkit.backfill import BackfillError, backfill
from mlkit.etl import Logs
from mlkit.executors import Dask, connect


def test_a_cluster_gives_the_same_bits(client, logs, tmp_path, monkeypatch):
    logged(world(), logs)
    divide(monkeypatch, 3, 331)
    did = backfill(FEATURES, logs, tmp_path / "out", executor=Dask(client))
    assert did.resumed == 0
    assert len(client.run(os.getpid)) == 2
    assert_backfilled(tmp_path / "out", logs)


@pytest.mark.parametrize("stage", ["reading the log", "windows", "writing features"])
def test_a_killed_worker_changes_nothing(own_cluster, logs, tmp_path, monkeypatch, stage):
    logged(world(), logs)
    divide(monkeypatch, 7, 331)
    killed: list[int] = []

    def kill(done: int, total: int, text: str) -> None:
        if text == stage and not killed and done >= total // 3:
            killed.append(own_cluster.kill_a_worker())

    executor = Dask(own_cluster.client)
    backfill(FEATURES, logs, tmp_path / "out", executor=executor, on_progress=kill)
    assert killed
    assert_backfilled(tmp_path / "out", logs)


def test_a_cluster_that_works_on_s3(cluster_near, bucket, monkeypatch):
    "Log, scratch and table in a bucket: all that driver and workers share is an address."
    logs, killed = logged(world(700), Logs(f"{bucket}/w")), list[int]()
    divide(monkeypatch, 3, 331)

    def kill(done: int, total: int, text: str) -> None:
        if text == "windows" and not killed:
            killed.append(cluster_near.kill_a_worker())

    executor = Dask(cluster_near.client)
    backfill(FEATURES, logs, f"{bucket}/features", executor=executor, on_progress=kill)
    assert killed
    assert_backfilled(f"{bucket}/features", logs)


def test_no_scheduler_is_said_to_be_missing():
    with pytest.raises(BackfillError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
        connect("tcp://127.0.0.1:9", 1)


def test_a_scheduler_without_workers_is_said_to_have_none():
    distributed = pytest.importorskip("distributed")
    local = distributed.LocalCluster(
        n_workers=0, processes=True, host="127.0.0.1", dashboard_address=":0"
    )
    with local, pytest.raises(BackfillError, match="has no workers"):
        connect(local.scheduler_address, 1)
