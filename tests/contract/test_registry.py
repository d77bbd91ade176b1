"The registry never takes a database that it cannot read for one without a champion."

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from mlkit import registry as registry_module
from mlkit.checks import Check
from mlkit.datasets import made_up_data
from mlkit.errors import UserError
from mlkit.kinds import Constant
from mlkit.modelfiles import save_model
from mlkit.recipes import Compute, Recipe
from mlkit.recording import TrackingError, _experiment, database_problem, mlflow_client, record
from mlkit.registry import Registry, RegistryError, audit, audit_trail, promote, rollback, whoami
from mlkit.training import train

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


def test_a_training_that_cannot_be_recorded_says_where_and_what_to_do(registry):
    trained = train(Recipe("constant"), made_up_data(), compute=Compute(threads=1))
    with (
        held(registry),
        pytest.raises(TrackingError, match="recorded in .*mlflow.db: .*locked.*wai"),
    ):
        record(trained, registry.folder / "again", registry.uri, "demo", {})


@pytest.mark.parametrize("said, advice", [("is full", "Free space"), ("a readonly", "owner")])
def test_each_problem_of_a_database_has_its_own_advice(said, advice):
    assert advice in database_problem(sqlite3.OperationalError(f"database {said}\n[SQL: ...]"))


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


# %% Moved, copied, cleaned up


def trained(folder: Path, name: str) -> int:
    "Another version, and champion."
    registry = Registry(folder, "demo")
    experiment = _experiment(registry.client, registry.uri, "demo")
    run = registry.client.create_run(experiment).info.run_id
    save_model(Constant([name]), folder / name)
    registry.client.log_artifacts(run, str(folder / name), "model")
    version = registry.register(run)
    promote(registry, version, PASSED)
    return version


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    "Three versions, in a folder whose name is not plain."
    folder = tmp_path / "a {1} 日本 #%"
    folder.mkdir()
    for name in ("one", "two", "three"):
        trained(folder, name)
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_copy_reads_and_writes_its_own_files(workspace):
    copy = Path(shutil.copytree(workspace, workspace.with_name("copy")))
    before = files(workspace)
    assert Registry(copy, "demo").folder_of(1).is_relative_to(copy)
    assert trained(copy, "four") == 4
    assert files(workspace) == before
    assert Registry(copy, "demo").folder_of(4).is_relative_to(copy)
    assert Registry(workspace, "demo").folder_of(1).is_relative_to(workspace)
    assert len(Registry(workspace, "demo").versions()) == 3


def test_after_a_move_every_version_is_found(workspace):
    moved = workspace.rename(workspace.with_name("moved"))
    found = Registry(moved, "demo")
    assert [found.folder_of(n).is_relative_to(moved) for n in (1, 2, 3)] == [True] * 3
    assert rollback(found, "a test")["version"] == 2
    files_of_run = found.client.list_artifacts(found.run_of(2), "model")
    assert [f.path for f in files_of_run] == ["model/model.json"]


def test_a_version_whose_run_was_cleaned_up_is_listed_and_not_gone_back_to(workspace):
    "As `mlflow gc` leaves it: no run, no files, but a version."
    found = Registry(workspace, "demo")
    run, folder = found.run_of(1), found.folder_of(1)
    database = sqlite3.connect(workspace / "mlflow.db")
    tables = [n for (n,) in database.execute("select name from sqlite_master where type='table'")]
    for table in tables:
        columns = [c[1] for c in database.execute(f"pragma table_info({table})")]
        if "run_uuid" in columns:
            database.execute(f"delete from {table} where run_uuid = ?", (run,))  # noqa: S608
    database.commit()
    database.close()
    shutil.rmtree(folder.parent)
    found = Registry(workspace, "demo")
    gone = {v["version"]: v["run_gone"] for v in found.versions()}
    assert gone == {1: True, 2: False, 3: False}
    before = audit_trail(workspace)
    with pytest.raises(RegistryError, match="files of version 1 are gone: .*model.json"):
        rollback(found, "a test", to=1)
    assert audit_trail(workspace) == before and found.holder("champion") == 3
    assert rollback(found, "a test")["version"] == 2


@pytest.mark.parametrize("empty", [True, False])
def test_models_without_the_database_that_listed_them_are_not_taken_for_none(workspace, empty):
    for path in workspace.glob("mlflow.db*"):
        path.unlink()
    if empty:
        (workspace / "mlflow.db").touch()
    with pytest.raises(RegistryError, match="mlflow.db is gone, or empty, and .*artifacts holds"):
        Registry(workspace, "demo")


def test_a_version_that_is_not_there_is_said(registry):
    for ask in (registry.run_of, registry.folder_of):
        with pytest.raises(RegistryError, match="no version 7; `mlkit models`"):
            ask(7)
    with pytest.raises(RegistryError, match="run 0000 is not in"):
        registry.register("0000")


def test_a_damaged_line_of_the_audit_trail_is_named(tmp_path):
    audit(tmp_path, "look")
    with open(tmp_path / "audit.jsonl", "a") as f:
        f.write('{"at": "20')
    with pytest.raises(UserError, match="audit.jsonl, line 2 is damaged"):
        audit_trail(tmp_path)


def test_an_experiment_that_was_deleted_is_named_with_what_to_do(registry):
    "mlflow/mlflow#2651: MLflow gives it out by its name, and takes no run in it."
    experiment = registry.client.get_experiment_by_name("demo").experiment_id
    registry.client.delete_experiment(experiment)
    with pytest.raises(TrackingError, match=f"restore --experiment-id {experiment}"):
        _experiment(registry.client, registry.uri, "demo")
    registry.client.restore_experiment(experiment)
    assert _experiment(registry.client, registry.uri, "demo") == experiment
