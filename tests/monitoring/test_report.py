"The report holds every type of feature and any use case's words, and fits into 1,280 pixels."

from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from mlkit.drift import drift
from mlkit.etl import Logs
from mlkit.metrics import TITLES
from mlkit.monitoring import Findings, Performance, Period, write_report
from mlkit.policy import Policy, Route
from mlkit.promises import Promise

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
MONDAY = datetime(2025, 4, 7, tzinfo=timezone.utc)
LONG = "a_feature_with_a_very_long_name_" * 4 + "90d"
STEPS = [f"step-{i}" for i in range(5)]
ROUTES = (
    Route("accept"),
    *(Route(s, probability=0.1 + i / 10) for i, s in enumerate(STEPS)),
    Route("human", human=True, probability=0.9),
)
MEASURE = """
<script>
addEventListener('load', () => {
  const page = document.documentElement
  const wide = [...document.querySelectorAll('table, p, img, .tile')]
    .filter(e => e.getBoundingClientRect().right > page.clientWidth
      || e.scrollWidth > e.clientWidth + 1)
  page.setAttribute('data-measured', `${page.scrollWidth} ${page.clientWidth} ${wide.length}`)
})
</script>
"""


def frames(n: int = 40) -> tuple[pl.DataFrame, pl.DataFrame]:
    "A number, a flag, a category of long words and a column without values, that have moved."
    words = pl.Enum(["w" * 60, "other"])
    before = pl.DataFrame(
        {
            LONG: np.arange(n, dtype=np.float64),
            "flag": [True, False] * (n // 2),
            "word": pl.Series([words.categories[0]] * n, dtype=words),
            "never": pl.Series([None] * n, dtype=pl.Int64),
        }
    )
    moved = pl.Series([words.categories[1]] * n, dtype=words)
    return before, before.with_columns(pl.col(LONG) * 1e9, word=moved, flag=pl.lit(True))


def findings(labels: int, decided: int = 30) -> Findings:
    "A period with so many labels."
    before, after = frames()
    names = [r.name for r in ROUTES]
    rows = pl.DataFrame(
        dict(
            event_time=[MONDAY + timedelta(hours=9 * i) for i in range(decided)],
            route=[names[i % len(names)] for i in range(decided)],
            automatic=[not ROUTES[i % len(names)].human for i in range(decided)],
            degraded=[False] * decided,
            ms=np.linspace(1, 9, decided),
        ),
        schema_overrides=dict(
            event_time=pl.Datetime("us", "UTC"),
            route=pl.String,
            automatic=pl.Boolean,
            degraded=pl.Boolean,
        ),
    )
    usecase = SimpleNamespace(
        name="bookings",
        policy=Policy("bookings-1", ROUTES),
        entity="agent",
        labels=SimpleNamespace(value="cancelled"),
    )
    period = Period(usecase, Logs("unused"), MONDAY, MONDAY + timedelta(days=20), rows)
    score = np.linspace(0.01, 0.99, labels)
    judged = pl.DataFrame(dict(label=score > 0.5, probability=score))
    metrics = dict.fromkeys([*TITLES, "rows", "positives"], float("nan"))
    promised = Promise(0.0, 0.1, 0.9, (9.0, 9.0), (8.0, 10.0)).kept(
        judged.with_columns(label_weight=1.0)
    )
    performance = Performance(judged, dict(served=score), dict(served=metrics), promised)
    parity = dict(compared=decided, different=0, by_feature={}, scores_different=0)
    return Findings(period, parity, performance, drift(before, after, before.columns))


def report(folder: Path, found: Findings) -> str:
    gates = [dict(name="better <than> a constant", passed=False, detail="d" * 300)]
    summary = dict(rows=10**9, quarantined=3, gates=gates, **found.figures())
    lineage = {"source": "/" + "very_long_folder" * 20 + ".parquet", "cut": "2025-04-07"}
    return write_report(folder, found, summary, "Model " + "7" * 200, lineage).read_text()


def test_the_words_are_the_use_cases(tmp_path):
    html = report(tmp_path, findings(100))
    for word in ("bookings", "agent", "cancelled", "P@100", "step-4"):
        assert word in html or word in findings(100).pictures()[3].svg
    assert "card" not in html.lower()
    assert "&lt;than&gt;" in html
    figures = json.loads((tmp_path / "summary.json").read_text())
    assert list(figures["decisions"]["routes"]) == [r.name for r in ROUTES]
    assert sum(figures["decisions"]["routes"].values()) == 30


@pytest.mark.parametrize("labels, decided", [(0, 30), (1, 1), (0, 0)])
def test_without_labels_or_decisions_it_is_written_all_the_same(tmp_path, labels, decided):
    html = report(tmp_path, findings(labels, decided))
    assert html.count("<img") == 5


def test_the_same_findings_give_the_same_bytes(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    assert report(tmp_path / "a", findings(50)) == report(tmp_path / "b", findings(50))


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (apt-get install chromium)")
def test_nothing_is_cut_off_at_1280_pixels(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(report(tmp_path, findings(100)).replace("</html>", f"{MEASURE}</html>"))
    place = ["--window-size=1280,900", "--virtual-time-budget=3000", "--dump-dom", page.as_uri()]
    shown = subprocess.run([CHROMIUM, *FLAGS, *place], capture_output=True, text=True).stdout
    page_width, window, wide = re.search(r'data-measured="(\d+) (\d+) (\d+)"', shown).groups()
    assert int(page_width) <= int(window) <= 1280
    assert wide == "0"
