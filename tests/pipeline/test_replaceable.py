"""The critical test: any model is replaced by a worse or a better one.

Pipeline, infrastructure and interface stay as they are.
"""

import hashlib
import http.client
import json

import pytest
from command import ROOT, SMALL, Kit

pytestmark = pytest.mark.pipeline


def infrastructure() -> str:
    "Names the content of everything that must not change."
    paths = [
        ROOT / "bentofile.yaml",
        *sorted((ROOT / "pipelines").glob("*")),
        *sorted((ROOT / "terraform").rglob("*.tf")),
        *sorted((ROOT / "mlkit").rglob("*.py")),
    ]
    return hashlib.sha256(b"".join(p.read_bytes() for p in paths if p.is_file())).hexdigest()


def asked(kit: Kit) -> tuple[dict, dict, list]:
    "The interface and an answer of the champion, served."
    kit("serve", "--detach")
    try:

        def call(method: str, path: str, body: str | None = None) -> dict:
            connection = http.client.HTTPConnection(
                "127.0.0.1", int(kit.env["MLKIT_PORT"]), timeout=10
            )
            connection.request(method, path, body)
            return json.loads(connection.getresponse().read())

        from mlkit.usecases.fraud import usecase

        openapi, answer = (
            call("GET", "/openapi.json"),
            call("POST", "/decide", json.dumps(usecase.example)),
        )
        openapi["info"].pop("version")
        return openapi, answer, sorted(answer)
    finally:
        kit("stop")


def test_trees_a_line_and_a_constant_take_each_others_place(tmp_path):
    kit, before, seen = Kit(tmp_path), infrastructure(), {}
    for kind in ("xgboost", "logistic", "constant"):
        kit(
            "run",
            *SMALL,
            "-p",
            f"kind={kind}",
            "-p",
            "override_gates=to replace it with a worse one",
        )
        assert kit.summary["parity"]["different"] == 0 and kit.summary["decisions"]["degraded"] == 0
        seen[kind] = asked(kit)
        assert seen[kind][1]["model"]["kind"] == kind
    assert seen["xgboost"][0] == seen["logistic"][0] == seen["constant"][0], (
        "the interface changed with the model"
    )
    assert seen["xgboost"][2] == seen["logistic"][2] == seen["constant"][2], (
        "the answer changed its shape with the model"
    )
    assert infrastructure() == before
