"A verdict is one label event, a case is decided once, the queue is ordered by what is at stake."

from __future__ import annotations

import sqlite3
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from mlkit.decisions import DecisionLog, Engine, Release
from mlkit.eventlog import scan
from mlkit.kinds import Constant
from mlkit.policy import Policy, Route
from mlkit.review import Queue, ReviewError, case, cases, counts, decide, sync
from mlkit.stores import ensure_store, open_store
from mlkit.usecase import load_usecase

FRAUD = load_usecase("fraud")
BARE = replace(FRAUD, policy=Policy("bare", (Route("ok"), Route("desk", True, probability=0.5))))


def decided(logs, amounts: list[float], usecase=FRAUD, with_state: bool = True) -> Queue:
    "The queue after payments of these amounts; without a state every decision is degraded."
    constant = Constant(FRAUD.features.names, FRAUD.features.hash)
    release = Release(constant, usecase.policy, usecase, {})
    log = DecisionLog(logs.folder / "decisions")
    with ensure_store(FRAUD.features, logs.folder, logs) as store:
        engine = Engine(release, store if with_state else None, log)
        for amount in amounts:
            request = dict(event_id=f"p{amount:g}", amount=amount)
            engine.decide(FRAUD.example | request)
    return Queue(logs.folder)


def queued(queue: Queue) -> list[str]:
    return [c["event_id"] for c in cases(queue)]


def labels(logs):
    return scan(logs[FRAUD.labels.stream]).collect()


def test_the_costliest_comes_first(logs):
    assert queued(decided(logs, [20, 600, 300])) == ["p600", "p300", "p20"]


def test_an_unknown_probability_puts_all_of_the_amount_at_stake(logs):
    decided(logs, [500, 900])
    queue = decided(logs, [400], with_state=False)
    assert queued(queue) == ["p900", "p400", "p500"]


def test_without_an_exposure_the_probability_orders_the_queue(logs):
    decided(logs, [500], BARE)
    queue = decided(logs, [400], BARE, with_state=False)
    assert queued(queue) == ["p400", "p500"]
    assert cases(queue)[1]["expected_loss"] is None


def test_a_synced_decision_is_not_taken_twice(logs):
    queue = decided(logs, [20, 600])
    assert (sync(queue), sync(queue), counts(queue)) == (2, 0, dict(open=2))


def test_a_verdict_is_one_label_event_and_closes_the_case(logs):
    queue = decided(logs, [600])
    made = decide(queue, FRAUD, logs, case(queue, "d")["decision_id"], positive=True)
    assert labels(logs).select("event_id", "is_fraud").rows() == [(made["event_id"], True)]
    assert counts(queue) == dict(decided=1)
    with pytest.raises(ReviewError, match="was decided as positive"):
        decide(queue, FRAUD, logs, "d", positive=False)


def test_a_verdict_that_was_cut_off_is_given_again_and_lands_once(logs, monkeypatch):
    queue = decided(logs, [600])

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr("mlkit.review._close", killed)
        decide(queue, FRAUD, logs, "d", positive=True)
    assert labels(logs).height == 1 and counts(queue) == dict(open=1)
    decide(queue, FRAUD, logs, "d", positive=True)
    assert labels(logs).height == 1 and counts(queue) == dict(decided=1)


def test_the_state_is_left_to_whoever_calls(logs):
    queue = decided(logs, [600])
    decide(queue, FRAUD, logs, "d", positive=True)
    with open_store(FRAUD.features, logs.folder) as store, store.reader() as reader:
        assert reader.position()["seq"].get("label", -1) == -1


def test_a_use_case_without_a_review_says_so(logs):
    queue = decided(logs, [600])
    with pytest.raises(ReviewError, match="'fraud' declares no review"):
        decide(queue, replace(FRAUD, review=None), logs, "d", positive=True)
    assert labels(logs).height == 0


def test_a_verdict_is_known_after_what_was_asked(logs):
    queue = decided(logs, [600])
    made = decide(queue, FRAUD, logs, "d", positive=False)
    asked = datetime.fromisoformat(case(queue, "d")["event_time"])
    assert made["event_time"] == asked + timedelta(microseconds=1)


@pytest.mark.parametrize("prefix, message", [("x", "no case 'x'"), ("d", "several ids")])
def test_a_case_is_found_by_the_beginning_of_its_id(logs, prefix, message):
    with pytest.raises(ReviewError, match=message):
        case(decided(logs, [600, 700]), prefix)


def test_a_label_that_landed_before_the_case_was_closed_is_used(logs, monkeypatch):
    "By the wall clock, which has moved on when the same verdict is given again."
    from mlkit import review

    queue = decided(logs, [600])

    def full(*args, **given):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(review, "_close", full)
        with pytest.raises(ReviewError, match="No case was changed. Free space"):
            decide(queue, FRAUD, logs, "d", positive=True, clock="wall")
    with pytest.raises(ReviewError, match="in the log with another verdict"):
        decide(queue, FRAUD, logs, "d", positive=False, clock="wall")
    decide(queue, FRAUD, logs, "d", positive=True, clock="wall")
    assert labels(logs).height == 1 and counts(queue) == dict(decided=1)
