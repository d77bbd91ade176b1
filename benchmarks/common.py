"""What the benchmarks share: clocks, peak memory, results as JSON and picture, and Feast.

Feast's pins do not agree with the kit's: it runs in an environment of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
FEAST = "feast[redis,duckdb]==0.67.*"


def timed(call: Callable[[], Any]) -> float:
    "Seconds of one call."
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def percentiles(
    calls: dict[str, Callable[[], Any]], times: int, turns: int = 10
) -> dict[str, dict[str, float]]:
    """Microseconds of one call, at the median and at the 99th percentile.

    The calls take turns, so that a busy moment of the machine meets all of them alike.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            for _ in range(50):
                call()  # warm
            taken[name] += [timed(call) for _ in range(times // turns)]
    return {name: _summary(seconds) for name, seconds in taken.items()}


def _summary(seconds: list[float]) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(seconds, q)) * 1e6, 1) for q in (50, 99)}


def peak_mb() -> int:
    """The most memory that this process has held so far.

    Its own, and not (as `ru_maxrss` has it) that of the process which started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        peak = next(line for line in lines if line.startswith("VmHWM"))
        return int(peak.split()[1]) // 1024
    import resource

    unit = 1 << 20 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def quiet() -> dict[str, str]:
    "An environment in which nobody is told what is run here."
    silent = dict(FEAST_USAGE="False", DO_NOT_TRACK="true", PYTHONWARNINGS="ignore")
    return {**os.environ, **silent, "UV_PYTHON_DOWNLOADS": "never"}


def feast_python() -> Path:
    "The interpreter of an environment with Feast; uv makes it on the first call."
    folder = HERE / ".cache" / "feast"
    python = folder / "bin" / "python"
    if (folder / "ready").exists():
        return python
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if (uv := shutil.which("uv", path=path)) is None:
        raise SystemExit("Feast's environment is made by uv: `pip install uv`, or use --no-feast.")
    make = ["venv", "--quiet", "--clear", "--python", sys.executable, str(folder)]
    install = ["pip", "install", "--quiet", "--python", str(python), FEAST]
    for command in (make, install):
        subprocess.run([uv, *command], check=True, env=quiet())
    (folder / "ready").touch()
    return python


def _stopped(process: Any, deadline: float, limit: float) -> str:
    "Wait for a process; what limit it was stopped at, empty where it ended by itself."
    import psutil

    while process.poll() is None:
        try:
            if process.memory_info().rss > limit:
                return "memory"
        except psutil.NoSuchProcess:
            break
        if time.monotonic() > deadline:
            return "time"
        time.sleep(0.1)
    return ""


def feast(*arguments: object, seconds: float = 600, gb: float = 8) -> dict[str, Any]:
    """What `feast_side.py` prints, run in Feast's environment.

    Beyond so many seconds or gigabytes it is stopped, before it takes the machine down; the
    result says so.
    """
    import psutil

    command = [str(feast_python()), str(HERE / "feast_side.py"), *map(str, arguments)]
    limit = min(gb * 1e9, psutil.virtual_memory().available / 2)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = psutil.Popen(command, env=quiet(), stdout=out, stderr=err)
        try:
            stopped = _stopped(process, time.monotonic() + seconds, limit)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        if stopped == "memory":
            return dict(stopped_above_gb=round(limit / 1e9, 1))
        if stopped == "time":
            return dict(stopped_after_s=seconds)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise SystemExit(f"Feast failed ({process.returncode}):\n{err.read()[-2000:]}")
        return json.loads(out.read().splitlines()[-1])


def keep(name: str, result: dict[str, Any], draw: Callable[[Any], None]) -> None:
    "Print a result; keep it, and its picture, in benchmarks/results/."
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    (HERE / "results").mkdir(exist_ok=True)
    text = json.dumps(result, indent=1, ensure_ascii=False)
    (HERE / "results" / f"{name}.json").write_text(text)
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    draw(axes)
    figure.savefig(HERE / "results" / f"{name}.png", dpi=150)
    plt.close(figure)
    print(text)
