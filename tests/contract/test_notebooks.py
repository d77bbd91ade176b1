"Notebooks are the source: exported, clean, executed; run again, they show what they show."

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOUND = sorted((ROOT / "nbs").rglob("*.ipynb"))
NOTEBOOKS = [p for p in FOUND if ".ipynb_checkpoints" not in p.parts]
NBVAL = ["-m", "pytest", "--nbval", "--nbval-cell-timeout", "300", "-q"]
NBVAL += ["-p", "no:cacheprovider", "-p", "no:xdist"]


def test_the_package_is_what_the_notebooks_export():
    command = [sys.executable, str(ROOT / "tools" / "in_step.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_package_is_readable():
    "Lines of at most 100 characters, modules of at most 400 lines, one thought a line."
    command = [sys.executable, str(ROOT / "tools" / "readable.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_exported_cell_is_told_in_one_step(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        lines = "".join(cell["source"]).splitlines()
        if lines and lines[0].startswith("#| export"):
            assert len(lines) <= 90, lines[1:4]


def with_counts(source: Path, target: Path) -> None:
    "Copy a notebook with the execution counts that nbval wants and `nbdev-clean` strips."
    notebook = json.loads(source.read_text(encoding="utf-8"))
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    for n, cell in enumerate(code, 1):
        cell["execution_count"] = n
        for output in cell["outputs"]:
            if output["output_type"] == "execute_result":
                output["execution_count"] = n
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(notebook))


@pytest.mark.parametrize("half", [0, 1])
def test_notebooks_show_what_they_show(tmp_path, half):
    "Every stored output is compared with a fresh one, by nbval."
    for path in NOTEBOOKS[half::2]:
        with_counts(path, tmp_path / path.relative_to(ROOT))
    (tmp_path / "settings.ini").write_text((ROOT / "settings.ini").read_text())
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    command = [sys.executable, *NBVAL, str(tmp_path / "nbs")]
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=tmp_path, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]
