"""Sphinx extension: comments beside definitions enter the API reference, formulas are MathML."""

from __future__ import annotations

import ast
import builtins
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from astroid import MANAGER
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.nodes import find_pending_xref_condition

Comments = dict[str, str]  # parameter, "return", or "" for the object itself -> its comment
NOT_MEANT = re.compile(r"#\s*(type:|noqa|pragma)")
NOTEBOOK = re.compile(r"File to edit: (?:\.\./)+(\S+)\.ipynb")


def rst(text: str) -> str:
    "A docstring's Markdown as reStructuredText: code in single backticks, the rest literal."
    parts = text.split("`")
    for n, part in enumerate(parts):
        parts[n] = f"\\ ``{part}``\\ " if n % 2 else re.sub(r"([*_|\\])", r"\\\1", part)
    return "".join(parts)


def comment_lines(source: str) -> dict[int, str]:
    "Line number to the comment on it."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = (t for t in tokens if t.type == tokenize.COMMENT)
    meant = (t for t in comments if not NOT_MEANT.match(t.string))
    return {t.start[0]: t.string.lstrip("#").strip() for t in meant}


def of_function(node: ast.FunctionDef | ast.AsyncFunctionDef, beside: dict[int, str]) -> Comments:
    "The comments of a function's parameters and of what it returns."
    lines = {arg.lineno: arg.arg for arg in ast.walk(node.args) if isinstance(arg, ast.arg)}
    if node.returns:
        lines[node.returns.end_lineno or 0] = "return"
    body = node.body[0].lineno
    return {name: beside[line] for line, name in lines.items() if line in beside and line < body}


def of_assignment(node: ast.Assign | ast.AnnAssign, beside: dict[int, str]) -> Comments:
    "A comment at its end; a setting's `description` counts as one."
    if comment := beside.get(node.end_lineno or 0):
        return {"": comment}
    for keyword in getattr(node.value, "keywords", ()):
        if keyword.arg == "description" and isinstance(keyword.value, ast.Constant):
            return {"": str(keyword.value.value)}
    return {"": ""}


def of_body(
    body: list[ast.stmt], prefix: str, beside: dict[int, str]
) -> Iterator[tuple[str, Comments]]:
    "Full name and comments of everything that a module or a class defines."
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from of_body(node.body, f"{prefix}.{node.name}", beside)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            constructor = node.name == "__init__"  # a class is called by it
            name = prefix if constructor else f"{prefix}.{node.name}"
            yield name, of_function(node, beside)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            yield f"{prefix}.{ast.unparse(target)}", of_assignment(node, beside)


def comments_of(package: Path) -> dict[str, Comments]:
    "Full name to comments, for everything in a package; read from the source."
    found: dict[str, Comments] = {}
    for path in package.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        module = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        found |= of_body(ast.parse(source).body, module, comment_lines(source))
    return found


def libraries(package: Path) -> set[str]:
    "Modules outside a package and the standard library that it imports."
    names: set[str] = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
    own = sys.stdlib_module_names | {package.name}
    return {name for name in names if name.split(".")[0] not in own}


def complete(obj: Any, what: str, comments: Comments) -> None:
    "Add the comments to an object's docstring."
    if note := obj.obj.get("annotation"):
        # autoapi leaves a name inside a call bare, and Sphinx would take pydantic's for ours
        obj.obj["annotation"] = re.sub(r"(?<![\w.])Field\(", "pydantic.Field(", note)
    fields = []
    for name, comment in comments.items():
        if name:
            role = ":returns:" if name == "return" else f":param {name}:"
            fields.append(f"{role} {rst(comment)}")
    if what == "module":
        if notebook := NOTEBOOK.search(Path(obj.obj["file_path"]).read_text(encoding="utf-8")):
            fields = [f"Written in :doc:`/{notebook[1]}`."]
    meaning = rst(obj.docstring.strip() or comments.get("", ""))
    obj.docstring = "\n".join([meaning, "", *fields, ""]).strip() + "\n"


def draw_formula(translator: Any, node: nodes.Node) -> None:
    "A formula as MathML, which browsers draw themselves."
    block = isinstance(node, nodes.math_block)
    translator.body.append(tex2mathml(node.astext(), as_block=block))
    raise nodes.SkipNode


def leave_builtins(app: Sphinx, doctree: nodes.document) -> None:
    "`type` in a signature is Python's own, whatever attributes of that name there are."
    for reference in list(doctree.findall(addnodes.pending_xref)):
        if reference.get("refdomain") == "py" and hasattr(builtins, reference["reftarget"]):
            plain = find_pending_xref_condition(reference, "*")
            reference.replace_self((plain or reference).children)


def setup(app: Sphinx) -> dict[str, bool]:
    known: dict[str, Comments] = {}

    def learn(app: Sphinx, config: Any) -> None:
        package = Path(config.autoapi_dirs[0])
        known.update(comments_of(package))
        MANAGER.module_denylist |= libraries(package)  # or autoapi parses Polars and the rest

    def document(
        app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: list[str]
    ) -> None:
        "Asked of each object before it is written; the answer is never to skip."
        complete(obj, what, known.get(name, {}))

    app.connect("config-inited", learn)
    app.connect("autoapi-skip-member", document)
    app.connect("doctree-read", leave_builtins)
    app.add_html_math_renderer("mathml", (draw_formula, None), (draw_formula, None))
    return {"parallel_read_safe": True}
