"""What runs, and why: content decides, options add to it, and the order is the pipeline's."""

import json

import pytest
from small_pipeline import begin_code, pipeline, write_pipeline, write_step

from mlkit.pipeline import Selection, StepFailed, Watcher, preview, run
from mlkit.records import Record
from mlkit.steps import PipelineError


@pytest.fixture
def folder(tmp_path):
    return write_pipeline(tmp_path)


def run_dir(folder):
    "Where executed notebooks go: not over the steps themselves."
    (folder / "runs").mkdir(exist_ok=True)
    return folder / "runs"


def settle(made):
    "Note all steps as up to date, as if they had run."
    for step in made.steps:
        (found,) = [s for s in preview(made, Selection(only=(step.name,))) if s.step is step]
        Record(dict(of=step.name), key=found.key, parts=found.parts).write(
            made.workspace, step.name
        )


def reasons(made, **options):
    "Step to why it would run; those that would not are left out."
    return {s.step.name: s.why for s in preview(made, Selection(**options)) if s.why}


def test_what_is_up_to_date_does_not_run(folder):
    made = pipeline(folder)
    assert reasons(made) == {"10_first": ["never run here"], "9_second": ["never run here"]}
    settle(made)
    assert reasons(made) == {}


@pytest.mark.parametrize(
    "change, why",
    [
        (dict(trials=13), "parameter trials changed"),
        (dict(source="other"), "source changed"),
        (dict(code="other"), "package changed"),
    ],
)
def test_a_change_of_content_is_the_reason(folder, change, why):
    settle(pipeline(folder))
    assert reasons(pipeline(folder, **change))["10_first"] == [why]


def test_a_step_after_one_that_runs_may_run(folder):
    settle(pipeline(folder))
    found = reasons(pipeline(folder, source="other"))
    assert found["9_second"] == ["if the result of 10_first changes"]


def test_a_result_by_hand_is_of_unknown_origin(folder):
    made = pipeline(folder)
    settle(made)
    Record(dict(of="10_first")).write(made.workspace, "10_first")
    assert "outside `mlkit run`" in reasons(made)["10_first"][0]


def test_a_file_that_is_gone_is_made_again(folder):
    made = pipeline(folder)
    settle(made)
    record = Record.read(made.workspace, "9_second")
    record.result["files"] = [str(folder / "report.html")]
    record.write(made.workspace, "9_second")
    assert reasons(made) == {"9_second": ["report.html is gone"]}


def test_from_goes_by_the_order_of_the_steps_and_not_of_their_names(folder):
    made = pipeline(folder)
    settle(made)
    assert list(reasons(made, start="9_second")) == ["9_second"]
    assert list(reasons(made, start="10_first")) == ["10_first", "9_second"]


def test_force_and_only(folder):
    made = pipeline(folder)
    settle(made)
    assert list(reasons(made, force=True)) == ["10_first", "9_second"]
    assert reasons(made, only=("10_first",)) == {"10_first": ["asked for with --only"]}


@pytest.mark.parametrize("options", [dict(start="10"), dict(only=("10_first", "x"))])
def test_a_step_that_is_not_there_is_refused(folder, options):
    with pytest.raises(PipelineError, match="no step is called .*; there are 10_first, 9_second"):
        reasons(pipeline(folder), **options)


class Events(Watcher):
    "What a watcher is told."

    def __init__(self):
        self.seen = []

    def begin(self, status):
        self.seen.append(("begin", status.step.name))

    def skip(self, status):
        self.seen.append(("skip", status.step.name))

    def end(self, step, seconds):
        self.seen.append(("end", step.name))


@pytest.mark.pipeline
def test_steps_run_with_papermill_and_then_are_up_to_date(folder):
    made, events = pipeline(folder, trials=3), Events()
    seconds = run(made, Selection(), folder, run_dir(folder), events)
    assert list(seconds) == ["10_first", "9_second"]
    assert Record.read(made.workspace, "9_second").result == dict(seen=dict(trials=3))
    assert run(made, Selection(), folder, run_dir(folder), events) == {}
    assert [kind for kind, _ in events.seen] == ["begin", "end", "begin", "end", "skip", "skip"]


@pytest.mark.pipeline
@pytest.mark.parametrize(
    "code, message",
    [
        ("1 / 0", "10_first failed: ZeroDivisionError"),
        ("x = 1", "ended without step.finish"),
        ("import os; os.kill(os.getpid(), 9)", "10_first failed: its kernel ended"),
    ],
)
def test_a_step_that_fails_counts_as_never_run(folder, code, message):
    settle(pipeline(folder))
    write_step(folder, "10_first", code)
    made = pipeline(folder)
    with pytest.raises(StepFailed, match=message):
        run(made, Selection(), folder, run_dir(folder))
    assert Record.read(made.workspace, "10_first") is None
    assert json.loads((folder / "10_first.ipynb").read_text())["cells"]
    write_step(folder, "10_first", begin_code("10_first", "{}"))
    assert reasons(pipeline(folder))["10_first"] == ["never run here"]
