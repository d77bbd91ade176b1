"""Execute notebooks in place, keep their outputs, and clean them. Without arguments: every notebook in nbs/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent


def execute(path: Path) -> None:
    "Run a notebook where it lies."
    notebook = nbformat.read(path, 4)
    NotebookClient(
        notebook,
        timeout=600,
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--log-level=CRITICAL"],
    ).execute()
    nbformat.write(notebook, path)


def main() -> None:
    paths = [Path(a) for a in sys.argv[1:]] or sorted(
        p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
    )
    for path in paths:
        print(path, flush=True)
        execute(path)
    subprocess.run([Path(sys.executable).parent / "nbdev-clean"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
