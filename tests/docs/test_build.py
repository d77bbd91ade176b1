"What the build does with things that this project's own pages may not contain."

from __future__ import annotations

import json
from pathlib import Path

from site_pages import read, run

BUILD = """
import sys
from pathlib import Path
sys.path.insert(0, 'docs')
from build import build
sys.exit(build(Path(sys.argv[1]), Path(sys.argv[2])))
"""
MODULE = '''"One"
__all__ = ["Only"]


class Only:
    "The only one, of *args and `code`s."

    def __init__(
        self,
        size: int,  # in cells
    ): ...
'''


def cell(source: str, *outputs: dict, tags: tuple[str, ...] = ()) -> dict:
    return dict(
        cell_type="code",
        id=f"c{abs(hash(source))}",
        source=source,
        outputs=list(outputs),
        execution_count=1,
        metadata={"tags": list(tags)},
    )


def notebook(path: Path, *cells: dict) -> None:
    formula = "$x^2$, not `f[a](b)`; see [the record](../adr/0001-why.md)."
    title = dict(cell_type="markdown", id="title", metadata={})
    title["source"] = f"# Page {path.stem}\n\n{formula}"
    content = dict(cells=[title, *cells], metadata={}, nbformat=4, nbformat_minor=5)
    path.write_text(json.dumps(content))


def project(folder: Path, landing: str) -> Path:
    "A project with one notebook, one pipeline step and one record."
    for name in ("mlkit", "nbs", "pipelines", "adr"):
        (folder / name).mkdir(parents=True)
    link = {"text/markdown": '[source](https://example.org){target="_blank"}', "text/plain": ""}
    notebook(
        folder / "nbs/00_one.ipynb",
        cell("#| default_exp one"),
        cell(
            "#| echo: false\nprint('not this source')",
            dict(output_type="stream", name="stdout", text="printed"),
        ),
        cell("#| hide\nsecret = 1"),
        cell("shown = 1", dict(output_type="display_data", metadata={}, data=link)),
    )
    notebook(folder / "pipelines/10_step.ipynb", cell("days = 3", tags=("parameters",)))
    (folder / "mlkit/__init__.py").write_text("")
    (folder / "mlkit/one.py").write_text(MODULE)
    record = "See [the step](../pipelines/10_step.ipynb) and [the package](../mlkit/one.py)."
    (folder / "adr/0001-why.md").write_text(f"# Why\n\n{record}")
    (folder / "README.md").write_text(landing)
    return folder


def test_a_small_project(tmp_path):
    made = project(tmp_path / "project", "# Small\n\n[One](nbs/00_one.ipynb), [records](adr/)\n")
    done = run("-c", BUILD, tmp_path / "site", made)
    assert done.returncode == 0, done.stdout + done.stderr
    one = read(tmp_path / "site/nbs/00_one.html")
    for hidden in ("not this source", "secret", "{target"):
        assert hidden not in one.text
    assert "printed" in one.text and "f[a](b)" in one.text
    links = {"../adr/0001-why.html", "../api/mlkit/one/index.html#module-mlkit.one"}
    assert links <= set(one.links)
    assert "<math" in (tmp_path / "site/nbs/00_one.html").read_text()
    assert "tag_parameters" in (tmp_path / "site/pipelines/10_step.html").read_text()
    assert "../pipelines/10_step.html" in read(tmp_path / "site/adr/0001-why.html").links
    api = read(tmp_path / "site/api/mlkit/one/index.html").text
    assert "of *args and codes." in api and "in cells" in api


def test_a_broken_link_fails_the_build_and_leaves_the_site_alone(tmp_path):
    (tmp_path / "site").mkdir()
    for name in ("objects.inv", "index.html"):
        (tmp_path / "site" / name).write_text("yesterday's")
    made = project(tmp_path / "project", "# Small\n\n[gone](nbs/99_gone.ipynb)\n")
    done = run("-c", BUILD, tmp_path / "site", made)
    assert done.returncode == 1 and "99_gone" in done.stderr
    assert (tmp_path / "site/index.html").read_text() == "yesterday's"


def test_a_folder_that_is_no_site_is_not_replaced(tmp_path):
    (tmp_path / "precious").write_text("")
    assert run("docs/build.py", "--out", tmp_path).returncode != 0
    assert (tmp_path / "precious").exists()
