"A served workspace: a few hundred payments, two model versions, the second one live."

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mlkit.etl import Batch, Logs, land
from mlkit.frames import offline
from mlkit.kinds import Constant
from mlkit.modelfiles import save_model
from mlkit.recipes import Recipe, fit
from mlkit.registry import Registry, promote
from mlkit.release import Service, get, kill, package, serve_command, start
from mlkit.settings import Settings, load_settings
from mlkit.stores import load_store
from mlkit.usecase import load_usecase
from mlkit.workspaces import Workspace, activate

ROOT = Path(__file__).resolve().parents[2]
FRAUD = load_usecase("fraud")
BEGIN = datetime(2025, 3, 1, tzinfo=timezone.utc)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def payments(n: int, begin: datetime, seed: int = 0) -> pl.DataFrame:
    "Payments of few customers at few terminals, some minutes apart."
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        dict(
            event_id=[f"t{seed}-{i}" for i in range(n)],
            event_time=[begin + timedelta(minutes=7 * i) for i in range(n)],
            customer_id=rng.integers(0, 5, n),
            terminal_id=rng.integers(0, 4, n),
            amount=rng.integers(1, 20_000, n) / 100,
        )
    )


def champion(registry: Registry, workspace: Workspace, model: Any) -> None:
    "Record a model as a run, and promote it."
    client = registry.client
    known = client.get_experiment_by_name("tests")
    artifacts = (workspace / "artifacts").as_uri()
    experiment = (
        known.experiment_id
        if known
        else client.create_experiment("tests", artifact_location=artifacts)
    )
    run = client.create_run(experiment).info.run_id
    save_model(model, workspace / "model")
    client.log_artifacts(run, str(workspace / "model"), "model")
    client.log_param(run, "kind", model.kind)
    promote(registry, registry.register(run), [])


def post(
    settings: Settings, body: bytes | dict, headers: dict[str, str] | None = None
) -> tuple[int, dict]:
    "Status and answer of one `POST /decide`."
    connection = http.client.HTTPConnection(settings.host, settings.port, timeout=60)
    content = json.dumps(body) if isinstance(body, dict) else body
    try:
        connection.request("POST", "/decide", content, headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


class Served:
    "The workspace and its running service."

    def __init__(self, home: Path):
        chosen = dict(home=home, port=free_port())
        self.settings: Settings = load_settings(ROOT).model_copy(update=chosen)
        self.workspace: Workspace = activate(self.settings, "service")
        self.logs = Logs(self.workspace.path)
        self.registry = Registry(self.workspace.path, FRAUD.name, self.workspace.mlflow_uri)
        for model in (Constant(FRAUD.features.names, FRAUD.features.hash), self._trees()):
            champion(self.registry, self.workspace, model)
        load_store(FRAUD.features, self.workspace.path, self.logs)
        self.bento = self.package()
        self.service: Service = start(self.settings, self.workspace, self.bento)

    def _trees(self) -> Any:
        "A model that knows large amounts."
        history = Batch.checked("history", {FRAUD.request: payments(600, BEGIN)})
        stored = land(self.logs, history).events[FRAUD.request]
        events = {s: pl.DataFrame(schema=self.logs[s].schema) for s in FRAUD.features.streams}
        frame = offline(FRAUD.features, stored, events | {FRAUD.request: stored})
        labelled = frame.with_columns(label=pl.col("amount") > 150)
        return fit(Recipe("xgboost"), labelled, FRAUD.features.names, FRAUD.features.hash)

    def package(self) -> str:
        "The champion's bento."
        return package(self.settings, self.workspace, FRAUD, self.registry)["bento"]

    def post(self, body: bytes | dict) -> tuple[int, dict]:
        return post(self.settings, body)

    def json(self, path: str) -> dict:
        return json.loads(get(self.service, path)[1])

    @contextmanager
    def another(self, path: str, **variables: str) -> Iterator[tuple[Settings, Service]]:
        "A second service of the same bento, in an environment of its own, until `path` answers."
        settings = self.settings.model_copy(update=dict(port=free_port()))
        command, env = serve_command(self.workspace, settings, self.bento)
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(
            command,
            env={**os.environ, **env, **variables},
            cwd=self.workspace.path,
            stdout=quiet,
            stderr=quiet,
            start_new_session=True,
        )
        service = Service(process.pid, self.bento, settings.host, settings.port)
        try:
            while get(service, path, 60)[0] != 200:
                assert process.poll() is None, "the service ended"
                time.sleep(0.1)
            yield settings, service
        finally:
            kill(service)
            process.wait()
