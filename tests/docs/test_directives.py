"What nbdev's directives hide is hidden on the site, and the rest is there whole."

from __future__ import annotations

import re

import pytest
from site_pages import NOTEBOOKS, cells, page_of, read

HIDDEN = re.compile(r"^[ \t]*#\|[ \t]*(hide[ \t]*$|include:[ \t]*false)", re.M)
PARTLY = re.compile(r"#\|[ \t]*(hide|include|echo)")
DIRECTIVE = re.compile(r"\s*#\s*\||# ?NBVAL")


def lines(source: str) -> set[str]:
    "The lines of a cell that are long enough to be told from others."
    stripped = [line.strip() for line in source.splitlines() if not DIRECTIVE.match(line)]
    return {line for line in stripped if len(line) > 24}


def test_no_directive_is_shown(pages):
    for path, page in pages.items():
        assert not re.search(r"^\s*(#\s*\||# ?NBVAL_)", page.code, re.M), path


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_hidden_cells_are_absent_and_the_others_whole(site, notebook):
    code = [source for kind, source in cells(notebook) if kind == "code"]
    hidden = set().union(*(lines(s) for s in code if HIDDEN.search(s)))
    shown = set().union(*(lines(s) for s in code if not PARTLY.search(s)))
    text = read(page_of(site, notebook)).code
    assert not [line for line in hidden - shown if line in text]
    assert not [line for line in shown if line not in text]
