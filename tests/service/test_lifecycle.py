"A service is started, switched, killed and rolled back without losing an answered decision."

from __future__ import annotations

import pytest
from served import FRAUD, post

from mlkit.decisions import read_decisions
from mlkit.registry import rollback
from mlkit.release import ReleaseError, check_port, get, kill, running, start, switch

pytestmark = pytest.mark.service


def test_a_taken_port_is_named(served):
    with pytest.raises(ReleaseError, match=f"port {served.settings.port} .* in use"):
        check_port(served.settings.host, served.settings.port)


def test_rollback_puts_the_previous_model_back_and_the_service_answers_with_it(served):
    rollback(served.registry, "test")
    bento = served.package()
    switch(served.settings, served.workspace, bento)
    model = served.post(FRAUD.example)[1]["model"]
    assert (model["kind"], model["version"]) == ("constant", 1) and bento != served.bento
    rollback(served.registry, "and again")
    served.service = switch(served.settings, served.workspace, served.bento)
    assert served.post(FRAUD.example)[1]["model"]["version"] == 2


def test_killed_at_once_the_log_holds_every_answered_decision(served):
    answered = {served.post(FRAUD.example)[1]["decision_id"] for _ in range(20)}
    kill(running(served.workspace))
    logged = {d["decision_id"] for d in read_decisions(served.workspace / "decisions")}
    assert answered <= logged
    served.service = start(served.settings, served.workspace, served.bento)
    assert served.post(FRAUD.example)[0] == 200


def test_without_state_the_service_is_not_ready_but_every_request_goes_to_a_human(served, tmp_path):
    elsewhere = dict(MLKIT_HOME=str(tmp_path), MLKIT_WORKSPACE="empty")
    with served.another("/livez", **elsewhere) as (settings, service):
        status, answer = post(settings, FRAUD.example)
        assert status == 200 and answer["route"] == FRAUD.policy.last.name
        assert not answer["automatic"] and "features" in answer["degraded"][0]
        assert get(service, "/readyz")[0] != 200


def test_with_a_token_nobody_is_answered_without_it(served):
    with served.another("/readyz", MLKIT_TOKEN="a-long-secret") as (settings, service):
        for path in ("/model", "/metrics", "/docs", "/openapi.json"):
            assert get(service, path)[0] == 401
        for token, expected in (("", 401), ("wrong", 401), ("a-long-secret", 200)):
            header = {"Authorization": f"Bearer {token}"}
            assert post(settings, FRAUD.example, header)[0] == expected
