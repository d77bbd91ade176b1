"Steps without a kernel and services without a model: what a command does around them, and cheaply."

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mlkit.pipeline import StepFailed
from mlkit.settings import Settings
from mlkit.steps import Step
from mlkit.workspaces import Workspace

SERVICE = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *words):
        pass

HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""


def serve_command(
    workspace: Workspace, settings: Settings, bento: str
) -> tuple[list[str], dict[str, str]]:
    "In place of BentoML: a server that says it is ready."
    return [sys.executable, "-I", "-S", "-c", SERVICE, str(settings.port)], {}


def execute(step: Step, parameters: dict[str, Any], folder: Path, out: Path) -> None:
    "In place of papermill: the code of the notebook in this process. Raises `StepFailed`."
    names: dict[str, Any] = {}
    try:
        for cell in json.loads(Path(step.notebook).read_text())["cells"]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), names)  # noqa: S102
            if "parameters" in cell["metadata"].get("tags", []):
                names.update(parameters)
    except Exception as e:
        raise StepFailed(f"{step.name} failed: {type(e).__name__}: {e}") from None
