"Peak memory keeps to the setting, however large the log is."

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WHOLE = """
import sys
from mlkit.etl import Logs
from mlkit.eventlog import scan
from mlkit.frames import offline
from mlkit.usecases.fraud import Label, Transaction, features
events = {s: scan(Logs(sys.argv[1])[s]).collect() for s in (Transaction, Label)}
assert offline(features, events[Transaction], events).height == int(sys.argv[2])
print(int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))//1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_two_million_requests_within_600_megabytes(tmp_path):
    spec = importlib.util.spec_from_file_location("scale", ROOT / "benchmarks" / "scale.py")
    scale = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scale)
    scale.generate(tmp_path, 2_000_000)
    run = lambda *command: (
        subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout
    )
    divided = json.loads(
        run(str(ROOT / "benchmarks" / "scale.py"), "one", str(tmp_path), "600", "0")
    )
    whole = int(run("-c", WHOLE, str(tmp_path), "2000000"))
    assert divided["rows"] == 2_000_000 and divided["units"] > 10
    assert divided["peak_mb"] <= 600
    assert divided["peak_mb"] < 0.6 * whole
