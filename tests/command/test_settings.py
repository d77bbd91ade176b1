"""Settings: one name a use case, workspaces of its own, and a message for whatever is wrong."""

import pytest

from mlkit.settings import SettingsError, _find_ini, _is_loopback, load_settings
from mlkit.storage import replace_text
from mlkit.workspaces import Workspace, activate, active_workspace


def project(folder, text=""):
    "A project with these settings."
    (folder / "settings.ini").write_text(f"[mlkit]\n{text}")
    return folder


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    "Nothing set from outside."
    for key in ("HOME", "RUNS", "USECASE", "WORKSPACE", "PORT", "TOKEN", "ROOT"):
        monkeypatch.delenv(f"MLKIT_{key}", raising=False)


@pytest.mark.parametrize(
    "written, name",
    [
        ("fraud", "fraud"),
        ("mlkit.usecases.fraud", "fraud"),
        ("shop.bookings", "shop.bookings"),
        ("mlkit.usecases.shop.bookings", "mlkit.usecases.shop.bookings"),
    ],
)
def test_a_use_case_has_one_name(tmp_path, written, name):
    settings = load_settings(project(tmp_path, f"usecase = {written}"))
    assert settings.usecase == name
    assert settings.workspaces == tmp_path / "data" / name


def test_a_slip_in_a_variable_is_refused(tmp_path, monkeypatch):
    "It would be ignored otherwise, and another workspace be written to."
    monkeypatch.setenv("MLKIT_WORKSPCE", "live")
    with pytest.raises(SettingsError, match="did you mean MLKIT_WORKSPACE"):
        load_settings(project(tmp_path))


@pytest.mark.parametrize("other", ["ACTOR", "DEBUG", "PROGRESS", "RELEASE", "MOTO_SERVER"])
def test_variables_that_are_no_settings_are_left_alone(tmp_path, monkeypatch, other):
    monkeypatch.setenv(f"MLKIT_{other}", "1")
    assert load_settings(project(tmp_path)).port == 3000


def test_a_folder_may_be_written_from_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("MLKIT_HOME", "~/data")
    settings = load_settings(project(tmp_path, "runs = ~/runs"))
    assert settings.home == tmp_path / "me" / "data" and settings.runs == tmp_path / "me" / "runs"


def test_a_home_folder_of_nobody(tmp_path):
    with pytest.raises(SettingsError, match="write the folder out"):
        load_settings(project(tmp_path, "home = ~nobody-of-this-name/data"))


def test_the_environment_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("MLKIT_USECASE", "shop.bookings")
    assert load_settings(project(tmp_path, "usecase = fraud")).usecase == "shop.bookings"


@pytest.mark.parametrize(
    "text, message",
    [
        ("usecase = a/b", "no name of a module"),
        ("usecase = ../fraud", "no name of a module"),
        ("usecase =", "no name of a module"),
        ("port = 99999", "a whole number from 1 to 65535"),
        ("port = many", "a whole number from 1 to 65535"),
        ("latency_budget_ms = 0", "a number above 0"),
        ("state_store = disk", "one of lmdb, redis"),
        ("hoem = here", "did you mean 'home'"),
        ("colour = blue", "known keys: root, home"),
        ("token = secret", "belongs in the environment only"),
        ("redis_url = redis://x", "belongs in the environment only"),
        ("host = 0.0.0.0", "set MLKIT_TOKEN"),
        ("workspace = ../other", "workspace = '../other'"),
        ("workspace = ..", "workspace = '..'"),
        ("workspace = .", "workspace = '.'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, text, message):
    with pytest.raises(SettingsError) as e:
        load_settings(project(tmp_path, text))
    assert message in str(e.value)


def test_every_wrong_key_is_named_at_once(tmp_path):
    with pytest.raises(SettingsError) as e:
        load_settings(project(tmp_path, "port = 0\nhoem = here\nstate_store = disk\n"))
    assert len(str(e.value).splitlines()) == 3


@pytest.mark.parametrize("text", ["port = 1", "[other]\nport = 1"])
def test_a_file_without_its_section_is_refused(tmp_path, text):
    (tmp_path / "settings.ini").write_text(text)
    with pytest.raises(SettingsError, match="section|cannot be read"):
        load_settings(tmp_path)


def test_the_nearest_file_above_is_taken(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    project(tmp_path)
    project(tmp_path / "a")
    assert _find_ini(tmp_path / "a" / "b") == tmp_path / "a" / "settings.ini"


def test_a_module_of_the_project_can_be_imported(tmp_path, monkeypatch):
    import importlib
    import sys

    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "some_shop_of_mine.py").write_text("answer = 42")
    load_settings(project(tmp_path))
    assert importlib.import_module("some_shop_of_mine").answer == 42
    assert sys.path[0] != str(tmp_path), "an installed package is not to be shadowed"


def test_use_cases_do_not_see_each_others_workspaces(tmp_path):
    fraud = load_settings(project(tmp_path))
    shop = fraud.model_copy(update=dict(usecase="shop.bookings"))
    activate(fraud, "simulator")
    with pytest.raises(SettingsError, match="shop.bookings has no workspace yet"):
        active_workspace(shop)
    activate(shop, "june")
    assert active_workspace(fraud).path == tmp_path / "data" / "fraud" / "simulator"
    assert active_workspace(shop).path == tmp_path / "data" / "shop.bookings" / "june"


def test_a_named_workspace_goes_before_the_active_one(tmp_path):
    settings = load_settings(project(tmp_path))
    activate(settings, "simulator")
    named = settings.model_copy(update=dict(workspace="other"))
    assert active_workspace(named).name == "other"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(SettingsError, match="cannot write to the data folder"):
        Workspace(tmp_path / "data", "x").create()


def test_text_is_replaced_whole(tmp_path):
    path = tmp_path / "folder" / "state"
    replace_text(path, "old")
    replace_text(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["state"]


@pytest.mark.parametrize(
    "host, loopback",
    [("localhost", True), ("127.0.0.2", True), ("::1", True), ("0.0.0.0", False), ("web", False)],
)
def test_loopback(host, loopback):
    assert _is_loopback(host) == loopback


@pytest.mark.parametrize("name", ["..", ".", "../../else", "/tmp/else", "a b", "{x}", ""])
def test_a_workspace_name_is_a_name(tmp_path, name):
    with pytest.raises(SettingsError, match="no name of a workspace"):
        Workspace(tmp_path, name)
