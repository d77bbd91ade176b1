"What all tests share: how hypothesis runs, a fresh workspace, and where the data is."

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from mlkit.etl import Logs

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile(
    "explore", settings.get_profile("ci"), derandomize=False, max_examples=2000
)
settings.load_profile("ci")  # `pytest --hypothesis-profile=explore` looks further


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    "The event logs of an empty workspace."
    return Logs(tmp_path / "workspace")


@pytest.fixture(scope="session")
def handbook() -> Path:
    "The published transactions of the Fraud Detection Handbook."
    path = ROOT.parent / "shared" / "data" / "handbook_transactions.parquet"
    if not path.exists():
        pytest.skip(f"needs {path.name} in shared/data beside the repository")
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    "The long files first, so that two workers end together."
    slow = {item.path for item in items if item.get_closest_marker("pipeline")}
    items.sort(key=lambda item: item.path not in slow)
