"A workspace of the tiny use case with something of everything in it, made without the pipeline."

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import tiny_usecase

from mlkit.decisions import DecisionLog, Engine, Release
from mlkit.etl import Logs, ingest
from mlkit.kinds import Constant
from mlkit.modelfiles import save_model
from mlkit.policy import Policy, Route, save_policy
from mlkit.recording import mlflow_client
from mlkit.records import Record
from mlkit.registry import Registry, promote
from mlkit.release import package
from mlkit.review import Queue, cases
from mlkit.settings import Settings, load_settings
from mlkit.stores import ensure_store
from mlkit.trace import remember_source
from mlkit.usecase import load_usecase
from mlkit.workspaces import Workspace, activate

USECASE = "shop.tickets"
NASTY = (
    "[/x] [red]\x1b]0;title\x07\x1b[31m :key: <b>&\u202e"  # markup, sequences, tags, turned round
)
REVIEW = """

def reviewed(request, positive, at):
    base = dict(event_id=request["event_id"] + "/review", event_time=at)
    return base | dict(ticket=request["event_id"], account=request["account"], escalated=positive)


from dataclasses import replace

usecase = replace(usecase, review=reviewed)
"""
SUMMARY = dict(
    workspace="june",
    rows=12345,
    quarantined=0,
    cut="2025-02-20T12:00:00+00:00",
    model=dict(version=2, kind="constant"),
    metrics=dict(auc=0.5, ap=0.5, precision_at_100=0.5, ece=0.0, baselines={}),
    promised=dict(expected=10.0, low=6.0, high=17.0, happened=20.0, held=False),
    decisions=dict(routes=dict(answer=1, desk=2), degraded=0),
    latency_ms={},
    parity=dict(compared=3, different=0, scores_different=0),
)


def project(folder: Path) -> None:
    "Let `shop.tickets` be imported: the tiny use case, with a review."
    package = folder / "shop"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    text = Path(tiny_usecase.__file__).read_text()
    (package / "tickets.py").write_text(text + REVIEW)
    sys.path.insert(0, str(folder))


def make(folder: Path) -> Settings:
    "Everything: log, state, two models, decisions, a queue, records of steps, a run."
    folder.mkdir(parents=True, exist_ok=True)
    settings = load_settings(folder, home=folder / "data", runs=folder / "runs", usecase=USECASE)
    usecase = load_usecase(USECASE)
    source = folder / "june.csv"
    tiny_usecase.write(folder, rows=200)
    (folder / "tickets.csv").rename(source)
    (folder / "withdrawn.csv").unlink(missing_ok=True)
    workspace = activate(settings, "june")
    logs = Logs(workspace.path)
    taken = ingest(source, usecase.formats, logs)
    noted = dict(hash=taken.hash, path=f"{source}{NASTY}", format="tickets", at="2025-03-01")
    remember_source(workspace.path, noted)
    about = _register(settings, workspace.path, usecase)
    _decide(workspace.path, usecase, about, logs)
    result = dict(source=str(source), hash=taken.hash, cut=SUMMARY["cut"], cut_origin="given")
    Record(result).write(workspace, "01_ingest")
    Record(dict(run=about["run"])).write(workspace, "03_train")
    Record(dict(gates=[])).write(workspace, "04_check")
    given = dict(source=str(source), cut="2025-02-20T12:00:00+00:00")
    (workspace / "parameters.json").write_text(json.dumps(given))
    return settings


def _register(settings, folder, usecase):
    "Two versions, the second of them the champion; what a release says of it."
    client = mlflow_client(f"sqlite:///{folder / 'mlflow.db'}")
    where = (folder / "artifacts").as_uri()
    experiment = client.create_experiment(usecase.name, artifact_location=where)
    registry = Registry(folder, usecase.name)
    for amount in (1, 2):
        model = Constant(usecase.features.names, usecase.features.hash)
        lineage = dict(cut=SUMMARY["cut"], source=NASTY)
        model.about = dict(lineage=lineage, rows=dict(train=amount), recipe=dict(params={}))
        digest = save_model(model, folder / "training" / f"m{amount}")
        run = client.create_run(experiment, run_name=NASTY).info.run_id
        client.log_artifacts(run, str(folder / "training" / f"m{amount}"), "model")
        client.log_param(run, "lineage.cut", SUMMARY["cut"])
        promote(registry, version := registry.register(run), [], why=f"{NASTY}\nsecond line")
    return dict(model_version=version, run=run, digest=digest, tag="t1")


def _decide(folder, usecase, about, logs):
    "Three requests with text that means harm, all of them the desk's."
    desk = Policy("all", (Route("answer"), Route("desk", human=True, probability=0.0)))
    (folder / "policies").mkdir()
    save_policy(desk, folder / "policies" / f"{desk.hash}.json")
    model = Constant(usecase.features.names, usecase.features.hash)
    with ensure_store(usecase.features, folder, logs) as store:
        log = DecisionLog(folder / "decisions")
        engine = Engine(Release(model, desk, usecase, about), store, log)
        for n in range(3):
            asked = dict(event_id=f"{n}{NASTY}", account=NASTY)
            engine.decide(usecase.example | asked)
    assert len(cases(Queue(folder))) == 3


def package_both(settings: Settings) -> None:
    "The bentos of both versions, which take seconds each and are the same in every copy."
    workspace, usecase = Workspace(settings.workspaces, "june"), load_usecase(USECASE)
    registry = Registry(workspace.path, usecase.name)
    for version in (1, 2):
        package(settings, workspace, usecase, registry, version)


def run_folder(settings: Settings, decision: str) -> None:
    "A run that has ended."
    folder = settings.runs / "20250301-000000-000"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(SUMMARY | dict(example_decision=decision)))
    link = settings.workspaces / "june" / "latest"
    link.symlink_to("../../../runs/20250301-000000-000")


def copy(made: Path, folder: Path) -> Path:
    "The project of `made` somewhere else; what it holds does not know."
    return Path(shutil.copytree(made, folder, symlinks=True))
