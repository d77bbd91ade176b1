"One service for all tests of it."

from __future__ import annotations

import pytest
from served import Served

from mlkit.release import stop


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    made = Served(tmp_path_factory.mktemp("home"))
    yield made
    stop(made.workspace)
