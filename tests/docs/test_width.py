"At 1,280 pixels no code cell needs a horizontal scroll bar, and no table is cut off."

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
NOT_READ = ("genindex.html", "search.html", "py-modindex.html")
MEASURE = """
<script>
addEventListener('load', () => {
  const wide = [], right = document.documentElement.clientWidth
  const parts = 'article pre, article .cell_output, article table, article dt.sig'
  for (const e of document.querySelectorAll(parts)) {
    const hidden = e.scrollWidth - e.clientWidth
    const box = e.getBoundingClientRect()
    if (hidden > 1 || box.right > right)
      wide.push([e.tagName, hidden, e.textContent.trim().slice(0, 80)])
  }
  const found = document.createElement('pre')
  found.id = 'measured'
  found.textContent = JSON.stringify(wide)
  document.body.append(found)
})
</script>
"""


def overflowing(page: Path) -> list:
    "What of a page does not fit into the window."
    place = ["--window-size=1280,900", "--virtual-time-budget=3000", "--dump-dom", page.as_uri()]
    shown = subprocess.run([CHROMIUM, *FLAGS, *place], capture_output=True, text=True).stdout
    found = re.search(r'<pre id="measured">(.*?)</pre>', shown, re.S)
    assert found, f"{page}: Chromium shows nothing"
    return json.loads(html.unescape(found[1]))


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (apt-get install chromium)")
def test_nothing_is_wider_than_its_column(site, tmp_path):
    copy = tmp_path / "site"
    shutil.copytree(site, copy)
    pages = [p for p in sorted(copy.rglob("*.html")) if p.name not in NOT_READ]
    for page in pages:
        page.write_text(page.read_text().replace("</body>", f"{MEASURE}</body>"))
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(pages, pool.map(overflowing, pages), strict=True))
    wide = {str(p.relative_to(copy)): parts for p, parts in found.items() if parts}
    assert not wide, json.dumps(wide, indent=1)
