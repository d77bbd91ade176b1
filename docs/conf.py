"""Sphinx configuration; `build.py` fills the source folder and runs it."""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from pathlib import Path
from typing import Any

from astroid import MANAGER
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent

project = "mlkit"
author = "the mlkit authors"
copyright = author
release = version = re.findall(
    r'__version__ = "(.+)"', (HERE.parent / "mlkit/__init__.py").read_text()
)[0]

extensions = ["myst_nb", "autoapi.extension"]
exclude_patterns = ["api/index.rst"]  # autoapi's own list of packages; there is only one
suppress_warnings = [
    "misc.highlighting_failure",  # a code fence in a language without a lexer is shown as plain text
    "myst.header",  # a heading that skips a level still reads well
    "autoapi.python_import_resolution",  # autoapi does not see names assigned in a tuple; an import of one is right all the same
]

# Notebooks: stored outputs only, no widgets, links to headings.
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js: dict[str, Any] = {}
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_dmath_allow_digits = False  # "$5 and $6" is money
myst_heading_anchors = 4
myst_update_mathjax = False

# API reference: read from the source, never imported.
autoapi_root = "api"
autoapi_template_dir = str(HERE / "_templates")
autoapi_add_toctree_entry = False
autoapi_ignore = ["*/_modidx.py"]
autoapi_options = ["members", "undoc-members", "show-inheritance"]
autoapi_member_order = "bysource"
add_module_names = False
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True

# HTML: everything is served from the site itself.
html_theme = "furo"
html_title = f"mlkit {release}"
html_static_path = ["_static"]
html_css_files = ["kit.css"]
html_math_renderer = "mathml"  # browsers draw it themselves: no script, no fonts
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False


def rst(text: str) -> str:
    "A docstring's Markdown as reStructuredText: code in single backticks, everything else literal."
    parts = text.split("`")
    return "".join(
        f"\\ ``{part}``\\ " if n % 2 else re.sub(r"([*_|\\])", r"\\\1", part)
        for n, part in enumerate(parts)
    )


def comments(
    package: Path,  # folder of a package
) -> dict[
    str, dict[str, str]
]:  # full name -> parameter (or "return", or "" for the object itself) -> its comment
    "The comments beside definitions (docments), read from the source; a setting's `description` counts as its comment."
    found: dict[str, dict[str, str]] = {}
    for path in package.rglob("*.py"):
        source = path.read_text()
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        beside = {
            t.start[0]: t.string.lstrip("#").strip()
            for t in tokens
            if t.type == tokenize.COMMENT and not re.match(r"#\s*(type:|noqa|pragma)", t.string)
        }

        def visit(body: list[ast.stmt], prefix: str) -> None:
            for node in body:
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{prefix}.{node.name}")
                elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    args = [arg for arg in ast.walk(node.args) if isinstance(arg, ast.arg)]
                    lines = {arg.lineno: arg.arg for arg in args} | (
                        {node.returns.lineno: "return"} if node.returns else {}
                    )
                    name = (
                        prefix if node.name == "__init__" else f"{prefix}.{node.name}"
                    )  # a class is called by its `__init__`
                    found[name] = {
                        arg: beside[line]
                        for line, arg in lines.items()
                        if line in beside and line < node.body[0].lineno
                    }
                elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                    described = [
                        str(k.value.value)
                        for k in getattr(node.value, "keywords", ())
                        if k.arg == "description" and isinstance(k.value, ast.Constant)
                    ]
                    found[f"{prefix}.{ast.unparse(target)}"] = {
                        "": beside.get(node.end_lineno or 0) or "".join(described)
                    }

        visit(
            ast.parse(source).body, ".".join(path.relative_to(package.parent).with_suffix("").parts)
        )
    return found


def libraries(
    package: Path,  # folder of a package
) -> set[str]:  # modules outside it and the standard library that it imports
    "What a package needs from others."
    trees = [
        node for path in package.rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))
    ]
    names = {alias.name for node in trees if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in trees if isinstance(node, ast.ImportFrom) and node.module}
    return {
        name for name in names if name.split(".")[0] not in sys.stdlib_module_names | {package.name}
    }


def setup(app: Sphinx) -> None:
    "Bring docments into the API reference, and draw formulas as MathML."
    known: dict[str, dict[str, str]] = {}

    def learn(app: Sphinx, config: Any) -> None:
        package = Path(config.autoapi_dirs[0])
        known.update(comments(package))
        MANAGER.module_denylist |= libraries(
            package
        )  # or autoapi parses Polars and the rest as well, for nothing

    def document(
        app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: list[str]
    ) -> None:
        "autoapi asks this of each object just before it writes it; the answer is never to skip, but the docstring is completed."
        if note := obj.obj.get(
            "annotation"
        ):  # autoapi leaves a name inside a call bare, and Sphinx would take pydantic's for ours
            obj.obj["annotation"] = re.sub(r"(?<![\w.])Field\(", "pydantic.Field(", note)
        said = known.get(name, {})
        fields = [
            f":returns: {rst(words)}" if arg == "return" else f":param {arg}: {rst(words)}"
            for arg, words in said.items()
            if arg
        ]
        if what == "module" and (
            notebook := re.search(
                r"File to edit: (?:\.\./)+(\S+)\.ipynb", Path(obj.obj["file_path"]).read_text()
            )
        ):
            fields = [f"Written in :doc:`/{notebook[1]}`."]
        obj.docstring = (
            "\n".join([rst(obj.docstring.strip() or said.get("", "")), "", *fields, ""]).strip()
            + "\n"
        )

    def math(translator: Any, node: nodes.Node) -> None:
        translator.body.append(
            tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block))
        )
        raise nodes.SkipNode

    app.connect("config-inited", learn)
    app.connect("autoapi-skip-member", document)
    app.add_html_math_renderer("mathml", (math, None), (math, None))
