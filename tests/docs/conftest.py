"The site of this project, built once."

from __future__ import annotations

from pathlib import Path

import pytest
from site_pages import Page, read, run


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "The folder of the site."
    for needed in ("sphinx", "myst_nb", "autoapi", "furo", "nbformat"):
        pytest.importorskip(needed, reason="needs the docs extra")
    out = tmp_path_factory.mktemp("docs") / "site"
    done = run("docs/build.py", "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Page]:
    "Every page of it."
    return {path: read(path) for path in sorted(site.rglob("*.html"))}
