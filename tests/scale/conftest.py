"A local S3 server, and a local cluster."

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


def moto() -> str | None:
    "The command that serves S3: beside this Python, on the path, or named by MLKIT_MOTO_SERVER."
    beside = os.path.join(os.path.dirname(sys.executable), "moto_server")
    found = beside if os.path.exists(beside) else shutil.which("moto_server")
    return os.environ.get("MLKIT_MOTO_SERVER") or found


def address_of(server: subprocess.Popen) -> str:
    "Where a server listens, from what it says; it is read on, for a full pipe would stop it."
    for line in server.stderr:
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        if found:
            threading.Thread(target=server.stderr.read, daemon=True).start()
            return found[0]
    raise AssertionError("moto_server ended before it listened")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    "The address of an S3 server of this test's own, on a free port of the loopback interface."
    command = moto()
    if not command:
        pytest.skip("S3 is not tested: pip install 'moto[server]', or set MLKIT_MOTO_SERVER")
    server = subprocess.Popen(
        [command, "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield address_of(server)
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    "An empty bucket, as `s3://name`; the environment says how to reach it."
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:60]
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", method="PUT"))
    return f"s3://{name}"


PATIENT = {  # a busy machine is no failure
    "distributed.comm.timeouts.connect": "1h",
    "distributed.comm.timeouts.tcp": "1h",
    "distributed.scheduler.worker-ttl": None,
}


class Cluster:
    "A local cluster and a client of it."

    def __init__(self, local: Any, client: Any):
        self.local, self.client = local, client

    @property
    def nannies(self) -> list[Any]:
        "What starts a worker process, and starts it again when it has died."
        return list(self.local.workers.values())

    def kill_a_worker(self) -> int:
        "Its process id."
        pid = self.nannies[0].pid
        os.kill(pid, signal.SIGKILL)
        return pid


@contextmanager
def two_workers() -> Iterator[Cluster]:
    "A Dask cluster of two worker processes of one thread each, in this environment."
    reason = "the cluster is not tested: pip install mlkit[cluster]"
    distributed = pytest.importorskip("distributed", reason=reason)
    import dask

    from mlkit.executors import connect

    with (
        dask.config.set(PATIENT),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=0,
        ) as local,
        connect(local.scheduler_address, 3600) as client,
    ):
        yield Cluster(local, client)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with two_workers() as made:
        yield made


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Any:
    return cluster.client


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    "A cluster of one test alone, which may kill its workers; starting them again is Dask's."
    with two_workers() as made:
        yield made


@pytest.fixture
def cluster_near(bucket: str) -> Iterator[Cluster]:
    "A cluster whose workers know the way to the bucket."
    with two_workers() as made:
        yield made
