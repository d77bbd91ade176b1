"""What was typed becomes a workspace and parameters; two sources never meet in one log."""

import json
from dataclasses import replace

import pytest

from mlkit.records import Record
from mlkit.runs import (
    _outside_of,
    prepare,
    read_pairs,
    remember,
    simulated,
    simulator_parameters,
    workspace_name,
)
from mlkit.simulators import Simulator
from mlkit.steps import PipelineError
from mlkit.usecase import load_usecase
from mlkit.workspaces import Workspace, activate

FRAUD = load_usecase("fraud")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "june.csv"
    path.write_text("a,b\n1,2\n")
    return path


def test_a_simulation_has_a_workspace_by_what_differs(settings):
    first = prepare(settings, FRAUD)
    other = prepare(settings, FRAUD, pairs=["customers=300", "drift=0"])
    same = prepare(settings, FRAUD, pairs=["customers=300"])
    assert first.workspace.name == "simulator"
    assert other.workspace.name == same.workspace.name != "simulator"
    assert first.workspace.path == settings.home / "fraud" / "simulator"


def test_the_simulators_parameters_are_one_text_and_a_shared_name_goes_to_both(settings):
    parameters = prepare(settings, FRAUD, pairs=["customers=300", "seed=7"]).pipeline.parameters
    assert json.loads(parameters["01_ingest"]["simulator"]) == dict(customers=300, seed=7)
    assert parameters["03_train"]["seed"] == 7
    assert prepare(settings, FRAUD).pipeline.parameters["01_ingest"]["simulator"] == ""


@pytest.mark.parametrize(
    "pairs, message",
    [
        (["customers=many"], "customers='many'"),
        (["people=3"], "no step has a parameter people; there are customers"),
        (["simulator={}"], "no step has a parameter simulator"),
        (["customers"], "write name=value"),
        (["trials=many"], "parameter trials = 'many'"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_made(settings, pairs, message):
    with pytest.raises(ValueError) as e:
        prepare(settings, FRAUD, pairs=pairs)
    assert message in str(e.value)
    assert not settings.home.exists()


def test_a_file_has_a_workspace_of_its_name_wherever_the_command_is_called(settings, source):
    prepared = prepare(settings, FRAUD, "june.csv")
    assert prepared.workspace.name == "june"
    assert prepared.given["source"] == str(source)


def test_the_simulators_parameters_do_not_go_with_a_file(settings, source):
    with pytest.raises(PipelineError, match="customers: the simulator's, and the source is"):
        prepare(settings, FRAUD, "june.csv", ["customers=300"])


@pytest.mark.parametrize("name", ["active", "simulator", "...", "*", "-", "-x", ".x", "données"])
def test_no_file_takes_the_place_of_what_the_kit_keeps(tmp_path, name):
    made = workspace_name(f"/tmp/{name}.csv", [], {})
    assert made not in ("active", "simulator")
    assert Workspace(tmp_path, made).path.parent == tmp_path


def test_what_a_run_was_given_is_remembered(settings):
    first = prepare(settings, FRAUD, pairs=["customers=300", "trials=2"])
    activate(settings, first.workspace.name)
    remember(first.workspace, first.given)
    again = prepare(settings, FRAUD, pairs=["trials=5"])
    assert again.workspace.name == first.workspace.name
    assert again.given == dict(customers="300", trials="5")
    elsewhere = prepare(settings, FRAUD, "simulator")
    assert elsewhere.workspace.name == "simulator" and elsewhere.given == dict(source="simulator")


def test_a_use_case_without_a_simulator_says_how_to_name_a_source(settings, tmp_path):
    plain = replace(FRAUD, simulator=None)
    assert not simulator_parameters(plain)
    with pytest.raises(PipelineError, match="has no simulator: .*--source"):
        prepare(settings, plain)
    with pytest.raises(PipelineError, match="has no simulator"):
        simulated(plain, tmp_path, "")


def test_a_simulated_source_is_made_once(tmp_path):
    calls = []

    def write(path, days: int = 3):
        calls.append(days)
        path.write_text("a")
        return path

    usecase = replace(FRAUD, simulator=Simulator(write))
    first = simulated(usecase, tmp_path, '{"days": 5}')
    assert simulated(usecase, tmp_path, '{"days": "5"}') == first and calls == [5]
    assert simulated(usecase, tmp_path, "") != first


def test_events_that_were_streamed_in_are_not_mixed_with_simulated_ones(settings):
    (settings.workspaces / "simulator" / "log").mkdir(parents=True)
    with pytest.raises(PipelineError, match="did not come from a run"):
        prepare(settings, FRAUD)
    assert prepare(settings, FRAUD, "simulator").workspace.name == "simulator"


def test_advance_needs_a_served_period(settings):
    with pytest.raises(PipelineError, match="none was served yet"):
        prepare(settings, FRAUD, advance=True)
    workspace = Workspace(settings.workspaces, "simulator")
    Record(dict(end="2025-04-18T00:00:00+00:00")).write(workspace, "07_serve")
    assert prepare(settings, FRAUD, advance=True).given["cut"] == "2025-04-18T00:00:00+00:00"


def test_a_source_is_known_by_its_bytes(settings, source):
    workspace = Workspace(settings.workspaces, "june")
    outside = _outside_of(settings, workspace, FRAUD)
    before = outside("source", dict(source=str(source)))
    source.rename(source.with_name("july.csv"))
    assert outside("source", dict(source=str(source.with_name("july.csv")))) == before
    assert outside("history", {}) == outside("log", {}) == "missing"


def test_pairs_keep_what_follows_the_first_sign():
    assert read_pairs(["why=a=b"]) == dict(why="a=b")
