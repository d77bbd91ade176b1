"A state is made where there is none; one that is in use, or out of reach, stays as it is."

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from helpers import FEATURES, Pay, pays

from mlkit import stores
from mlkit.eventlog import append, scan
from mlkit.online import MissingStateError, StateError, apply, state_folder
from mlkit.stores import describe_store, ensure_store, load_store, open_store

NOWHERE = "redis://:secret@127.0.0.1:1/0"


@pytest.fixture
def workspace(logs: Any) -> Path:
    "A log of five payments; no state yet."
    append(logs[Pay], pays(5), "all")
    return logs.folder


@pytest.fixture
def no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    "Whoever makes a state anew fails the test."

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("a state was made anew")

    monkeypatch.setattr(stores, "load_store", refuse)


def test_a_missing_state_is_loaded(workspace, logs):
    with pytest.raises(MissingStateError, match="mlkit backfill --state"):
        open_store(FEATURES, workspace)
    with ensure_store(FEATURES, workspace, logs) as store, store.reader() as reader:
        assert reader.position()["seq"] == {"pay": 4}


def test_a_damaged_state_is_made_anew(workspace, logs):
    load_store(FEATURES, workspace, logs)
    (state_folder(workspace, FEATURES) / "data.mdb").write_bytes(b"no state at all" * 1000)
    with pytest.raises(MissingStateError, match="is damaged"):
        open_store(FEATURES, workspace)
    with ensure_store(FEATURES, workspace, logs) as store, store.reader() as reader:
        assert reader.position()["seq"] == {"pay": 4}


def test_a_state_that_is_open_is_not_made_anew(workspace, logs):
    load_store(FEATURES, workspace, logs, until=pays(5)["event_time"][3])
    with open_store(FEATURES, workspace) as store:
        with pytest.raises(StateError, match="open already in this process") as refused:
            ensure_store(FEATURES, workspace, logs)
        assert not isinstance(refused.value, MissingStateError)
        with store.reader() as reader:
            assert reader.position()["seq"] == {"pay": 2}


def test_a_state_that_cannot_be_opened_is_not_made_anew(workspace, logs, no_load, monkeypatch):
    "Too little memory, no permission, a lock that is held: the log is not the remedy."
    import lmdb

    from mlkit import lmdbstate

    def fail(*_: Any) -> None:
        raise lmdb.LockError("Resource temporarily unavailable")

    folder = state_folder(workspace, FEATURES)
    folder.mkdir(parents=True)
    (folder / "data.mdb").touch()
    monkeypatch.setattr(lmdbstate, "_environment", fail)
    with pytest.raises(StateError, match="see who has it open"):
        ensure_store(FEATURES, workspace, logs)


def test_a_server_out_of_reach_is_not_an_empty_one(workspace, logs, no_load):
    pytest.importorskip("redis")
    with pytest.raises(StateError, match="does not answer") as refused:
        ensure_store(FEATURES, workspace, logs, NOWHERE)
    assert not isinstance(refused.value, MissingStateError)
    assert "secret" not in str(refused.value)


BROKEN = {
    "missing": lambda rows: rows.drop("seq"),
    "null in some rows": lambda rows: rows.with_columns(seq=pl.lit(None, pl.Int64)),
    "'seq' is Float64": lambda rows: rows.with_columns(seq=pl.lit(1.5)),
    "'who' is null in some rows": lambda rows: rows.with_columns(who=pl.lit(None, pl.Int64)),
    "'amount' is null in some rows": lambda rows: rows.with_columns(amount=pl.lit(None, pl.Int64)),
    "'amount' is Float64 and must be Int64": lambda rows: rows.cast({"amount": pl.Float64}),
    "must be Datetime": lambda rows: rows.with_columns(pl.col("event_time").cast(pl.Datetime)),
}


@pytest.mark.parametrize("message", BROKEN)
def test_rows_that_are_not_from_the_log_are_not_applied(workspace, logs, message):
    rows = BROKEN[message](scan(logs[Pay]).collect())
    with ensure_store(FEATURES, workspace, logs) as store:
        before = describe_store(store)
        with pytest.raises(StateError, match=message):
            apply(store, Pay, rows)
        assert describe_store(store) == before


def test_a_state_is_described(workspace, logs):
    load_store(FEATURES, workspace, logs)
    with open_store(FEATURES, workspace, write=True) as store:
        text = describe_store(store)
        assert "LMDB at" in text and "pay up to seq 4" in text
        apply(store, Pay, pays(6)[5:].with_columns(seq=5))
        assert "pay up to seq 5" in describe_store(store)


def test_redis_is_described_without_its_password(workspace):
    pytest.importorskip("redis")
    with open_store(FEATURES, workspace, NOWHERE) as store:
        assert "127.0.0.1:1" in store.describe() and "secret" not in store.describe()


WITHOUT_REDIS = """
import sys
sys.modules["redis"] = None
import mlkit.stores, mlkit.stream, mlkit.decisions
assert "mlkit.redisstate" not in sys.modules
"""


def test_a_state_in_a_file_needs_no_redis():
    "Neither its client nor the module that knows it."
    subprocess.run([sys.executable, "-c", WITHOUT_REDIS], check=True)
