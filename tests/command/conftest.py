"What the tests of commands share: settings of an empty folder, whatever the environment says."

from __future__ import annotations

import pytest

from mlkit.settings import load_settings


@pytest.fixture
def settings(tmp_path, monkeypatch):
    for key in ("HOME", "RUNS", "USECASE", "WORKSPACE"):
        monkeypatch.delenv(f"MLKIT_{key}", raising=False)
    monkeypatch.chdir(tmp_path)
    return load_settings(tmp_path)
