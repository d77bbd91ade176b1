"The documentation site: complete, free of directives and hidden cells, and loading nothing from anywhere else."

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

for needed in ("sphinx", "myst_nb", "autoapi", "furo", "nbformat"):
    pytest.importorskip(needed, reason="needs the docs extra")

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(
    p for folder in ("nbs", "nbs/usecases", "pipelines") for p in (ROOT / folder).glob("*.ipynb")
)
HIDDEN = re.compile(r"^[ \t]*#\|[ \t]*(hide[ \t]*$|include:[ \t]*false)", re.M)
LOADS = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
    "object": "data",
    "link": "href",
}


class Page(HTMLParser):
    "One page: its text, the text of its code blocks, what it loads and where it links to."

    def __init__(self, html: str):
        super().__init__()
        self.text, self.code, self.script = "", "", ""
        self.loads, self.links, self.ids, self.open = [], [], set(), []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if LOADS.get(tag) in given and given.get("rel") not in (
            "next",
            "prev",
            "index",
            "search",
            "canonical",
        ):
            self.loads.append(given[LOADS[tag]])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if "id" in given:
            self.ids.add(given["id"])
        if tag in ("pre", "script", "style"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and tag == self.open[-1]:
            self.open.pop()

    def handle_data(self, data):
        if self.open[-1:] == ["script"] or self.open[-1:] == ["style"]:
            self.script += data
        else:
            self.text += data
        if "pre" in self.open:
            self.code += data


@cache
def read(path: Path) -> Page:
    return Page(path.read_text())


def run(*arguments: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )


def cells(notebook: Path) -> list[tuple[str, str]]:
    "Kind and source of each cell."
    return [
        (cell["cell_type"], "".join(cell["source"]))
        for cell in json.loads(notebook.read_text())["cells"]
    ]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    "The site of this project, built once."
    out = tmp_path_factory.mktemp("docs") / "site"
    done = run("docs/build.py", "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: read(path) for path in sorted(site.rglob("*.html"))}


def page_of(site: Path, notebook: Path) -> Path:
    if notebook == ROOT / "nbs/index.ipynb":
        return site / "index.html"
    return site / notebook.relative_to(ROOT).with_suffix(".html")


def test_landing_page(site):
    assert (site / "index.html").exists()
    assert "nbs/00_settings.html" in read(site / "index.html").links


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_notebook_has_a_page(site, notebook):
    title = (
        next(source for kind, source in cells(notebook) if kind == "markdown")
        .splitlines()[0]
        .lstrip("# ")
        .replace("`", "")
    )
    assert title in read(page_of(site, notebook)).text


def test_every_record_has_a_page(site):
    assert not [
        p.name
        for p in (ROOT / "adr").glob("*.md")
        if not (site / "adr" / p.with_suffix(".html").name).exists()
    ]


def test_notebooks_are_listed_in_order(site):
    listed = [
        link for link in read(site / "index.html").links if re.fullmatch(r"nbs/\d\w+\.html", link)
    ]
    assert list(dict.fromkeys(listed)) == [
        f"nbs/{p.stem}.html" for p in NOTEBOOKS if p.parent.name == "nbs" and p.stem != "index"
    ]


def test_every_module_has_an_api_page(site):
    for path in (ROOT / "mlkit").rglob("*.py"):
        if path.stem == "_modidx":
            continue
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = parts[:-1] if parts[-1] == "__init__" else parts
        assert "module-" + ".".join(module) in read(site.joinpath("api", *module, "index.html")).ids


def test_api_carries_the_comments_beside_parameters(site):
    text = read(site / "api/mlkit/settings/index.html").text
    assert "folder to start from" in text and "address the service listens on" in text


def test_nothing_is_loaded_from_elsewhere(site, pages):
    for path, page in pages.items():
        assert not [
            url
            for url in page.loads
            if urlsplit(url).scheme not in ("", "data") or url.startswith("//")
        ], path
        assert not re.search(
            r"(https?:)?//[\w.-]+\.\w+/\S*\.(js|mjs|css|woff2?)\b|@import|url\(\s*['\"]?(https?:)?//",
            page.script,
        ), path
    for path in site.rglob("*.css"):
        assert not re.search(
            r"(@import\s+|url\()\s*(url\()?['\"]?(https?:)?//", path.read_text()
        ), path


def test_links_within_the_site_lead_somewhere(pages):
    for path, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            assert target.exists(), f"{path.name}: {link}"
            if url.fragment and target.suffix == ".html" and "search" not in target.name:
                assert unquote(url.fragment) in read(target).ids, f"{path.name}: {link}"


def test_no_directive_is_shown(pages):
    for path, page in pages.items():
        assert not re.search(r"^\s*(#\s*\||# ?NBVAL_)", page.code, re.M), path


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_hidden_cells_are_absent_and_the_others_whole(site, notebook):
    code = [source for kind, source in cells(notebook) if kind == "code"]
    lines = [
        {
            line.strip()
            for line in source.splitlines()
            if len(line.strip()) > 24 and not re.match(r"\s*#\s*\||# ?NBVAL", line)
        }
        for source in code
    ]
    hidden = set().union(*(some for source, some in zip(code, lines) if HIDDEN.search(source)))
    shown = set().union(
        *(
            some
            for source, some in zip(code, lines)
            if not re.search(r"#\|[ \t]*(hide|include|echo)", source)
        )
    )
    text = read(page_of(site, notebook)).code
    assert not [line for line in hidden - shown if line in text]
    assert not [line for line in shown if line not in text]


# What the build does with things that this project's pages may not contain, on a project of a few lines.


def cell(source: str, *outputs: dict, tags: tuple[str, ...] = ()) -> dict:
    return {
        "cell_type": "code",
        "id": f"c{abs(hash(source))}",
        "source": source,
        "outputs": list(outputs),
        "execution_count": 1,
        "metadata": {"tags": list(tags)},
    }


def project(folder: Path, landing: str) -> Path:
    "A project with one notebook, one pipeline step and one record."
    for name in ("mlkit", "nbs", "pipelines", "adr"):
        (folder / name).mkdir(parents=True)
    shown = {
        "output_type": "display_data",
        "metadata": {},
        "data": {
            "text/markdown": '[source](https://example.org){target="_blank"}',
            "text/plain": "",
        },
    }
    said = {"output_type": "stream", "name": "stdout", "text": "said aloud"}
    book = [
        cell("#| default_exp one"),
        cell("#| echo: false\nprint('not this source')", said),
        cell("#| hide\nsecret = 1"),
        cell("shown = 1", shown),
    ]
    for path, cells in (
        ("nbs/00_one.ipynb", book),
        ("pipelines/10_step.ipynb", [cell("days = 3", tags=("parameters",))]),
    ):
        title = {
            "cell_type": "markdown",
            "id": "title",
            "metadata": {},
            "source": f"# Page {path[-9:-6]}\n\n$x^2$, not `f[a](b)`; see [the record](../adr/0001-why.md).",
        }
        (folder / path).write_text(
            json.dumps(
                {"cells": [title, *cells], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
            )
        )
    (folder / "mlkit/__init__.py").write_text("")
    (folder / "mlkit/one.py").write_text(
        '"One"\n__all__ = ["Only"]\nclass Only:\n    "The only one, of *args and `code`s."\n    def __init__(self, size: int,  # in cells\n    ): ...\n'
    )
    (folder / "adr/0001-why.md").write_text(
        "# Why\n\nSee [the step](../pipelines/10_step.ipynb) and [the package](../mlkit/one.py)."
    )
    (folder / "README.md").write_text(landing)
    return folder


BUILD = "import sys; sys.path.insert(0, 'docs'); from pathlib import Path; from build import build; sys.exit(build(Path(sys.argv[1]), Path(sys.argv[2])))"


def test_a_small_project(tmp_path):
    done = run(
        "-c",
        BUILD,
        tmp_path / "site",
        project(tmp_path / "project", "# Small\n\n[One](nbs/00_one.ipynb), [records](adr/)\n"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    one = read(tmp_path / "site/nbs/00_one.html")
    assert (
        "not this source" not in one.text
        and "secret" not in one.text
        and "said aloud" in one.text
        and "{target" not in one.text
        and "f[a](b)" in one.text
    )
    assert {"../adr/0001-why.html", "../api/mlkit/one/index.html#module-mlkit.one"} <= set(
        one.links
    )
    assert "<math" in (tmp_path / "site/nbs/00_one.html").read_text()
    assert "tag_parameters" in (tmp_path / "site/pipelines/10_step.html").read_text()
    assert "../pipelines/10_step.html" in read(tmp_path / "site/adr/0001-why.html").links
    assert (
        "of *args and codes." in read(tmp_path / "site/api/mlkit/one/index.html").text
        and "in cells" in read(tmp_path / "site/api/mlkit/one/index.html").text
    )


def test_a_broken_link_fails_the_build_and_leaves_the_site_alone(tmp_path):
    (tmp_path / "site").mkdir()
    for name in ("objects.inv", "index.html"):
        (tmp_path / "site" / name).write_text("yesterday's")
    done = run(
        "-c",
        BUILD,
        tmp_path / "site",
        project(tmp_path / "project", "# Small\n\n[gone](nbs/99_gone.ipynb)\n"),
    )
    assert (
        done.returncode == 1
        and "99_gone" in done.stderr
        and (tmp_path / "site/index.html").read_text() == "yesterday's"
    )


def test_a_folder_that_is_no_site_is_not_replaced(tmp_path):
    (tmp_path / "precious").write_text("")
    assert (
        run("docs/build.py", "--out", tmp_path).returncode != 0 and (tmp_path / "precious").exists()
    )
