"""The critical test: any model is replaced by a worse or a better one.

Here with two that are promoted and two that are refused; `make replaceability` has all of them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from command import ROOT, SMALL, Kit
from replacing import Candidate, serve_and_replace

pytestmark = pytest.mark.pipeline

LONG = os.environ.get("MLKIT_REPLACEABILITY") == "long"
HOTEL = ROOT.parent / "shared" / "data" / "hotel_bookings.parquet"
TABLE = Path(__file__).with_name("replaceability.json")
CONTRACT, CHANCE = "keeps the model contract", "better than chance"

GOOD = [
    Candidate("logistic regression", "logistic"),
    Candidate("scikit-learn's forest, by ONNX", "onnx", "forest"),
]
BAD = [
    Candidate("scores by a hash of the row", "defect random", passes=False, refused_for=CHANCE),
    Candidate(
        "wrong beyond row 20,000", "defect by length", passes=False, refused_for="rows are indep"
    ),
]
ALL_GOOD = [
    Candidate("a constant", "constant"),
    Candidate("random by hash, over the gates", "defect random"),
    *GOOD,
    Candidate("a shallow tree, by ONNX", "onnx", "shallow tree"),
    Candidate("logistic regression of scikit-learn, by ONNX", "onnx", "line"),
    Candidate("a neural network, by ONNX", "onnx", "network"),
    Candidate("three together, by ONNX", "onnx", "three together"),
    Candidate("LightGBM, trained here", "lightgbm"),
    Candidate("LightGBM, from a file", "lightgbm", "lightgbm"),
    Candidate("XGBoost, not tuned", "xgboost"),
    Candidate("XGBoost, tuned", "xgboost", trials=8),
]


def refused() -> list[Candidate]:
    "The whole catalogue of defects."
    from mlkit.defects import REFUSED_BY

    return [
        Candidate(kind.__doc__ or "", kind.kind, passes=False, refused_for=check)
        for kind, check in REFUSED_BY.items()
    ] + [BAD[0]]


def test_any_model_takes_the_place_of_any_other(tmp_path: Path) -> None:
    "Pipeline, infrastructure and interface stay as they are, and the service answers on."
    rows = serve_and_replace(Kit(tmp_path), "fraud", SMALL, GOOD + BAD)
    assert [row["outcome"].partition(":")[0].split()[0] for row in rows] == [
        "promoted",
        "promoted",
        "refused",
        "refused",
    ]


@pytest.mark.skipif(not LONG, reason="make replaceability runs it; it takes an hour")
@pytest.mark.parametrize("usecase", ["fraud", "hotel"])
def test_every_model_takes_the_place_of_every_other(tmp_path: Path, usecase: str) -> None:
    "And every defect is refused; the table of both use cases is kept for the site."
    source = ["--source", str(HOTEL)] if usecase == "hotel" else []
    if source and not HOTEL.exists():
        pytest.skip(f"{HOTEL.name} is not there")
    run = [*source, "-p", "trials=2", "-p", "limit=200"]
    bad = refused() if usecase == "fraud" else BAD
    rows = serve_and_replace(Kit(tmp_path), usecase, run, ALL_GOOD + bad)
    known = json.loads(TABLE.read_text()) if TABLE.exists() else []
    kept = [row for row in known if row["usecase"] != usecase]
    TABLE.write_text(json.dumps(kept + rows, indent=1) + "\n")
