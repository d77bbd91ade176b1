"A source is its content or its full name; a workspace is where it lies; a run's figures are its."

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from made_workspace import SUMMARY
from small_pipeline import pipeline, write_pipeline

from mlkit import commands_run
from mlkit.files import source_hash
from mlkit.pipeline import Selection, preview, run
from mlkit.records import Record, portable
from mlkit.runs import prepare, remember
from mlkit.settings import load_settings
from mlkit.steps import PipelineError, Step
from mlkit.storage import DamagedError
from mlkit.usecase import load_usecase
from mlkit.workspaces import Workspace, activate, identity

FRAUD = load_usecase("fraud")


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def ran(settings, source: str, **options):
    "Prepared, and as a run leaves it: remembered, and taken in."
    prepared = prepare(settings, FRAUD, source, **options)
    activate(settings, prepared.workspace.name)
    remember(prepared.workspace, prepared.given)
    taken = dict(source=prepared.given["source"], hash=source_hash(prepared.given["source"]))
    Record(taken).write(prepared.workspace, "01_ingest")
    return prepared


@pytest.mark.parametrize(
    "first, second",
    [
        ("a/payments.csv", "b/payments.csv"),
        ("payments.csv", "payments.jsonl"),
        ("a/*.csv", "b/*.csv"),
        ("a é.csv", "a ü.csv"),
        (f"{'x' * 120}1.csv", f"{'x' * 120}2.csv"),
    ],
)
def test_two_sources_of_one_name_never_share_a_workspace(settings, tmp_path, first, second):
    for n, name in enumerate((first, second)):
        write(tmp_path / name.replace("*", "p"), f"a,b\n{n},2\n")
    one, other = ran(settings, first), ran(settings, second)
    assert one.workspace.path != other.workspace.path
    assert ran(settings, first).workspace.path == one.workspace.path
    assert ran(settings, second).workspace.path == other.workspace.path
    assert prepare(settings, FRAUD).workspace.path == other.workspace.path
    assert not one.note and one.workspace.name in other.note


def test_a_file_that_grows_keeps_its_workspace(settings, tmp_path):
    source = write(tmp_path / "june.csv", "a,b\n1,2\n")
    first = ran(settings, source)
    write(tmp_path / "june.csv", "a,b\n1,2\n3,4\n")
    assert ran(settings, source).workspace.path == first.workspace.path


def test_a_moved_file_finds_its_workspace_by_its_content(settings, tmp_path):
    first = ran(settings, write(tmp_path / "june.csv", "a,b\n1,2\n"))
    (tmp_path / "old").mkdir()
    (tmp_path / "june.csv").rename(tmp_path / "old" / "june.csv")
    with pytest.raises(PipelineError, match="june.csv: no such file. Where it was moved, name"):
        prepare(settings, FRAUD)
    moved = ran(settings, "old/june.csv")
    assert moved.workspace.path == first.workspace.path
    assert prepare(settings, FRAUD).given["source"] == str(tmp_path / "old" / "june.csv")


def test_a_copy_under_another_name_has_a_workspace_of_its_own(settings, tmp_path):
    first = ran(settings, write(tmp_path / "june.csv", "a,b\n1,2\n"))
    second = ran(settings, write(tmp_path / "july.csv", "a,b\n1,2\n"))
    assert (first.workspace.name, second.workspace.name) == ("june", "july")


def test_a_named_workspace_takes_what_is_named(settings, tmp_path, monkeypatch):
    "It was said, so it is meant."
    ran(settings, write(tmp_path / "a" / "june.csv", "a,b\n1,2\n"))
    monkeypatch.setenv("MLKIT_WORKSPACE", "june")
    other = write(tmp_path / "b" / "june.csv", "a,b\n3,4\n")
    assert prepare(load_settings(tmp_path), FRAUD, other).workspace.name == "june"


def test_the_next_cut_is_the_moment_at_which_the_served_period_ended(settings, tmp_path):
    prepared = ran(settings, write(tmp_path / "june.csv", "a,b\n1,2\n"))
    Record(dict(end="2025-04-18T12:00:00+00:00")).write(prepared.workspace, "07_serve")
    advanced = prepare(settings, FRAUD, advance=True)
    assert advanced.pipeline.parameters["01_ingest"]["cut"] == "2025-04-18T12:00:00+00:00"


# %% Records


@pytest.mark.parametrize("name", [b"a b", "ä\x0b\u2028b".encode(), b"a\xffb"])
def test_an_identity_is_kept_in_a_folder_of_any_name(tmp_path, name):
    "Asked for again, after a move, and on a disk that is full."
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    word = identity(folder)
    assert identity(folder) == word
    folder.rename(tmp_path / "moved")
    program = (
        "import resource, sys; from mlkit.workspaces import identity; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); identity(sys.argv[1])"
    )
    full = subprocess.run([sys.executable, "-c", program, str(tmp_path / "moved")], check=False)
    assert full.returncode
    assert identity(tmp_path / "moved") == word


def test_two_commands_make_one_workspace(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: Workspace(tmp_path, "live").create(), range(400)))


def steps_in(folder: Path) -> Path:
    folder.mkdir()
    return write_pipeline(folder)


def test_a_result_has_no_place_and_is_read_where_it_lies(tmp_path):
    here = Workspace(tmp_path, "w").create()
    result = dict(a=[f"{here.path}/m", str(tmp_path)], b=dict(c=f"{here.path}x/m"), n=1.5)
    Record(result).write(here, "1_a")
    assert Record.read(here, "1_a").result == result
    moved = here.path.rename(tmp_path / "v")
    found = Record.read(Workspace(tmp_path, "v"), "1_a").result
    assert found == result | dict(a=[f"{moved}/m", str(tmp_path)])
    assert portable(found, moved) == portable(result, here.path)


def test_a_moved_workspace_is_up_to_date(tmp_path):
    folder = steps_in(tmp_path / "steps")
    made = pipeline(folder)
    for step in made.steps:
        (now,) = [s for s in preview(made, Selection(only=(step.name,))) if s.step is step]
        path = made.workspace.path / f"{step.name}.txt"
        path.touch()
        record = Record(dict(files=[str(path)]), key=now.key, parts=now.parts)
        record.write(made.workspace, step.name)
    assert not [s for s in preview(made, Selection()) if s.why]
    moved = made.workspace.path.rename(made.workspace.path.with_name("moved"))
    there = pipeline(folder)
    object.__setattr__(there, "workspace", Workspace(moved.parent, "moved"))
    assert not [s for s in preview(there, Selection()) if s.why]


@pytest.mark.parametrize("content", ["", '{"result": {', "[]", '{"unknown": 1}'])
def test_a_damaged_record_is_named(tmp_path, content):
    workspace = Workspace(tmp_path, "w").create()
    write(Record.path(workspace, "1_a"), content)
    with pytest.raises(DamagedError, match="1_a.json is damaged .*: delete it"):
        Record.read(workspace, "1_a")


@pytest.mark.pipeline
@pytest.mark.parametrize("name", ["r{1}", "r{workspace}", "{}", "}{", "日 本"])
def test_a_run_folder_may_have_braces_in_its_name(tmp_path, name):
    folder = steps_in(tmp_path / name)
    made = pipeline(folder)
    out = tmp_path / name / "runs{0}"
    out.mkdir()
    run(made, Selection(only=("10_first",)), folder, out)
    assert (out / "10_first.ipynb").exists()


# %% Figures


def conclude(settings, workspace, run_dir: Path) -> None:
    "As a run ends whose only step is `1_a`."
    Record({}, peak_mb=1).write(workspace, "1_a")
    commands_run.conclude([Step("1_a", "", run_dir)], settings, workspace, run_dir)


def test_figures_after_a_run_are_this_workspaces_or_say_which(settings, capsys):
    here, other = (Workspace(settings.workspaces, name).create() for name in "ba")
    for workspace, run_dir in ((here, "r1"), (other, "r2")):
        summary = SUMMARY | dict(example_decision="d", workspace=workspace.name, rows=7)
        summary |= dict(rows=123456) if workspace is other else {}
        write(settings.runs / run_dir / "summary.json", json.dumps(summary))
        conclude(settings, workspace, settings.runs / run_dir)
    commands_run._show_latest(here, settings.runs / "r3")
    out = capsys.readouterr().out
    assert "123,456" not in out and "7 rows" in out and "an earlier run, r1" in out
    commands_run._show_latest(here, settings.runs / "r1")
    assert "earlier" not in capsys.readouterr().out


def test_the_latest_run_is_found_where_the_project_was_moved(settings, tmp_path):
    workspace = Workspace(settings.workspaces, "a").create()
    write(settings.runs / "r1" / "summary.json", json.dumps(SUMMARY))
    conclude(settings, workspace, settings.runs / "r1")
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    os.rename(tmp_path, moved)
    assert (moved / "data" / "fraud" / "a" / "latest" / "summary.json").exists()
