"""Routes are the policy's: a name is written once and is the same everywhere.

Service, OpenAPI, review queue, monitoring and the policy document know the order and the kind only.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import polars as pl
import pytest
from fastapi.testclient import TestClient

from mlkit.decisions import ANSWER, DecisionLog, Engine, Release, read_decisions
from mlkit.kinds import Constant
from mlkit.monitoring import decisions_summary
from mlkit.pictures import picture_routes
from mlkit.policy import Guard, Policy, Route, load_policy, save_policy
from mlkit.review import Queue, cases, counts
from mlkit.serving import create_app
from mlkit.stores import ensure_store
from mlkit.usecase import load_usecase

FRAUD = load_usecase("fraud")
RENAMED = (Route("wave-through"), Route("desk", human=True, probability=0.15, loss=50.0))
THREE = (Route("accept"), Route("deposit", loss=50.0), Route("human", human=True, loss=500.0))


class World:
    "A use case with routes of its own, decided through the HTTP interface."

    def __init__(self, folder, logs, routes: tuple[Route, ...], guards: tuple[Guard, ...] = ()):
        policy = Policy("p", routes, "amount", guards)
        self.usecase = replace(FRAUD, policy=policy)
        self.folder = folder
        constant = Constant(FRAUD.features.names, FRAUD.features.hash)
        constant.z = -2.2
        release = Release(constant, policy, self.usecase, {})
        self.store = ensure_store(FRAUD.features, folder, logs)
        self.engine = Engine(release, self.store, DecisionLog(folder / "decisions"))
        self.client = TestClient(create_app(self.engine))

    def decide(self, amount: float, event_id: str = "p1") -> dict:
        "The answer to a payment; its probability is always .1."
        request = FRAUD.example | dict(amount=amount, event_id=event_id)
        return self.client.post("/decide", json=request).json()

    def schema(self) -> dict:
        described = self.client.get("/openapi.json").json()["paths"]["/decide"]["post"]
        return described["responses"]["200"]["content"]["application/json"]["schema"]


@pytest.fixture
def world(tmp_path, logs):
    made = []

    def make(routes, guards=()):
        made.append(World(tmp_path, logs, routes, guards))
        return made[-1]

    yield make
    for w in made:
        w.store.close()


def test_renamed_routes_are_seen_everywhere(world, tmp_path):
    w = world(RENAMED)
    small, large = w.decide(10), w.decide(4000, "p2")
    assert (small["route"], small["automatic"]) == ("wave-through", True)
    assert (large["route"], large["automatic"]) == ("desk", False)
    for key in ("route", "band"):
        assert w.schema()["properties"][key]["enum"] == ["wave-through", "desk"]
    assert [c["event_id"] for c in cases(Queue(tmp_path))] == ["p2"]
    assert 'route="desk"' in metrics()
    save_policy(w.usecase.policy, tmp_path / "policy.json")
    assert list(load_policy(tmp_path / "policy.json").order) == ["wave-through", "desk"]


def metrics() -> str:
    "What Prometheus would be told."
    from prometheus_client import generate_latest

    return generate_latest().decode()


def test_three_routes_are_decided_queued_and_reported(world, tmp_path):
    burst = Guard("large", "amount >= 9000.0", "an amount of 9,000 or more", route="deposit")
    w = world(THREE, (burst,))
    amounts = [10, 20, 600, 700, 6000, 9500]
    answers = [w.decide(a, f"p{a}") for a in amounts]
    assert [a["route"] for a in answers] == ["accept"] * 2 + ["deposit"] * 2 + ["human"] * 2
    assert [a["automatic"] for a in answers] == [True] * 4 + [False] * 2
    assert [c["event_id"] for c in cases(Queue(tmp_path))] == ["p9500", "p6000"]
    assert counts(Queue(tmp_path)) == dict(open=2)
    rows = pl.DataFrame(
        [dict(a, event_time=datetime(2025, 1, 1, tzinfo=timezone.utc)) for a in answers]
    ).with_columns(degraded=pl.lit(False))
    summary = decisions_summary(rows, list(w.usecase.policy.order))
    assert summary["routes"] == dict(accept=2, deposit=2, human=2)
    assert (summary["automatic"], summary["human"]) == (4, 2)
    assert picture_routes(rows, list(w.usecase.policy.order))


def test_degraded_decisions_take_the_last_route(world):
    w = world(RENAMED)
    w.engine.store = None
    answer = w.decide(10)
    assert (answer["route"], answer["band"], answer["automatic"]) == ("desk", "desk", False)
    assert answer["probability"] is None and answer["expected_loss"] is None
    assert answer["degraded"] == ["features: no online state"]


def test_a_decision_that_cannot_be_recorded_takes_the_last_route(world):
    w = world(RENAMED)

    def full(decision):
        raise OSError(28, "No space left on device")

    w.engine.log.append = full
    answer = w.decide(10)
    assert (answer["route"], answer["band"], answer["automatic"]) == ("desk", "wave-through", False)
    assert "No space left" in answer["degraded"][0]


def test_answer_and_openapi_have_the_same_keys(world):
    w = world(THREE)
    answer = w.decide(10)
    assert list(answer) == list(ANSWER) == w.schema()["required"] == list(w.schema()["properties"])
    logged = next(iter(read_decisions(w.folder / "decisions")))
    assert {k: logged[k] for k in ANSWER} == answer
