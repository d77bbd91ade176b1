"""`mlkit` as its user calls it: a process, in a data folder of its own."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "-p",
    "customers=300",
    "-p",
    "terminals=600",
    "-p",
    "trials=2",
    "-p",
    "limit=600",
]  # so many that some of the 600 requests go to a human


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@dataclass
class Kit:
    "The command line on a home of its own."

    home: Path

    def __post_init__(self):
        self.env = {
            **os.environ,
            "MLKIT_HOME": str(self.home / "data"),
            "MLKIT_RUNS": str(self.home / "runs"),
            "MLKIT_PORT": str(free_port()),
            "MLKIT_ACTOR": "tester",
            "COLUMNS": "200",
        }

    def __call__(self, *args: str, expect: int = 0, cwd: Path = ROOT) -> str:
        done = subprocess.run(
            [str(Path(sys.executable).parent / "mlkit"), *args],
            env=self.env,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == expect, (
            f"mlkit {' '.join(args)} ended with {done.returncode}\n"
            f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
        return done.stdout + done.stderr

    @property
    def summary(self) -> dict:
        return json.loads((self.home / "runs" / "latest" / "summary.json").read_text())

    @property
    def workspace(self) -> Path:
        return self.workspace_of("fraud")

    def workspace_of(self, usecase: str) -> Path:
        "The active one."
        workspaces = self.home / "data" / usecase
        return workspaces / (workspaces / "active").read_text()
