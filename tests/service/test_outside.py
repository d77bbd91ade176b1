"""A use case of another project is packed with its own code, and served from there.

Its module lies in a folder outside the repository, which the service cannot see.
"""

from __future__ import annotations

import sys

import pytest
from served import ROOT, champion, free_port, post

from mlkit.decisions import find_decision, load_release
from mlkit.errors import ContractError
from mlkit.etl import Logs
from mlkit.kinds import Constant
from mlkit.modelfiles import save_model
from mlkit.registry import Registry
from mlkit.release import package, start, stop, write_release
from mlkit.settings import load_settings
from mlkit.stores import ensure_store
from mlkit.usecase import load_usecase
from mlkit.workspaces import activate

STREAMS = '''
"Streams of a project outside the kit."

from mlkit.events import Stream
from mlkit.fields import Fixed, Flag, Key, Text


class Claim(Stream):
    "An insurance claim."

    holder = Key()
    sum = Fixed(places=2, optional=True)


class Finding(Stream):
    "What it turned out to be."

    claim = Text()
    holder = Key()
    inflated = Flag()
'''
USECASE = '''
"Claims that may be inflated; three routes."

from claims_project.streams import Claim, Finding
from mlkit.features import FeatureSet, FeatureView
from mlkit.policy import Policy, Route
from mlkit.splits import LabelRule, Plan
from mlkit.usecase import UseCase


class Holder(FeatureView, key="holder"):
    n = Claim.count(over=["30d"])
    mean = Claim.mean("sum", over=["30d"])


usecase = UseCase(
    name="claims",
    request=Claim,
    labels=LabelRule(Finding, "claim", "inflated"),
    formats=[],
    features=FeatureSet(Claim, [Holder]),
    policy=Policy(
        "claims-1",
        (Route("pay"), Route("ask", loss=50.0), Route("assessor", human=True, loss=500.0)),
        "sum",
    ),
    plan=Plan(),
    entity="holder",
    example=dict(event_id="c1", event_time="2025-03-01T09:00:00Z", holder=7, sum=20.5),
)
'''
NAME = "claims_project.usecase"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    "A package with two modules, on this process's path only."
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "claims_project").mkdir()
    (folder / "claims_project" / "__init__.py").touch()
    (folder / "claims_project" / "streams.py").write_text(STREAMS)
    (folder / "claims_project" / "usecase.py").write_text(USECASE)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def test_the_release_refuses_code_that_was_changed(project, tmp_path):
    usecase = load_usecase(NAME)
    save_model(Constant(usecase.features.inputs, usecase.features.hash), tmp_path / "model")
    about = dict(name="claims", usecase=NAME, model_version=1, run="r")
    release = tmp_path / "release"
    write_release(release, tmp_path / "model", usecase.policy, about, "code")
    assert load_release(release).usecase.name == "claims"
    changed = release / "usecase" / "claims_project" / "usecase.py"
    changed.write_text(changed.read_text().replace("50.0", "5000.0"))
    with pytest.raises(ContractError, match="usecase: its digest"):
        load_release(release)


@pytest.mark.service
def test_it_is_served_from_the_bento(project, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    usecase = load_usecase(NAME)
    settings = load_settings(ROOT).model_copy(
        update=dict(home=tmp_path, usecase=NAME, port=free_port())
    )
    workspace = activate(settings, "claims")
    registry = Registry(workspace.path, usecase.name, workspace.mlflow_uri)
    champion(registry, workspace, Constant(usecase.features.inputs, usecase.features.hash))
    ensure_store(usecase.features, workspace.path, Logs(workspace.path)).close()
    packed = package(settings, workspace, usecase, registry)
    start(settings, workspace, packed["bento"])
    try:
        sums = (20.5, 200, 2000, None)
        answers = [post(settings, usecase.example | dict(sum=s))[1] for s in sums]
    finally:
        stop(workspace)
    assert [a["route"] for a in answers] == ["pay", "ask", "assessor", "assessor"]
    assert all(a["degraded"] == [] for a in answers)
    logged = find_decision(workspace / "decisions", answers[0]["decision_id"])
    assert logged["values"] == {"holder_n_30d": 1, "holder_mean_30d": 20.5}
