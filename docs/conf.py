"""Sphinx configuration; `build.py` fills the source folder and runs it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

project = "mlkit"
author = "the mlkit authors"
copyright = author
_init = (HERE.parent / "mlkit/__init__.py").read_text(encoding="utf-8")
release = version = re.findall(r'__version__ = "(.+)"', _init)[0]

extensions = ["myst_nb", "autoapi.extension", "docments"]
exclude_patterns = ["api/index.rst"]  # autoapi's own list of packages; there is only one
suppress_warnings = [
    "misc.highlighting_failure",  # a fence in a language without a lexer is plain text
    "myst.header",  # a heading that skips a level still reads well
    "autoapi.python_import_resolution",  # autoapi does not see names assigned in a tuple
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
