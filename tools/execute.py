"""Execute notebooks in place, keep their outputs, and clean them.

python tools/execute.py [NOTEBOOK ...]      without arguments: every notebook in nbs/
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent


def notebooks() -> list[Path]:
    "Every notebook in nbs/."
    found = (ROOT / "nbs").rglob("*.ipynb")
    return sorted(p for p in found if ".ipynb_checkpoints" not in p.parts)


def execute(path: Path) -> None:
    "Run a notebook where it lies."
    notebook = nbformat.read(path, 4)
    place = {"metadata": {"path": str(path.parent)}}
    quiet = ["--log-level=CRITICAL"]
    NotebookClient(notebook, timeout=600, resources=place, extra_arguments=quiet).execute()
    nbformat.write(notebook, path)


def main() -> None:
    for path in map(Path, sys.argv[1:]) if sys.argv[1:] else notebooks():
        print(path, flush=True)
        execute(path)
    subprocess.run([Path(sys.executable).parent / "nbdev-clean"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
