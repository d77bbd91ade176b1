"Pages of the documentation site, read back."

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("nbs", "nbs/usecases", "pipelines")
NOTEBOOKS = sorted(p for folder in FOLDERS for p in (ROOT / folder).glob("*.ipynb"))
LOADS = dict(script="src", img="src", iframe="src", source="src", video="src", audio="src")
LOADS |= dict(embed="src", object="data", link="href")
NOT_LOADED = ("next", "prev", "index", "search", "canonical")


class Page(HTMLParser):
    "One page: its text, the text of its code blocks, what it loads and where it links to."

    def __init__(self, html: str):
        super().__init__()
        self.text, self.code, self.script = "", "", ""
        self.loads, self.links, self.ids, self.open = [], [], set(), []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if LOADS.get(tag) in given and given.get("rel") not in NOT_LOADED:
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
        if self.open[-1:] in (["script"], ["style"]):
            self.script += data
        else:
            self.text += data
        if "pre" in self.open:
            self.code += data


@cache
def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def run(*arguments: str | Path) -> subprocess.CompletedProcess:
    "A Python program of the project."
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def cells(notebook: Path) -> list[tuple[str, str]]:
    "Kind and source of each cell."
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in found]


def page_of(site: Path, notebook: Path) -> Path:
    if notebook == ROOT / "nbs/index.ipynb":
        return site / "index.html"
    return site / notebook.relative_to(ROOT).with_suffix(".html")
