"""Steps are what their notebooks declare; what does not fit is refused before a kernel starts."""

import json

import pytest
from small_pipeline import PARAMETERS, write_pipeline, write_step

from mlkit.project import project_file
from mlkit.settings import load_settings
from mlkit.steps import (
    Parameter,
    PipelineError,
    _code_cells,
    check_parameters,
    load_pipeline,
    names_of,
    parameters_of,
)


@pytest.fixture
def folder(tmp_path):
    return write_pipeline(tmp_path)


@pytest.mark.parametrize(
    "kind, given, value",
    [
        ("int", "30", 30),
        ("float", "0.5", 0.5),
        ("bool", "true", True),
        ("bool", "no", False),
        ("str", "a=b", "a=b"),
        ("int", 3, 3),
    ],
)
def test_text_is_read_in_the_parameters_type(kind, given, value):
    assert Parameter("p", kind, None).read(given) == value


@pytest.mark.parametrize(
    "kind, doc, given, message",
    [
        ("int", "how many", "many", "It is how many (int, default None)"),
        ("int", "", "1.5", "parameter p = '1.5'"),
        ("bool", "", "perhaps", "parameter p = 'perhaps'"),
        ("float", "", "nan", "finite number"),  # nteract/papermill#630: NaN is no JSON
        ("float", "", "1e400", "finite number"),
        ("str", "one of: tree, line; the kind", "forest", "it is one of tree, line."),
    ],
)
def test_what_does_not_fit_is_refused(kind, doc, given, message):
    with pytest.raises(PipelineError) as e:
        Parameter("p", kind, None, doc).read(given)
    assert message in str(e.value)


def test_values_go_to_every_step_that_has_the_parameter(folder):
    steps = load_pipeline(folder)
    assert names_of(steps) == {"trials"}
    checked = check_parameters(steps, dict(trials="3"))
    assert checked == {"10_first": dict(trials=3), "9_second": dict(trials=3)}


@pytest.mark.parametrize("name", ["trails", "workspace", "run_dir"])
def test_a_name_that_is_nobodys_to_give_is_refused(folder, name):
    with pytest.raises(PipelineError, match=f"no step has a parameter {name}"):
        check_parameters(load_pipeline(folder), {name: "x"})


def test_a_comment_after_several_lines_is_the_parameters(tmp_path):
    write_step(tmp_path, "1", "", 'text: str = (\n    "a"\n)  # its meaning')
    assert parameters_of(tmp_path / "1.ipynb") == [Parameter("text", "str", "a", "its meaning")]


@pytest.mark.parametrize("default", ["a=b", "#fff", "é # c", "it's # c"])
def test_a_default_may_hold_what_divides_a_declaration(tmp_path, default):
    "nteract/papermill#864 has it of the sign of equality."
    write_step(tmp_path, "1", "", f"text: str = {json.dumps(default)}  # one of: {default}; é#1")
    (found,) = parameters_of(tmp_path / "1.ipynb")
    assert found == Parameter("text", "str", default, f"one of: {default}; é#1")
    assert found.read(default) == default


def test_a_type_that_papermill_does_not_know_is_refused(tmp_path):
    write_step(tmp_path, "1", "", "days: list[int] = [1]")
    with pytest.raises(PipelineError, match=r"days is of type list\[int\]"):
        parameters_of(tmp_path / "1.ipynb")


@pytest.mark.parametrize("text", ["", "{}", "no JSON"])
def test_a_file_that_is_no_notebook_is_named(tmp_path, text):
    (tmp_path / "1.ipynb").write_text(text)
    with pytest.raises(PipelineError, match="1.ipynb is no readable notebook"):
        _code_cells(tmp_path / "1.ipynb")


def test_a_copied_step_that_says_the_old_name_is_refused(folder):
    write_step(folder, "9_second", 'x = begin(\n    "10_first", workspace)', PARAMETERS)
    with pytest.raises(PipelineError, match=r"write begin\('9_second', …\)"):
        load_pipeline(folder)


def test_a_step_can_only_build_on_earlier_ones(folder):
    listed = (folder / "pipeline.yaml").read_text()
    (folder / "pipeline.yaml").write_text(listed.replace("needs: [10_first]", "needs: [11_x]"))
    with pytest.raises(PipelineError, match="needs 11_x, which no earlier step is called"):
        load_pipeline(folder)


def test_the_kits_own_pipeline_is_in_order():
    steps = load_pipeline(project_file(load_settings().root, "pipelines"))
    assert [step.name for step in steps] == sorted(step.name for step in steps)
