"The documentation site is complete: a page for every notebook, record and module."

from __future__ import annotations

import re

import pytest
from site_pages import NOTEBOOKS, ROOT, cells, page_of, read


def title(notebook) -> str:
    first = next(source for kind, source in cells(notebook) if kind == "markdown")
    return first.splitlines()[0].lstrip("# ").replace("`", "")


def test_landing_page(site):
    assert (site / "index.html").exists()
    assert "nbs/00_settings.html" in read(site / "index.html").links


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_notebook_has_a_page(site, notebook):
    assert title(notebook) in read(page_of(site, notebook)).text


def test_every_record_has_a_page(site):
    records = [p.with_suffix(".html").name for p in (ROOT / "adr").glob("*.md")]
    assert not [name for name in records if not (site / "adr" / name).exists()]


def test_notebooks_are_listed_in_order(site):
    links = read(site / "index.html").links
    listed = [link for link in links if re.fullmatch(r"nbs/\d\w+\.html", link)]
    guide = [p.stem for p in NOTEBOOKS if p.parent.name == "nbs" and p.stem != "index"]
    assert list(dict.fromkeys(listed)) == [f"nbs/{stem}.html" for stem in guide]


def test_every_module_has_an_api_page(site):
    for path in (ROOT / "mlkit").rglob("*.py"):
        if path.stem == "_modidx":
            continue
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = parts[:-1] if parts[-1] == "__init__" else parts
        page = read(site.joinpath("api", *module, "index.html"))
        assert "module-" + ".".join(module) in page.ids


def test_api_carries_the_comments_beside_parameters(site):
    text = read(site / "api/mlkit/settings/index.html").text
    assert "folder to look for" in text
    assert "address the service listens on" in text
