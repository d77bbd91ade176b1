"""Sphinx configuration; `build.py` fills the source folder and runs it."""
from __future__ import annotations

import ast, io, re, tokenize
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

project = "mlkit"
author = "the mlkit authors"
copyright = author
release = version = re.search(r'__version__ = "(.+)"', (Path(__file__).parents[1]/"mlkit/__init__.py").read_text())[1]

extensions = ["myst_nb", "autoapi.extension"]
exclude_patterns = ["api/index.rst"]  # autoapi's own list of packages; there is only one
suppress_warnings = [
    "misc.highlighting_failure",  # a code fence in a language without a lexer is shown as plain text
    "myst.header",                # a heading that skips a level still reads well
]

# Notebooks: stored outputs only, no widgets, links to headings.
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_dmath_allow_digits = False  # "$5 and $6" is money
myst_heading_anchors = 4
myst_update_mathjax = False

# API reference: read from the source, never imported.
autoapi_root = "api"
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
    return "".join(f"``{part}``" if n % 2 else re.sub(r"([*_|\\])", r"\\\1", part) for n, part in enumerate(parts))


@cache
def comments(path: str) -> dict[str, dict[str, str]]:
    "The comments beside definitions in one module: qualified name -> parameter (or 'return', or '' for itself) -> words."
    source, found = Path(path).read_text(), {}
    beside = {t.start[0]: t.string.lstrip("#").strip() for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT}

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef): visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                args = node.args
                every = [*args.posonlyargs, *args.args, *filter(None, [args.vararg]), *args.kwonlyargs, *filter(None, [args.kwarg])]
                lines = {arg.lineno: arg.arg for arg in every} | ({node.returns.lineno: "return"} if node.returns else {})
                name = prefix[:-1] if node.name == "__init__" else prefix + node.name
                found[name] = {arg: beside[line] for line, arg in lines.items() if line in beside and line < node.body[0].lineno}
            elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.end_lineno in beside:
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                found[prefix + ast.unparse(target)] = {"": beside[node.end_lineno]}

    visit(ast.parse(source).body, "")
    return found


def document(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: list[str]) -> None:
    "Give an object of the API reference its comments; autoapi asks whether to skip each object just before it writes it."
    module = next((m for m in app.env.autoapi_all_objects if name.startswith(f"{m}.")), name) if what not in ("module", "package") else name
