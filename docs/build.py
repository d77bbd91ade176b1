"""Build the documentation site from the stored outputs of the notebooks; nothing is executed, nothing is fetched.

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


def only_imports(source: str) -> bool:
    "Whether a cell does nothing but import."
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return False
    return bool(body) and all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body)


def shown(
    cell: NotebookNode,  # a code cell of a notebook
) -> (
    NotebookNode | None
):  # the cell for the page: without directives, tagged for myst-nb; None if it is hidden
    "Apply nbdev's directives to a code cell."
    said = dict(DIRECTIVE.findall(cell.source))
    source = NBVAL.sub("", DIRECTIVE.sub("", cell.source)).strip("\n")
    if not source.strip() or "hide" in said or said.get("include") == "false":
        return None
    tags = list(cell.metadata.get("tags", []))
    if "hide_input" in said or said.get("echo") == "false":
        tags.append("remove-input")
    elif "hide_output" in said or said.get("output") == "false":
        tags.append("remove-output")
    metadata: dict[str, object] = {}
    if only_imports(source):
        tags, metadata = (
            [*tags, "hide-input"],
            {"mystnb": {"code_prompt_show": "Imports", "code_prompt_hide": "Imports"}},
        )
    outputs = [
        output for output in cell.outputs if output.get("name") != "stderr"
    ]  # progress bars and log lines
    for output in outputs:  # nbdev's show_doc writes Pandoc attributes, which MyST would print
        if text := output.get("data", {}).get("text/markdown"):
            output.data["text/markdown"] = re.sub(r"(?<=\))\{[^}\n]*\}", "", text)
    return nbformat.v4.new_code_cell(
        source,
        id=cell.id,
        outputs=outputs,
        execution_count=cell.execution_count,
        metadata={**metadata, "tags": tags},
    )


class Site:
    "The tree that Sphinx reads: the pages of a project, at the same places as in the project."

    def __init__(
        self,
        root: Path,  # the project
        src: Path,  # an empty folder to fill
    ):
        self.root, self.src = root, src
        self.landing = next(
            page for page in (root / "nbs/index.ipynb", root / "README.md") if page.exists()
        )
        self.sections = {
            caption: [p for p in sorted(root.glob(where)) if p != self.landing]
            for caption, where in SECTIONS.items()
        }
        self.pages = [self.landing, *(p for pages in self.sections.values() for p in pages)]

    def place(self, page: Path) -> Path:
        "Where a page of the project goes; the landing page goes to the top."
        return self.src / (
            "index" + page.suffix if page == self.landing else page.relative_to(self.root)
        )

    def relink(self, text: str, page: Path) -> str:
        "Point relative links at the site; a link to a file that is no page of it becomes plain text."

        def point(link: re.Match[str]) -> str:
            image, label, path, anchor = link[1], link[2], link[3], link[4] or ""
            target = Path(os.path.normpath(page.parent / path))
            if target.is_dir():
                target /= "README.md"
            elif not target.exists():
                return link[0]  # broken: Sphinx will say so
            if not image and target not in self.pages:
                return label
            if image:
                self.place(target).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(target, self.place(target))
            return f"{image}[{label}]({os.path.relpath(self.place(target), self.place(page).parent)}{anchor})"

        return LINK.sub(point, text)

    def markdown(self, text: str, page: Path) -> str:
        "Markdown as it goes to the page; code fences are left alone."
        return "".join(
            part if part.startswith("```") else self.relink(part, page)
            for part in FENCE.split(text)
        )

    def notebook(self, page: Path) -> NotebookNode:
        "A notebook as it goes to the page."
        nb = nbformat.read(page, as_version=4)
        nb.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
        module = next(
            (
                f"mlkit.{d[1]}"
                for c in nb.cells
                for d in DIRECTIVE.findall(c.source)
                if d[0] == "default_exp"
            ),
            "",
        )
        for cell in nb.cells:
            if cell.cell_type == "markdown":
                cell.source = self.markdown(cell.source, page)
        nb.cells = [
            kept for cell in nb.cells if (kept := shown(cell) if cell.cell_type == "code" else cell)
        ]
        if module:
            nb.cells.insert(
                1, nbformat.v4.new_markdown_cell(f"Module {{py:mod}}`{module}`", id="module")
            )
        return nb

    def toctree(self) -> str:
        "The sidebar: a section for each kind of page, and the API reference."
        entries = {
            caption: [str(p.relative_to(self.root).with_suffix("")) for p in pages]
            for caption, pages in self.sections.items()
        }
        entries["Project"] = ["API reference <api/mlkit/index>", *entries["Project"]]
        trees = (
            f"```{{toctree}}\n:hidden:\n:maxdepth: 1\n:caption: {caption}\n\n"
            + "\n".join(names)
            + "\n```"
            for caption, names in entries.items()
            if names
        )
        return "\n\n" + "\n\n".join(trees) + "\n"

    def write(self) -> None:
        "Write all pages."
        for page in self.pages:
            self.place(page).parent.mkdir(parents=True, exist_ok=True)
            toc = self.toctree() if page == self.landing else ""
            if page.suffix == ".md":
                self.place(page).write_text(self.markdown(page.read_text(), page) + toc)
                continue
            nb = self.notebook(page)
            if toc:
                nb.cells.append(nbformat.v4.new_markdown_cell(toc, id="toc"))
            nbformat.write(nb, self.place(page))


def build(
    out: Path,  # the finished site; replaced only if the build succeeds
    root: Path = HERE.parent,  # the project
) -> int:  # exit code: 1 if Sphinx warned of anything
    "Build the site."
    if out.exists() and any(out.iterdir()) and not (out / "objects.inv").exists():
        raise SystemExit(f"{out} holds something that is not a site; name another folder.")
    with tempfile.TemporaryDirectory() as tmp:
        src, html = Path(tmp) / "src", Path(tmp) / "html"
        src.mkdir()
        Site(root, src).write()
        options = [
            "-q",
            "-W",
            "--keep-going",
            "-c",
            str(HERE),
            "-d",
            f"{tmp}/doctrees",
            "-D",
            f"autoapi_dirs={root / 'mlkit'}",
        ]
        if code := sphinx([*options, str(src), str(html)]):
            return code
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(html, out)
    print(f"{sum(1 for _ in out.rglob('*.html'))} pages in {out}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Build the documentation site from the notebooks' stored outputs."
    )
    parser.add_argument("--out", type=Path, default=HERE.parent / "site", help="folder of the site")
    sys.exit(build(parser.parse_args().out))
