"At 1,280 pixels no code cell needs a horizontal scroll bar, and no table is cut off."

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
FLAGS += ["--allow-file-access-from-files", "--window-size=1280,900"]
NOT_READ = ("genindex.html", "search.html", "py-modindex.html")
# One page that shows all others, one after the other, in a frame as wide as a window.
MEASURE = """
<!doctype html><meta charset="utf-8"><iframe width="1280" height="900"></iframe><script>
const pages = PAGES, found = {}, frame = document.querySelector('iframe')
const parts = 'article pre, article .cell_output, article table, article dt.sig'
function measure(page) {
  const shown = frame.contentDocument, right = shown.documentElement.clientWidth
  found[page] = []
  for (const e of shown.querySelectorAll(parts)) {
    const hidden = e.scrollWidth - e.clientWidth
    if (hidden > 1 || e.getBoundingClientRect().right > right)
      found[page].push([e.tagName, hidden, e.textContent.trim().slice(0, 80)])
  }
}
function next() {
  const page = pages.pop()
  if (page) {
    frame.onload = () => { measure(page); next() }
    frame.src = page
  } else {
    document.body.innerHTML = '<pre id="measured"></pre>'
    document.querySelector('pre').textContent = JSON.stringify(found)
  }
}
next()
</script>
"""


def measured(site: Path, pages: list[str]) -> dict[str, list]:
    "What of each page does not fit into the window."
    viewer = site / "all.html"
    viewer.write_text(MEASURE.replace("PAGES", json.dumps(pages)))
    command = [CHROMIUM, *FLAGS, "--virtual-time-budget=600000", "--dump-dom", viewer.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True).stdout
    found = re.search(r'<pre id="measured">(.*?)</pre>', shown, re.S)
    assert found, f"Chromium shows nothing: {shown[:500]}"
    return json.loads(html.unescape(found[1]))


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (apt-get install chromium)")
def test_nothing_is_wider_than_its_column(site, tmp_path):
    copy = tmp_path / "site"
    shutil.copytree(site, copy)
    pages = [p for p in sorted(copy.rglob("*.html")) if p.name not in NOT_READ]
    found = measured(copy, [p.relative_to(copy).as_posix() for p in pages])
    assert len(found) == len(pages)
    wide = {page: parts for page, parts in found.items() if parts}
    assert not wide, json.dumps(wide, indent=1)
