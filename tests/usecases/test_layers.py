"The tiny use case through every layer: exposure, simulator and review are never missed."

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
import tiny_usecase
from tiny_usecase import Ticket, Verdict, usecase

from mlkit import review
from mlkit.checks import check_model
from mlkit.datasets import Data
from mlkit.decisions import DecisionLog, Engine, Release, answer, read_decisions
from mlkit.etl import Logs, ingest
from mlkit.eventlog import scan
from mlkit.frames import offline
from mlkit.modelfiles import load_model, model_digest, save_model
from mlkit.models import matrix
from mlkit.monitoring import Period, decisions_summary, drift_since_training, performance
from mlkit.parity import compare, different_scores, recompute, served_features
from mlkit.period import first_cut
from mlkit.policy import save_policy
from mlkit.promises import Promise
from mlkit.recipes import Recipe, fit
from mlkit.splits import known_labels
from mlkit.stores import load_store, open_store
from mlkit.trace import trace

FEATURES = usecase.features


@dataclass
class Kit:
    "A workspace in which the tickets of a week were decided."

    folder: Path
    source: str
    logs: Logs
    cut: object
    frame: pl.DataFrame  # features of all tickets
    model_folder: Path
    decisions: list[dict]

    @property
    def tickets(self) -> pl.DataFrame:
        return scan(self.logs[Ticket]).collect()

    @property
    def verdicts(self) -> pl.DataFrame:
        return scan(self.logs[Verdict]).collect()

    @property
    def engine(self) -> Engine:
        model, about = load_model(self.model_folder), dict(model_version=1)
        about["digest"] = model_digest(self.model_folder)
        release = Release(model, usecase.policy, usecase, about)
        store = open_store(FEATURES, self.folder)
        return Engine(release, store, DecisionLog(self.folder / "decisions"))

    @property
    def period(self) -> Period:
        rows = [
            dict(
                event_id=d["request"]["event_id"],
                event_time=d["request"]["event_time"],
                decision_id=d["decision_id"],
                route=d["route"],
                automatic=d["automatic"],
                probability=d["probability"],
                degraded=bool(d["degraded"]),
                ms=d["ms"],
            )
            for d in self.decisions
        ]
        frame = pl.DataFrame(rows).with_columns(
            pl.col("event_time").str.to_datetime(time_zone="UTC")
        )
        end = self.cut + timedelta(days=usecase.plan.test)
        return Period(usecase, self.logs, self.cut, end, frame)


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> Kit:
    "Ingested, trained at the latest cut, and the test period's tickets decided one by one."
    folder, files = tmp_path_factory.mktemp("workspace"), tmp_path_factory.mktemp("files")
    source, logs = tiny_usecase.write(files), Logs(folder)
    ingest(source, usecase.formats, logs)
    tickets, verdicts = (scan(logs[s]).collect() for s in (Ticket, Verdict))
    frame = offline(FEATURES, tickets, {Ticket: tickets, Verdict: verdicts})
    cut = first_cut(tickets["event_time"], usecase.plan)
    data = Data(usecase.labels, usecase.plan, usecase.entity, tickets, verdicts, frame, cut)
    recipe = Recipe("xgboost", dict(n_estimators=20, learning_rate=0.2, max_depth=2))
    save_model(fit(recipe, data.training_frame(), FEATURES.inputs, FEATURES.hash), folder / "model")
    (folder / "policies").mkdir()
    save_policy(usecase.policy, folder / "policies" / f"{usecase.policy.hash}.json")
    load_store(FEATURES, folder, logs)
    made = Kit(folder, source, logs, cut, frame, folder / "model", [])
    end = cut + timedelta(days=usecase.plan.test)
    asked = tickets.filter(pl.col("event_time").is_between(cut, end, closed="left"))
    engine = made.engine
    for request in asked.select(*Ticket.schema()).to_dicts():
        made.decisions.append(engine.decide(Ticket.to_json(request)))
    return made


def test_every_event_is_in_the_log_once(kit):
    again = ingest(kit.source, usecase.formats, kit.logs)
    assert kit.tickets.height == 700 and kit.verdicts.height > 700
    assert sum(again.appended.values()) == again.quarantined == 0


def test_a_verdict_that_is_taken_back_is_none(kit):
    taken_back = kit.verdicts.filter(pl.col("escalated").is_null())
    refers = pl.col("event_id").is_in(taken_back["ticket"].implode())
    then = known_labels(usecase.labels, kit.verdicts, at=taken_back["event_time"].min())
    assert then.filter(refers).height >= 1 and then.filter(refers)["label"].all()
    assert taken_back.height > 10
    assert known_labels(usecase.labels, kit.verdicts).filter(refers).is_empty()


def test_the_model_keeps_the_contract(kit):
    found = check_model(load_model(kit.model_folder), FEATURES, kit.frame)
    assert all(c.passed for c in found), [c for c in found if not c.passed]


def test_without_an_exposure_risk_alone_decides(kit):
    assert len(kit.decisions) > 50
    for d in kit.decisions:
        assert d["expected_loss"] is None and not d["degraded"]
        assert d["route"] == ("desk" if d["probability"] >= 0.5 else "answer")
        assert d["automatic"] == (d["route"] == "answer")
    assert {d["route"] for d in kit.decisions} == {"answer", "desk"}


def test_optional_values_come_back_as_they_were_sent(kit):
    for d in kit.decisions:
        assert set(d["request"]) == set(Ticket.fields) and "decision_id" in answer(d)
    requests = [d["request"] for d in kit.decisions]
    for name in ("waited", "channel"):
        assert {r[name] is None for r in requests} == {True, False}


def test_the_decision_log_holds_what_was_answered(kit):
    logged = {d["decision_id"]: d for d in read_decisions(kit.folder / "decisions")}
    assert all(logged[d["decision_id"]] == d for d in kit.decisions)


def test_served_features_and_scores_are_the_offline_ones(kit):
    period = kit.period
    served = served_features(kit.folder / "decisions", period.rows["decision_id"], FEATURES)
    expected = recompute(usecase, kit.logs, served["event_id"].to_list(), period.end)
    found = compare(served, expected, FEATURES.names)
    assert found["compared"] == len(kit.decisions) and found["different"] == 0, found
    assert different_scores(load_model(kit.model_folder), period.rows, expected) == 0


def test_a_decision_is_traced_and_reproduced(kit):
    for d in kit.decisions[::20]:
        found = trace(
            kit.folder, usecase, kit.logs, d["decision_id"], lambda version: kit.model_folder
        )
        assert found.replayed and found.reproduced, found.replayed


def test_a_state_that_fails_sends_everything_to_a_human(kit):
    engine = Engine(kit.engine.release, None, DecisionLog(kit.folder / "degraded"))
    decision = engine.decide(usecase.example)
    assert decision["route"] == "desk" and decision["degraded"] and not decision["automatic"]


def test_monitoring_takes_every_type_of_feature(kit):
    period, model = kit.period, load_model(kit.model_folder)
    frame = recompute(usecase, kit.logs, period.rows["event_id"].to_list(), period.end)
    moved = drift_since_training(period, kit.frame, frame, model)
    assert moved.height == len(FEATURES.names) + 1
    judged = performance(period, frame, {}, Promise(0.0, 0.1, 0.9, (9.0, 9.0), (8.0, 10.0)))
    assert judged.metrics["served"]["rows"] > 20
    assert judged.promised["low"] <= judged.promised["expected"] <= judged.promised["high"]
    assert judged.promised["happened"] >= judged.label.sum()
    summary = decisions_summary(period.rows, [r.name for r in usecase.policy.routes])
    assert summary["automatic"] + summary["human"] == len(kit.decisions)
    assert matrix(frame, model.features).shape == (len(kit.decisions), len(FEATURES.inputs))


def test_a_use_case_without_review_refuses_a_verdict(kit):
    queue = review.Queue(kit.folder)
    review.sync(queue)
    case = next(d for d in kit.decisions if d["route"] == "desk")
    with pytest.raises(review.ReviewError, match="review"):
        review.decide(queue, usecase, kit.logs, case["decision_id"], True)
    assert kit.verdicts.filter(pl.col("event_id").str.contains("review")).is_empty()
