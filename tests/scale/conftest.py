"A local S3 server, and a local cluster."

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


def moto() -> str | None:
    "The command that serves S3: beside this Python, on the path, or named by MLKIT_MOTO_SERVER."
    import sys

    beside = os.path.join(os.path.dirname(sys.executable), "moto_server")
    return os.environ.get("MLKIT_MOTO_SERVER") or (
        beside if os.path.exists(beside) else shutil.which("moto_server")
    )


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    "The address of an S3 server of this test's own, on a free port of the loopback interface."
    if not (command := moto()):
        pytest.skip(
            "S3 is not tested: moto_server is not installed (pip install 'moto[server]', or name it in MLKIT_MOTO_SERVER)"
        )
    server = subprocess.Popen(
        [command, "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        address = next(
            (
                found[0]
                for line in server.stderr
                if (found := re.search(r"http://127\.0\.0\.1:\d+", line))
            ),
            None,
        )
        assert address, "moto_server ended before it listened"
        threading.Thread(
            target=server.stderr.read, daemon=True
        ).start()  # a full pipe would stop it
        yield address
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    "An empty bucket, as `s3://name`; the environment says how to reach it."
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in dict(
        ACCESS_KEY_ID="testing",
        SECRET_ACCESS_KEY="testing",
        REGION="us-east-1",
        ENDPOINT_URL=endpoint,
    ).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:60]
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", method="PUT"))
    return f"s3://{name}"


@contextmanager
def cluster() -> Iterator[Any]:
    "A Dask cluster of two worker processes of one thread each, in this environment."
    distributed = pytest.importorskip(
        "distributed", reason="the cluster is not tested: pip install mlkit[cluster]"
    )
    from mlkit.executors import connect

    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=0,
        ) as cluster,
        connect(cluster.scheduler_address) as c,
    ):
        yield c


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with cluster() as c:
        yield c


@pytest.fixture
def client_near(bucket: str) -> Iterator[Any]:
    "A cluster whose workers know the way to the bucket."
    with cluster() as c:
        yield c
