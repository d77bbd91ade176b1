"""The real service: built by `bentoml build`, started by `bentoml serve`, asked over HTTP."""

import http.client
import json
import socket
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mlkit.decisions import find_decision, read_decisions
from mlkit.etl import Batch, Logs, land
from mlkit.frames import offline
from mlkit.kinds import Constant
from mlkit.lmdbstate import LmdbStore, load_lmdb
from mlkit.modelfiles import save_model
from mlkit.online import apply, state_folder
from mlkit.parity import compare
from mlkit.recipes import Recipe, fit
from mlkit.registry import Registry, promote, rollback
from mlkit.release import (
    ReleaseError,
    Service,
    check_port,
    environment,
    get,
    kill,
    package,
    running,
    start,
    stop,
    switch,
)
from mlkit.settings import Settings, Workspace, activate, load_settings
from mlkit.usecase import load_usecase

pytestmark = pytest.mark.service
ROOT = Path(__file__).resolve().parents[2]
usecase = load_usecase("mlkit.usecases.fraud")
Transaction = usecase.request


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def payments(n: int, start: datetime, seed: int = 0) -> pl.DataFrame:
    "Payments of few customers at few terminals, some minutes apart."
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        dict(
            event_id=[f"t{seed}-{i}" for i in range(n)],
            event_time=[start + timedelta(minutes=7 * i) for i in range(n)],
            customer_id=rng.integers(0, 5, n),
            terminal_id=rng.integers(0, 4, n),
            amount=rng.integers(1, 20_000, n) / 100,
        )
    )


class Served:
    "A workspace with two model versions, and the second one served."

    def __init__(self, home: Path):
        self.settings: Settings = load_settings(ROOT).model_copy(
            update=dict(home=home, port=free_port())
        )
        self.workspace: Workspace = activate(self.settings, "service")
        self.logs = Logs(self.workspace.path)
        self.start = datetime(2025, 3, 1, tzinfo=timezone.utc)
        history = Batch.checked("history", {Transaction: payments(600, self.start)})
        stored = land(self.logs, history).events[Transaction]
        frame = offline(
            usecase.features,
            stored,
            {
                s: stored if s is Transaction else pl.DataFrame(schema=self.logs[s].schema)
                for s in usecase.features.streams
            },
        )
        trees = fit(
            Recipe("xgboost"),
            frame.with_columns(label=pl.col("amount") > 150),
            usecase.features.names,
            usecase.features.hash,
        )
        self.registry = Registry(self.workspace.path, usecase.name, self.workspace.mlflow_uri)
        for model in (Constant(usecase.features.names, usecase.features.hash), trees):
            self.promote(model)
        load_lmdb(usecase.features, state_folder(self.workspace.path, usecase.features), self.logs)
        self.bento = package(self.settings, self.workspace, usecase, self.registry)["bento"]
        self.service: Service = start(self.settings, self.workspace, self.bento)

    def promote(self, model) -> None:
        client = self.registry.client
        found = client.get_experiment_by_name("tests")
        run = client.create_run(
            found.experiment_id
            if found
            else client.create_experiment(
                "tests", artifact_location=(self.workspace / "artifacts").as_uri()
            )
        ).info.run_id
        save_model(model, self.workspace / "model")
        client.log_artifacts(run, str(self.workspace / "model"), "model")
        client.log_param(run, "kind", model.kind)
        promote(self.registry, self.registry.register(run), [])

    def post(self, body: bytes | dict, path: str = "/decide") -> tuple[int, dict]:
        connection = http.client.HTTPConnection(self.settings.host, self.settings.port, timeout=10)
        try:
            connection.request(
                "POST",
                path,
                json.dumps(body) if isinstance(body, dict) else body,
                {"Content-Type": "application/json"},
            )
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    made = Served(tmp_path_factory.mktemp("home"))
    yield made
    stop(made.workspace)


def test_a_valid_request_is_decided_and_logged_before_it_is_answered(served):
    status, answer = served.post(usecase.example)
    assert status == 200 and answer["route"] in usecase.policy.order and answer["degraded"] == []
    logged = find_decision(served.workspace / "decisions", answer["decision_id"])
    assert logged["probability"] == answer["probability"] and set(logged["values"]) == set(
        usecase.features.names
    )
    assert answer["contributions"] and answer["model"]["version"] == 2


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(amount=None), "amount: missing"),
        (dict(amount="a lot"), "amount: must be a number"),
        (dict(amount=-1), "amount: must not be below 0"),
        (dict(amount=1e15), "amount: must not be above"),
        (dict(amount=1.234), "at most 2 decimals"),
        (dict(customer_id="x"), "customer_id: must be a whole number"),
        (dict(customer_id=True), "customer_id"),
        (dict(event_time="soon"), "event_time"),
        (dict(colour="red"), "colour: unknown field"),
        (dict(event_id=""), "event_id"),
    ],
)
def test_a_request_that_breaks_the_contract_is_told_every_field(served, change, says):
    status, answer = served.post({**usecase.example, **change})
    assert status == 422 and says in answer["detail"]


def test_a_missing_field_is_named(served):
    status, answer = served.post({k: v for k, v in usecase.example.items() if k != "terminal_id"})
    assert status == 422 and "terminal_id: missing" in answer["detail"]


@pytest.mark.parametrize(
    "body, expected",
    [
        (b'{"amount": NaN}', 400),
        (b"", 400),
        (b"[]", 422),
        (b"\xff\xfe", 400),
        (b'"text"', 422),
        (b"[" * 100_000, 413),
        (b"[" * 10_000, 400),
    ],
)
def test_what_is_no_request_is_refused(served, body, expected):
    status, answer = served.post(body)
    assert status == expected and answer["error"]


def test_ten_megabytes_are_refused_and_the_service_lives_on(served):
    try:
        assert served.post(b" " * 10_000_000)[0] == 413
    except (ConnectionError, BrokenPipeError):
        pass  # the service may hang up before all was sent
    assert served.post(usecase.example)[0] == 200


def test_the_interface_describes_itself(served):
    openapi = json.loads(get(served.service, "/openapi.json")[1])
    body = openapi["paths"]["/decide"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    assert set(body["required"]) == set(usecase.request.fields) and body["examples"] == [
        usecase.example
    ]
    assert {"200", "400", "413", "422"} <= set(openapi["paths"]["/decide"]["post"]["responses"])
    for path in ("/livez", "/readyz", "/docs"):
        assert get(served.service, path)[0] == 200
    model = json.loads(get(served.service, "/model")[1])
    assert (
        model["features"] == usecase.features.hash
        and model["release"] == served.bento.split(":")[1]
    )


def test_metrics_count_decisions(served):
    def count() -> float:
        lines = get(served.service, "/metrics")[1].decode().splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith("mlkit_decisions_total")
        )

    before = count()
    served.post(usecase.example)
    assert count() == before + 1


def test_served_features_equal_the_offline_frame_bit_for_bit(served):
    coming = payments(150, served.start + timedelta(days=4), seed=1)
    decided = []
    with LmdbStore(
        usecase.features, state_folder(served.workspace.path, usecase.features), write=True
    ) as store:
        for i, row in enumerate(coming.iter_rows(named=True)):
            status, answer = served.post({**row, "event_time": row["event_time"].isoformat()})
            assert status == 200
            decided.append(answer["decision_id"])
            batch = Batch.checked(f"one-{i}", {Transaction: coming[i : i + 1]})
            apply(store, Transaction, land(served.logs, batch).events[Transaction])
    from mlkit.eventlog import scan

    values = [
        d for d in read_decisions(served.workspace / "decisions") if d["decision_id"] in decided
    ]
    log = scan(served.logs[Transaction]).collect()
    expected = offline(
        usecase.features,
        log.filter(pl.col("event_id").is_in(coming["event_id"].implode())),
        {
            Transaction: log,
            usecase.labels.stream: pl.DataFrame(schema=served.logs[usecase.labels.stream].schema),
        },
    )
    frame = pl.DataFrame(
        [{"event_id": d["request"]["event_id"], **d["values"]} for d in values],
        schema={"event_id": pl.String, **{n: expected.schema[n] for n in usecase.features.names}},
    )
    assert compare(frame, expected, usecase.features.names) == dict(
        compared=150, different=0, by_feature={}
    )


def test_the_state_is_rebuilt_while_the_service_answers(served):
    "At an old version of the log and at the newest, over and over: every answer is whole, and of one of the two."
    import subprocess
    import sys
    import threading

    asked = dict(
        event_id="while it is rebuilt",
        event_time=(served.start + timedelta(days=5)).isoformat(),
        customer_id=1,
        terminal_id=2,
        amount=12.5,
    )
    answers, end = list[tuple[int, dict]](), threading.Event()

    def ask() -> None:
        while not end.is_set():
            answers.append(served.post(asked))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for arguments in [("--version", f"{Transaction.name}=1"), ()] * 2:
            done = subprocess.run(
                [
                    sys.executable,
                    "-c",
                    "from mlkit.cli import main; main()",
                    "backfill",
                    "--state",
                    *arguments,
                ],
                cwd=ROOT,
                capture_output=True,
                text=True,
                env=environment(
                    served.workspace,
                    MLKIT_HOME=str(served.settings.home),
                    MLKIT_WORKSPACE=served.workspace.name,
                ),
            )
            assert done.returncode == 0 and "online state" in done.stdout, done.stdout + done.stderr
            before = len(answers)
            while len(answers) < before + 20:
                time.sleep(0.01)
    finally:
        end.set()
        asking.join()
    assert all(status == 200 and a["degraded"] == [] for status, a in answers)
    ids = {a["decision_id"] for _, a in answers}
    seen = {
        json.dumps(d["values"])
        for d in read_decisions(served.workspace / "decisions")
        if d["decision_id"] in ids
    }
    assert len(seen) == 2 and {json.loads(v)["customer_n_30d"] for v in seen} == {
        n + 1 for n in (counted(served, 1), counted(served, None))
    }


def counted(served, version: int | None) -> int:
    "Payments of customer 1 in the log at a version."
    from mlkit.eventlog import scan

    return (
        scan(served.logs[Transaction], version=version, until=served.start + timedelta(days=5))
        .filter(pl.col("customer_id") == 1)
        .collect()
        .height
    )


def test_a_taken_port_is_named(served):
    with pytest.raises(ReleaseError, match=f"port {served.settings.port} .* in use"):
        check_port(served.settings.host, served.settings.port)


def test_rollback_puts_the_previous_model_back_and_the_service_answers_with_it(served):
    rollback(served.registry, "test")
    service = switch(
        served.settings,
        served.workspace,
        package(served.settings, served.workspace, usecase, served.registry)["bento"],
    )
    assert served.post(usecase.example)[1]["model"] == dict(
        served.post(usecase.example)[1]["model"], kind="constant", version=1
    )
    rollback(served.registry, "and again")
    served.service = switch(served.settings, served.workspace, served.bento)
    assert (
        served.post(usecase.example)[1]["model"]["version"] == 2 and service.bento != served.bento
    )


def test_killed_at_once_the_log_holds_every_answered_decision(served):
    answered = [served.post(usecase.example)[1]["decision_id"] for _ in range(20)]
    kill(running(served.workspace))
    assert set(answered) <= {
        d["decision_id"] for d in read_decisions(served.workspace / "decisions")
    }
    served.service = start(served.settings, served.workspace, served.bento)
    assert served.post(usecase.example)[0] == 200


def test_without_state_the_service_is_not_ready_but_every_request_goes_to_a_human(served, tmp_path):
    import subprocess

    empty = activate(served.settings.model_copy(update=dict(home=tmp_path)), "empty")
    port = free_port()
    from mlkit.release import serve_command

    command, _ = serve_command(
        served.workspace, served.settings.model_copy(update=dict(port=port)), served.bento
    )
    env = environment(served.workspace, MLKIT_HOME=str(tmp_path), MLKIT_WORKSPACE=empty.name)
    process = subprocess.Popen(
        command,
        env=env,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        there = Service(process.pid, served.bento, "127.0.0.1", port)
        deadline = time.monotonic() + 60
        while get(there, "/livez", 1)[0] != 200 and time.monotonic() < deadline:
            time.sleep(0.1)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", "/decide", json.dumps(usecase.example))
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert (
            response.status == 200
            and answer["automatic"] is False
            and "features" in answer["degraded"][0]
        )
        assert get(there, "/readyz")[0] != 200
    finally:
        kill(Service(process.pid, served.bento, "127.0.0.1", port))
        process.wait()


def test_with_a_token_nobody_is_answered_without_it(served):
    import os
    import subprocess

    from mlkit.release import serve_command

    port = free_port()
    command, env = serve_command(
        served.workspace, served.settings.model_copy(update=dict(port=port)), served.bento
    )
    process = subprocess.Popen(
        command,
        env={**os.environ, **env, "MLKIT_TOKEN": "a-long-secret"},
        cwd=served.workspace.path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    there = Service(process.pid, served.bento, "127.0.0.1", port)
    try:
        deadline = time.monotonic() + 60
        while get(there, "/readyz", 1)[0] != 200 and time.monotonic() < deadline:
            time.sleep(0.1)
        for path in ("/model", "/metrics", "/docs", "/openapi.json"):
            assert get(there, path)[0] == 401
        for token, expected in (("", 401), ("wrong", 401), ("a-long-secret", 200)):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request(
                "POST", "/decide", json.dumps(usecase.example), {"Authorization": f"Bearer {token}"}
            )
            assert connection.getresponse().status == expected
    finally:
        kill(there)
