"""Check that `mlkit/` is what the notebooks export, that notebooks are clean and executed,
that modules import only from earlier ones, and that pipeline steps only call the package.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from execute import notebooks

ROOT = Path(__file__).resolve().parent.parent
EXPORTED = re.compile(r"^#\| default_exp (\S+)", re.M)
IMPORTED = re.compile(r"^\s*from (?:mlkit)?\.(\w+)[\w.]* import", re.M)


def code_cells(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [c for c in cells if c["cell_type"] == "code"]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def differences(left: Path, right: Path, pattern: str) -> list[str]:
    "Names of files below two folders that are not the same."
    paths = [p.relative_to(d) for d in (left, right) for p in d.rglob(pattern)]
    names = {p.as_posix() for p in paths if ".ipynb_checkpoints" not in p.parts}

    def content(path: Path) -> bytes | None:
        return path.read_bytes() if path.exists() else None

    return sorted(n for n in names if content(left / n) != content(right / n))


def export_and_clean(copy: Path) -> None:
    "Export and clean a copy of the project."
    leave = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("nbs", "mlkit"):
        shutil.copytree(ROOT / name, copy / name, ignore=leave)
    for name in ("pyproject.toml", "settings.ini", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    for command in ("nbdev-export", "nbdev-clean"):
        program = Path(sys.executable).parent / command
        subprocess.run([program], cwd=copy, check=True, capture_output=True)


def out_of_step() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        export_and_clean(copy)
        for name in differences(ROOT / "mlkit", copy / "mlkit", "*.py"):
            yield f"mlkit/{name} is not what the notebooks export; run `make fix`"
        for name in differences(ROOT / "nbs", copy / "nbs", "*.ipynb"):
            yield f"nbs/{name} is not clean; run `make fix`"


def not_executed() -> Iterator[str]:
    "Notebooks without any output, though they have code."
    for path in notebooks():
        cells = code_cells(path)
        if cells and not any(c["outputs"] for c in cells):
            yield f"{path.relative_to(ROOT)} was never executed; run `make notebooks`"


def modules() -> dict[str, str]:
    "Module to the name of its notebook, for the kit's own modules."
    found = {}
    for path in sorted((ROOT / "nbs").glob("[0-9]*.ipynb")):
        names = [m[1] for c in code_cells(path) if (m := EXPORTED.search(source(c)))]
        found |= dict.fromkeys(names, path.stem)
    return found


def backward_imports() -> Iterator[str]:
    "Imports of a later module, or of a use case by the kit."
    order = modules()
    for module, notebook in order.items():
        text = (ROOT / "mlkit" / f"{module}.py").read_text(encoding="utf-8")
        for name in IMPORTED.findall(text):
            if name == "usecases" or order.get(name, "") >= notebook:
                yield f"{notebook} imports {name}, which comes later"


def step_problems(path: Path) -> Iterator[str]:
    "House rules of pipeline notebooks."
    cells = code_cells(path)
    if not any("parameters" in c["metadata"].get("tags", []) for c in cells):
        yield f"{path.name} has no cell tagged `parameters`"
    if any(re.search(r"^\s*(def|class) ", source(c), re.M) for c in cells):
        yield f"{path.name} defines functions; steps call the package"
    if any(c["outputs"] for c in cells):
        yield f"{path.name} has stored outputs; the executed copies live under runs/"


def main() -> int:
    wrong = [*out_of_step(), *not_executed(), *backward_imports()]
    for path in sorted((ROOT / "pipelines").glob("*.ipynb")):
        wrong += step_problems(path)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    verdict = f"{len(wrong)} problems" if wrong else "in step, clean, executed"
    print(f"{len(notebooks())} notebooks: {verdict}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
