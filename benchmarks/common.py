"""What the benchmarks share: clocks, peak memory, results as JSON and picture, and an environment of its own for Feast."""

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


def percentiles(
    calls: dict[str, Callable[[], Any]], times: int, turns: int = 10
) -> dict[str, dict[str, float]]:
    "Microseconds of one call, at the median and at the 99th percentile; in turns, so that a busy moment of the machine meets all calls alike."
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            for _ in range(50):
                call()  # warm
            for _ in range(times // turns):
                start = time.perf_counter()
                call()
                taken[name].append(time.perf_counter() - start)
    return {
        name: {f"p{q}": round(float(np.percentile(t, q)) * 1e6, 1) for q in (50, 99)}
        for name, t in taken.items()
    }


def peak_mb() -> int:
    "The most memory this process has held so far; its own, and not (as `ru_maxrss` has it) that of the process which started it."
    status = Path("/proc/self/status")
    if status.exists():
        return (
            int(
                next(
                    line.split()[1]
                    for line in status.read_text().splitlines()
                    if line.startswith("VmHWM")
                )
            )
            // 1024
        )
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (
        1 << 20 if sys.platform == "darwin" else 1024
    )


def quiet() -> dict[str, str]:
    "An environment in which nobody is told what is run here."
    return {
        **os.environ,
        "FEAST_USAGE": "False",
        "DO_NOT_TRACK": "true",
        "UV_PYTHON_DOWNLOADS": "never",
        "PYTHONWARNINGS": "ignore",
    }


def feast_python() -> Path:
    "The interpreter of an environment with Feast; made on the first call, by uv. Feast's pins do not agree with the kit's."
    folder = HERE / ".cache" / "feast"
    python = folder / "bin" / "python"
    if (folder / "ready").exists():
        return python
    uv = shutil.which(
        "uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    )
    if uv is None:
        raise SystemExit(
            "Feast's environment is made by uv, which is not there: `pip install uv`, or leave Feast out with --no-feast."
        )
    for command in (
        ["venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
        ["pip", "install", "--quiet", "--python", str(python), FEAST],
    ):
        subprocess.run([uv, *command], check=True, env=quiet())
    (folder / "ready").touch()
    return python


def feast(*arguments: object, seconds: float = 600, gb: float = 8) -> dict[str, Any]:
    "What `feast_side.py` prints, run in Feast's environment; stopped, and said to be, beyond so many seconds or gigabytes, before it takes the machine down."
    import psutil

    command, deadline = (
        [str(feast_python()), str(HERE / "feast_side.py"), *map(str, arguments)],
        time.monotonic() + seconds,
    )
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        process = psutil.Popen(command, env=quiet(), stdout=said, stderr=complained)
        allowed, over = min(gb * 1e9, psutil.virtual_memory().available / 2), None
        try:
            while process.poll() is None and over is None:
                try:
                    over = (
                        dict(stopped_above_gb=round(allowed / 1e9, 1))
                        if process.memory_info().rss > allowed
                        else dict(stopped_after_s=seconds)
                        if time.monotonic() > deadline
                        else None
                    )
                except psutil.NoSuchProcess:
                    break
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        if over:
            return over
        said.seek(0)
        complained.seek(0)
        if process.returncode:
            raise SystemExit(f"Feast failed ({process.returncode}):\n{complained.read()[-2000:]}")
        return json.loads(said.read().splitlines()[-1])


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
