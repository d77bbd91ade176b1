"""Check that `mlkit/` is what the notebooks export, that notebooks are clean and executed, and that modules import only from lower-numbered ones."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def differences(left: Path, right: Path, pattern: str) -> list[str]:
    "Files below two folders that are not the same."
    names = {
        p.relative_to(d).as_posix()
        for d in (left, right)
        for p in d.rglob(pattern)
        if ".ipynb_checkpoints" not in p.parts
    }
    same = lambda n: (
        (left / n).exists()
        and (right / n).exists()
        and (left / n).read_bytes() == (right / n).read_bytes()
    )
    return sorted(n for n in names if not same(n))


def export_and_clean(copy: Path) -> None:
    "Export and clean a copy of the project."
    for name in ("nbs", "mlkit"):
        shutil.copytree(
            ROOT / name,
            copy / name,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
        )
    for name in ("pyproject.toml", "settings.ini", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    for command in ("nbdev-export", "nbdev-clean"):
        subprocess.run(
            [Path(sys.executable).parent / command], cwd=copy, check=True, capture_output=True
        )


def not_executed(path: Path) -> bool:
    "Has a notebook no output at all, though it has code?"
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    return bool(cells) and not any(c["outputs"] for c in cells)


def backward_imports() -> list[str]:
    "Imports of a module with a higher number, or of a use case from the kit."
    order = {}
    for path in sorted((ROOT / "nbs").glob("[0-9]*.ipynb")):
        found = re.search(r"#\| default_exp (\S+?)(?:\\n|\")", path.read_text())
        if found:
            order[found[1]] = path.stem
    wrong = []
    for module, stem in order.items():
        source = (ROOT / "mlkit" / f"{module}.py").read_text()
        for name in re.findall(r"^\s*from (?:mlkit)?\.(\w+) import", source, re.M):
            if name == "usecases" or order.get(name, "") >= stem:
                wrong.append(f"{stem} imports {name}, which comes later")
    return wrong


def step_problems(path: Path) -> list[str]:
    "House rules of pipeline notebooks: a parameters cell, no functions, no stored outputs."
    code = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    wrong = (
        []
        if any("parameters" in c["metadata"].get("tags", []) for c in code)
        else ["has no cell tagged `parameters`"]
    )
    if any(re.search(r"^\s*(def|class) ", "".join(c["source"]), re.M) for c in code):
        wrong.append("defines functions; steps call the package")
    if any(c["outputs"] for c in code):
        wrong.append("has stored outputs; the executed copies live under runs/")
    return [f"{path.name} {w}" for w in wrong]


def main() -> int:
    with tempfile.TemporaryDirectory() as d:
        copy = Path(d)
        export_and_clean(copy)
        wrong = [
            f"mlkit/{n} is not what the notebooks export; run `make fix`"
            for n in differences(ROOT / "mlkit", copy / "mlkit", "*.py")
        ]
        wrong += [
            f"nbs/{n} is not clean; run `make fix`"
            for n in differences(ROOT / "nbs", copy / "nbs", "*.ipynb")
        ]
    notebooks = sorted(
        p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
    )
    wrong += [
        f"{p.relative_to(ROOT)} was never executed; run `make notebooks`"
        for p in notebooks
        if not_executed(p) and p.stem not in ("10a_usecase",)
    ]
    wrong += backward_imports()
    for path in sorted((ROOT / "pipelines").glob("*.ipynb")):
        wrong += step_problems(path)
    for line in wrong:
        print(line)
    print(
        f"{len(notebooks)} notebooks: "
        + ("in step, clean, executed" if not wrong else f"{len(wrong)} problems")
    )
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
