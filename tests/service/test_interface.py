"A valid request is decided and logged; anything else is refused with a reason, never by a 5xx."

from __future__ import annotations

import json

import pytest
from served import FRAUD

from mlkit.decisions import find_decision
from mlkit.release import get

pytestmark = pytest.mark.service


def test_a_valid_request_is_decided_and_logged_before_it_is_answered(served):
    status, answer = served.post(FRAUD.example)
    assert status == 200 and answer["route"] in FRAUD.policy.order and answer["degraded"] == []
    logged = find_decision(served.workspace / "decisions", answer["decision_id"])
    assert logged["probability"] == answer["probability"]
    assert set(logged["values"]) == set(FRAUD.features.names)
    assert answer["contributions"] and answer["model"]["version"] == 2


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(amount=None), "amount: missing"),
        (dict(amount="a lot"), "amount: must be a number"),
        (dict(amount=-1), "amount: must not be below 0"),
        (dict(amount=1e15), "amount: must not be above"),
        (dict(amount=1.234), "at most 2 decimals"),
        (dict(amount=57.1600009), "at most 2 decimals"),
        (dict(customer_id=2**64), "customer_id: must be a whole number"),
        (dict(event_id=20250101000000000001), "event_id: must be non-empty text"),
        (dict(customer_id="x"), "customer_id: must be a whole number"),
        (dict(customer_id=True), "customer_id"),
        (dict(event_time="soon"), "event_time"),
        (dict(colour="red"), "colour: unknown field"),
        (dict(event_id=""), "event_id"),
    ],
)
def test_a_request_that_breaks_the_contract_is_told_every_field(served, change, message):
    status, answer = served.post({**FRAUD.example, **change})
    assert status == 422 and message in answer["detail"]


def test_a_missing_field_is_named(served):
    status, answer = served.post({k: v for k, v in FRAUD.example.items() if k != "terminal_id"})
    assert status == 422 and "terminal_id: missing" in answer["detail"]


@pytest.mark.parametrize(
    "body, expected",
    [
        (b'{"amount": NaN}', 400),
        (b'{"amount": 1, "amount": 2}', 400),
        (b'{"event_id": "\\ud800"}', 400),
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
    assert served.post(FRAUD.example)[0] == 200


def test_the_interface_describes_itself(served):
    described = served.json("/openapi.json")["paths"]["/decide"]["post"]
    body = described["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["required"]) == set(FRAUD.request.fields)
    assert body["examples"] == [FRAUD.example]
    answered = described["responses"]["200"]["content"]["application/json"]["schema"]
    assert answered["properties"]["route"]["enum"] == list(FRAUD.policy.order)
    assert {"200", "400", "413", "422"} <= set(described["responses"])
    for path in ("/livez", "/readyz", "/docs"):
        assert get(served.service, path)[0] == 200
    model = served.json("/model")
    assert model["features"] == FRAUD.features.hash
    assert model["release"] == served.bento.split(":")[1]


def test_metrics_count_decisions_by_route(served):
    def counted() -> float:
        lines = get(served.service, "/metrics")[1].decode().splitlines()
        mine = [line for line in lines if line.startswith("mlkit_decisions_total")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in mine if 'degraded="no"' in line)

    before = counted()
    status, answer = served.post(json.dumps(FRAUD.example).encode())
    assert status == 200 and counted() == before + 1
    assert f'route="{answer["route"]}"' in get(served.service, "/metrics")[1].decode()
