"The search for parameters: resumable, and none the worse for what failed on the way."

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlkit import training
from mlkit.training import START, Recipe, tune


class Judged:
    "What `backtest` gives; as good as the trees are shallow."

    def __init__(self, recipe: Recipe):
        self.ap = 1 / recipe.params["max_depth"]

    def mean(self, metric: str) -> float:
        return self.ap


def test_trials_that_failed_are_made_up_for(tmp_path: Path, monkeypatch: Any) -> None:
    "A cluster that is not there, say: the same command goes on, and tries as often as was asked for, the usual setting first."
    tried: list[dict[str, Any]] = []

    def judge(recipe: Recipe, *_: Any, **__: Any) -> Judged:
        tried.append(recipe.params)
        return Judged(recipe)

    def fails(*_: Any, **__: Any) -> Judged:
        raise RuntimeError("no workers")

    search = lambda: tune(
        Recipe("xgboost", dict(START)),
        [],
        [],
        "customer_id",
        3,
        tmp_path / "studies.db",
        "a search",
    )
    monkeypatch.setattr(training, "backtest", fails)
    for _ in range(4):
        with pytest.raises(RuntimeError, match="no workers"):
            search()
    monkeypatch.setattr(training, "backtest", judge)
    best, trials = search()
    assert len(tried) == 3 and {k: tried[0][k] for k in START} == START
    assert [t["state"] for t in trials].count("FAIL") == 4 and [t["state"] for t in trials].count(
        "COMPLETE"
    ) == 3
    assert best.params["max_depth"] == min(p["max_depth"] for p in tried)
    assert search()[0] == best and len(tried) == 3
