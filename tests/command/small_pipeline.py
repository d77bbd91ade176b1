"A pipeline of two tiny steps in a folder, for tests of the runner."

import json
from pathlib import Path

from mlkit.pipeline import Pipeline
from mlkit.settings import load_settings
from mlkit.steps import check_parameters, load_pipeline
from mlkit.workspaces import Workspace

PARAMETERS = '''workspace: str = ""  # workspace to work in
run_dir: str = ""  # folder of the run
trials: int = 12  # how many'''
LISTED = """
steps:
  - {name: 10_first, title: a step, reads: [source]}
  - {name: 9_second, title: another, needs: [10_first]}
"""


def write_step(folder: Path, name: str, code: str, parameters: str = PARAMETERS) -> None:
    "A notebook of a parameters cell and one of code."
    cells = []
    for source, tags in ((parameters, ["parameters"]), (code, [])):
        cells.append(dict(cell_type="code", source=[source], metadata=dict(tags=tags)))
    kernel = dict(kernelspec=dict(name="python3", language="python", display_name="python3"))
    for cell in cells:
        cell |= dict(outputs=[], execution_count=None)
    notebook = dict(cells=cells, metadata=kernel, nbformat=4, nbformat_minor=4)
    (folder / f"{name}.ipynb").write_text(json.dumps(notebook))


def begin_code(name: str, result: str) -> str:
    "What a step does: begin and finish."
    begin = f'from mlkit.pipeline import begin\nstep = begin("{name}", workspace, run_dir)'
    return f"{begin}\nstep.finish({result})"


def write_pipeline(folder: Path) -> Path:
    "Two steps, whose names would sort the other way round as text."
    (folder / "pipeline.yaml").write_text(LISTED)
    write_step(folder, "10_first", begin_code("10_first", "dict(trials=trials)"))
    write_step(folder, "9_second", begin_code("9_second", "dict(seen=step.result('10_first'))"))
    return folder


def pipeline(folder: Path, source: str = "s", code: str = "c", **given: object) -> Pipeline:
    "The pipeline of a folder, in a workspace beside it."
    steps = load_pipeline(folder)
    parameters = check_parameters(steps, given)
    workspace = Workspace(load_settings(folder).workspaces, "w").create()
    return Pipeline(steps, parameters, workspace, code, lambda name, _: source)
