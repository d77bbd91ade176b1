"""Build the documentation site from the notebooks' stored outputs: nothing is executed or fetched.

python docs/build.py [--out site]
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from sphinx.cmd.build import main as sphinx

HERE = Path(__file__).resolve().parent
SECTIONS = {  # caption in the sidebar -> where its pages are
    "Guide": "nbs/*.ipynb",
    "Use cases": "nbs/usecases/*.ipynb",
    "Pipeline": "pipelines/*.ipynb",
    "Infrastructure": "terraform/README.md",
    "Decision records": "adr/*.md",
    "Project": "CHANGELOG.md",
}
DIRECTIVE = re.compile(r"^[ \t]*#\|[ \t]*(\w[\w-]*):?[ \t]*(.*?)[ \t]*$", re.M)
NBVAL = re.compile(r"^[ \t]*# ?NBVAL_\w+[ \t]*$\n?", re.M)
LINK = re.compile(r"(?<![\w`])(!?)\[([^\]]*)\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^(```.*?^```)", re.M | re.S)
PANDOC = re.compile(r"(?<=\))\{[^}\n]*\}")  # attributes that nbdev's show_doc writes
FOLDED = {"mystnb": {"code_prompt_show": "Imports", "code_prompt_hide": "Imports"}}


def only_imports(source: str) -> bool:
    "Whether a cell does nothing but import."
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return False
    return bool(body) and all(isinstance(node, ast.Import | ast.ImportFrom) for node in body)


def tags_of(cell: NotebookNode, directives: dict[str, str]) -> list[str]:
    "A cell's tags, and what its directives mean to myst-nb."
    tags = list(cell.metadata.get("tags", []))
    if "hide_input" in directives or directives.get("echo") == "false":
        tags.append("remove-input")
    elif "hide_output" in directives or directives.get("output") == "false":
        tags.append("remove-output")
    return tags


def outputs_of(cell: NotebookNode) -> list[NotebookNode]:
    "A cell's outputs without progress bars and log lines."
    outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    for output in outputs:
        if text := output.get("data", {}).get("text/markdown"):
            output.data["text/markdown"] = PANDOC.sub("", text)
    return outputs


def shown(cell: NotebookNode) -> NotebookNode | None:
    "A code cell as it goes to the page; None where it is hidden."
    directives = dict(DIRECTIVE.findall(cell.source))
    source = NBVAL.sub("", DIRECTIVE.sub("", cell.source)).strip("\n")
    hidden = "hide" in directives or directives.get("include") == "false"
    if hidden or not source.strip():
        return None
    tags, metadata = tags_of(cell, directives), dict[str, object]()
    if only_imports(source):
        tags.append("hide-input")
        metadata = dict(FOLDED)
    return nbformat.v4.new_code_cell(
        source,
        id=cell.id,
        outputs=outputs_of(cell),
        execution_count=cell.execution_count,
        metadata={**metadata, "tags": tags},
    )


def module_of(nb: NotebookNode) -> str:
    "The module that a notebook exports; empty where it exports none."
    for cell in nb.cells:
        for name, value in DIRECTIVE.findall(cell.source):
            if name == "default_exp":
                return f"mlkit.{value}"
    return ""


def toctree(caption: str, names: list[str]) -> str:
    head = f"```{{toctree}}\n:hidden:\n:maxdepth: 1\n:caption: {caption}\n\n"
    return head + "\n".join(names) + "\n```"


class Site:
    "The tree that Sphinx reads: the pages of a project, at the same places as in the project."

    def __init__(
        self,
        root: Path,  # the project
        src: Path,  # an empty folder to fill
    ):
        self.root, self.src = root, src
        index = root / "nbs/index.ipynb"
        self.landing = index if index.exists() else root / "README.md"
        self.sections = {caption: self._section(where) for caption, where in SECTIONS.items()}
        self.pages = [self.landing, *(p for pages in self.sections.values() for p in pages)]

    def _section(self, where: str) -> list[Path]:
        return [p for p in sorted(self.root.glob(where)) if p != self.landing]

    def place(self, page: Path) -> Path:
        "Where a page of the project goes; the landing page goes to the top."
        if page == self.landing:
            return self.src / f"index{page.suffix}"
        return self.src / page.relative_to(self.root)

    def relink(self, text: str, page: Path) -> str:
        "Point relative links at the site; one to a file that is no page of it becomes plain text."
        return LINK.sub(lambda link: self._point(link, page), text)

    def _point(self, link: re.Match[str], page: Path) -> str:
        image, label, path, anchor = link.groups(default="")
        target = Path(os.path.normpath(page.parent / path))
        if target.is_dir():
            target /= "README.md"
        elif not target.exists():
            return link[0]  # broken: Sphinx will say so
        if image:
            self.place(target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(target, self.place(target))
        elif target not in self.pages:
            return label
        address = os.path.relpath(self.place(target), self.place(page).parent)
        return f"{image}[{label}]({address}{anchor})"

    def markdown(self, text: str, page: Path) -> str:
        "Markdown as it goes to the page; code fences are left alone."
        parts = FENCE.split(text)
        return "".join(p if p.startswith("```") else self.relink(p, page) for p in parts)

    def notebook(self, page: Path) -> NotebookNode:
        "A notebook as it goes to the page."
        nb = nbformat.read(page, as_version=4)
        nb.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
        module, cells = module_of(nb), []
        for cell in nb.cells:
            if cell.cell_type == "markdown":
                cell.source = self.markdown(cell.source, page)
                cells.append(cell)
            elif (kept := shown(cell)) is not None:
                cells.append(kept)
        if module:
            note = f"Module {{py:mod}}`{module}`"
            cells.insert(1, nbformat.v4.new_markdown_cell(note, id="module"))
        nb.cells = cells
        return nb

    def toctrees(self) -> str:
        "The sidebar: a section for each kind of page, and the API reference."
        parts = []
        for caption, pages in self.sections.items():
            names = [str(p.relative_to(self.root).with_suffix("")) for p in pages]
            if caption == "Project":
                names = ["API reference <api/mlkit/index>", *names]
            if names:
                parts.append(toctree(caption, names))
        return "\n\n" + "\n\n".join(parts) + "\n"

    def write(self) -> None:
        "Write all pages."
        for page in self.pages:
            place = self.place(page)
            place.parent.mkdir(parents=True, exist_ok=True)
            sidebar = self.toctrees() if page == self.landing else ""
            if page.suffix == ".md":
                place.write_text(self.markdown(page.read_text(encoding="utf-8"), page) + sidebar)
                continue
            nb = self.notebook(page)
            if sidebar:
                nb.cells.append(nbformat.v4.new_markdown_cell(sidebar, id="toc"))
            nbformat.write(nb, place)


def check_place(out: Path) -> None:
    "Only a site, or nothing, is replaced."
    if out.exists() and any(out.iterdir()) and not (out / "objects.inv").exists():
        raise SystemExit(f"{out} holds something that is not a site; name another folder.")


def build(
    out: Path,  # the finished site; replaced only if the build succeeds
    root: Path = HERE.parent,  # the project
) -> int:  # exit code: 1 if Sphinx warned of anything
    "Build the site."
    check_place(out)
    with tempfile.TemporaryDirectory() as folder:
        src, html = Path(folder) / "src", Path(folder) / "html"
        src.mkdir()
        Site(root, src).write()
        strict = ["-q", "-W", "--keep-going"]
        places = ["-c", str(HERE), "-d", f"{folder}/doctrees"]
        package = ["-D", f"autoapi_dirs={root / 'mlkit'}"]
        if code := sphinx([*strict, *places, *package, str(src), str(html)]):
            return code
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(html, out)
    print(f"{sum(1 for _ in out.rglob('*.html'))} pages in {out}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE.parent / "site", help="folder of the site")
    sys.exit(build(parser.parse_args().out))
