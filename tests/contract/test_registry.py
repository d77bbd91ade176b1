"The registry never takes a database that it cannot read for one without a champion."

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from mlkit import registry as registry_module
from mlkit.checks import Check
from mlkit.kinds import Constant
from mlkit.modelfiles import save_model
from mlkit.recording import TrackingError, mlflow_client
from mlkit.registry import Registry, RegistryError, audit, audit_trail, promote, rollback, whoami

PASSED = [Check("a gate", True)]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    "One champion."
    made = Registry(tmp_path, "demo")
    artifacts = (tmp_path / "artifacts").as_uri()
    experiment = made.client.create_experiment("demo", artifact_location=artifacts)
    run = made.client.create_run(experiment).info.run_id
    save_model(Constant(["amount"]), tmp_path / "model")
    made.client.log_artifacts(run, str(tmp_path / "model"), "model")
    promote(made, made.register(run), PASSED)
    return made


@pytest.fixture(autouse=True)
def impatient():
    "MLflow waits 20 seconds for a lock; here it gives up at once."

    def shorten(connection, cursor, statement, parameters, context, many):
        return statement.replace("busy_timeout = 20000", "busy_timeout = 20"), parameters

    event.listen(Engine, "before_cursor_execute", shorten, retval=True)
    yield
    event.remove(Engine, "before_cursor_execute", shorten)


@contextmanager
def held(registry: Registry) -> Iterator[None]:
    "Another program holds the database."
    other = sqlite3.connect(registry.folder / "mlflow.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    yield
    other.execute("ROLLBACK")
    other.close()


def test_nobody_holds_a_role_where_nothing_is_registered(tmp_path):
    empty = Registry(tmp_path, "demo")
    assert empty.holder("champion") is None
    assert empty.versions() == []


def test_a_locked_database_is_not_taken_for_no_champion(registry):
    "And nothing is promoted or rolled back over it; after the lock all is as it was."
    before = audit_trail(registry.folder)
    asked = [
        lambda: registry.holder("champion"),
        registry.versions,
        lambda: promote(registry, 1, PASSED),
        lambda: rollback(registry, "a test"),
    ]
    with held(registry):
        for ask in asked:
            with pytest.raises(RegistryError, match="cannot be read: .*locked"):
                ask()
    assert audit_trail(registry.folder) == before
    assert registry.holder("champion") == 1


def test_a_database_that_is_none_is_said(registry):
    for path in registry.folder.glob("mlflow.db*"):
        path.write_bytes(b"not a database" * 1000)
    with pytest.raises(RegistryError, match="cannot be read"):
        Registry(registry.folder, "demo").holder("champion")


def test_a_foreign_file_in_place_of_the_database_is_said(tmp_path):
    "Where this process has not opened it before."
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(RegistryError, match="not a database"):
        Registry(tmp_path, "demo").holder("champion")


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE notes (x)", "CREATE TABLE alembic_version (version_num)"]
)
def test_the_database_of_another_program_is_left_alone(tmp_path, statement):
    "Also of one that numbers its versions in the same way, as Optuna's studies."
    other = sqlite3.connect(tmp_path / "mlflow.db")
    other.execute(statement)
    other.close()
    before = (tmp_path / "mlflow.db").read_bytes()
    with pytest.raises(RegistryError, match=f"mlflow.db .* tables {statement.split()[2]}, .*none"):
        Registry(tmp_path, "demo").holder("champion")
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_a_folder_in_place_of_the_database_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("mlflow.MlflowClient", None)  # which would try for a minute and a half
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(RegistryError, match="mlflow.db is a folder"):
        Registry(tmp_path, "demo")


def test_no_run_is_recorded_where_it_does_not_belong(tmp_path):
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(TrackingError, match="mlflow.db is a folder"):
        mlflow_client(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_an_account_without_a_name_can_act(tmp_path, monkeypatch):
    "As in a container that runs under a bare number."

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4242")

    monkeypatch.delenv("MLKIT_ACTOR", raising=False)
    monkeypatch.setattr(registry_module.getpass, "getuser", nameless)
    monkeypatch.setattr(registry_module.os, "getuid", lambda: 4242)
    assert whoami() == "uid 4242"
    assert audit(tmp_path, "look")["by"] == "uid 4242"
    monkeypatch.setenv("MLKIT_ACTOR", "release bot")
    assert whoami() == "release bot"
