"The search for parameters: resumable, and none the worse for what failed on the way."

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlkit import tuning
from mlkit.datasets import TrainingError, made_up_data
from mlkit.kinds import Trees
from mlkit.recipes import Recipe
from mlkit.tuning import Search, tune


class Judged:
    "What `backtest` gives; as good as the trees are shallow."

    def __init__(self, recipe: Recipe):
        self.ap = 1 / recipe.params["max_depth"]

    def mean(self, metric: str) -> float:
        return self.ap


def test_trials_that_failed_are_made_up_for(tmp_path: Path, monkeypatch: Any) -> None:
    "The same command goes on, and tries as often as was asked for, the usual setting first."
    tried: list[dict[str, Any]] = []
    data = made_up_data()

    def judge(recipe: Recipe, *_: Any, **__: Any) -> Judged:
        tried.append(recipe.params)
        return Judged(recipe)

    def fails(*_: Any, **__: Any) -> Judged:
        raise RuntimeError("no workers")

    search = Search(3, tmp_path / "studies.db", "a search")
    monkeypatch.setattr(tuning, "backtest", fails)
    for _ in range(4):
        with pytest.raises(RuntimeError, match="no workers"):
            tune(Recipe(), data, search)
    monkeypatch.setattr(tuning, "backtest", judge)
    best, trials = tune(Recipe(), data, search)
    assert len(tried) == 3
    assert tried[0] == Trees.start
    states = [trial["state"] for trial in trials]
    assert (states.count("FAIL"), states.count("COMPLETE")) == (4, 3)
    assert best.params["max_depth"] == min(params["max_depth"] for params in tried)
    assert tune(Recipe(), data, search)[0] == best
    assert len(tried) == 3


def test_a_search_that_cannot_judge_ends(tmp_path: Path, monkeypatch: Any) -> None:
    "optuna/optuna#2727: to Optuna a value that is no number is a failure."
    monkeypatch.setattr(Judged, "mean", lambda self, metric: float("nan"))
    monkeypatch.setattr(tuning, "backtest", lambda recipe, *_: Judged(recipe))
    with pytest.raises(TrainingError, match="no average precision .* -p trials=0"):
        tune(Recipe(), made_up_data(), Search(3, tmp_path / "studies.db", "a search"))
