"Peak memory keeps to the setting, however large the log is."

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCALE = ROOT / "benchmarks" / "scale.py"
WHOLE = """
import sys
sys.path.insert(0, "benchmarks")
from mlkit.etl import Logs
from mlkit.eventlog import scan
from mlkit.frames import offline
from mlkit.usecases.fraud import Label, Transaction, features
from scale import peak_mb

events = {s: scan(Logs(sys.argv[1])[s]).collect() for s in (Transaction, Label)}
assert offline(features, events[Transaction], events).height == int(sys.argv[2])
print(peak_mb())
"""


def benchmark() -> ModuleType:
    "The benchmark, which is no package."
    spec = importlib.util.spec_from_file_location("scale", SCALE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["scale"] = module
    spec.loader.exec_module(module)
    return module


def run(*command: str) -> str:
    "What a process of its own prints."
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_two_million_requests_within_600_megabytes(tmp_path):
    benchmark().generate(tmp_path, 2_000_000)
    divided = json.loads(run(str(SCALE), "one", str(tmp_path), "600", "0"))
    whole = int(run("-c", WHOLE, str(tmp_path), "2000000"))
    assert divided["rows"] == 2_000_000
    assert divided["units"] > 10
    assert divided["peak_mb"] <= 600
    assert divided["peak_mb"] < 0.6 * whole
