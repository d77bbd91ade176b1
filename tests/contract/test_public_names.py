"""The public surface: each module's names are pinned, and each is used outside its module or shown.

A name that is added or goes is written down by `python tests/contract/test_public_names.py`.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PINNED = Path(__file__).with_name("public_names.json")
WORD = re.compile(r"\b[A-Za-z_]\w*\b")


def modules() -> Iterator[tuple[str, Path]]:
    "Name and file of each module that a notebook exports."
    for path in sorted((ROOT / "mlkit").rglob("*.py")):
        if path.name not in ("__init__.py", "_modidx.py"):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path


def exported(path: Path) -> list[str]:
    "What a module's `__all__` names."
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return sorted(ast.literal_eval(node.value))
    return []


def surface() -> dict[str, list[str]]:
    return {name: exported(path) for name, path in modules()}


@cache
def words(path: Path) -> frozenset[str]:
    return frozenset(WORD.findall(path.read_text(encoding="utf-8")))


@cache
def demo_words(notebook: Path) -> frozenset[str]:
    "The words of a notebook's cells that are shown and not exported."
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    return frozenset(w for s in code if "#| export" not in s for w in WORD.findall(s))


def users(module: Path) -> Iterator[frozenset[str]]:
    "The words of everything that may use a module: the package, demos, steps, benchmarks."
    yield from (words(p) for _, p in modules() if p != module)
    yield from (demo_words(p) for p in sorted((ROOT / "nbs").rglob("*.ipynb")))
    for pattern in ("pipelines/*.ipynb", "benchmarks/*.py", "pyproject.toml", "bentofile.yaml"):
        yield from (words(p) for p in sorted(ROOT.glob(pattern)))


def test_names_are_as_pinned():
    pinned, found = json.loads(PINNED.read_text(encoding="utf-8")), surface()
    changed = {m for m in pinned.keys() | found.keys() if pinned.get(m) != found.get(m)}
    differences = {
        m: sorted(set(pinned.get(m, [])) ^ set(found.get(m, []))) for m in sorted(changed)
    }
    assert not changed, f"public names changed: {differences}; is that meant? See this file's top."


def test_each_public_name_is_used_or_shown():
    unused = []
    for name, path in modules():
        known = frozenset().union(*users(path))
        unused += [f"{name}.{n}" for n in exported(path) if n not in known]
    assert not unused, f"used nowhere else; begin them with an underscore: {', '.join(unused)}"


if __name__ == "__main__":
    PINNED.write_text(json.dumps(surface(), indent=1) + "\n", encoding="utf-8")
    print(f"{PINNED.name}: {sum(map(len, surface().values()))} names")
