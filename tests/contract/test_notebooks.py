"""Notebooks are the source: exported, clean, executed; run again, they show what they show."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(
    p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
)


def test_the_package_is_what_the_notebooks_export():
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "in_step.py")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def with_counts(source: Path, target: Path) -> None:
    "Copy a notebook with execution counts: `nbdev-clean` strips them, and nbval takes a cell without one for not executed."
    notebook, n = json.loads(source.read_text()), 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        n += 1
        cell["execution_count"] = n
        for out in cell["outputs"]:
            if out["output_type"] == "execute_result":
                out["execution_count"] = n
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(notebook))


@pytest.mark.parametrize("half", [0, 1])
def test_notebooks_show_what_they_show(tmp_path, half):
    "Every stored output is compared with a fresh one, by nbval."
    for path in NOTEBOOKS[half::2]:
        with_counts(path, tmp_path / path.relative_to(ROOT))
    (tmp_path / "settings.ini").write_text((ROOT / "settings.ini").read_text())
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--nbval",
            "--nbval-cell-timeout",
            "300",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            str(tmp_path / "nbs"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:]
