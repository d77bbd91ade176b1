"One row through XGBoost's C interface: the bits of its wrapper, in every thread, or the wrapper."

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit import kinds
from mlkit.kinds import Trees
from mlkit.modelfiles import load_model, save_model
from mlkit.models import Examples

LARGEST = float(np.finfo(np.float32).max)
ODD = [np.nan, 0.0, -0.0, 1e-45, -1e-300, LARGEST, -LARGEST, 1 / 3, 2**24 + 1.0, np.inf]


def trees(seed: int, features: int, **params: Any) -> Trees:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(400, features))
    x[draw.random(x.shape) < 0.1] = np.nan
    y = (draw.random(400) < 0.2).astype(int)
    model = Trees([f"f{i}" for i in range(features)])
    model.fit(Examples(x, y), Trees.start | dict(n_estimators=20) | params)
    return model


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 7))
def test_one_row_has_the_bits_of_many(seed: int, features: int, depth: int) -> None:
    "Of generated trees, on generated rows with every odd number."
    model = trees(seed, features, max_depth=depth)
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(60, features))
    odd = draw.random(x.shape) < 0.3
    x[odd] = draw.choice(ODD, odd.sum())
    together = model.booster.inplace_predict(x, predict_type="margin").astype(np.float64)
    assert model.one_row is not None
    alone = np.concatenate([model.margin(x[i : i + 1]) for i in range(len(x))])
    assert alone.tobytes() == together.tobytes()
    assert model.margin(np.asfortranarray(x)[:1]).tobytes() == together[:1].tobytes()
    assert model.margin(x[::2][1:2]).tobytes() == together[2:3].tobytes()


def test_every_thread_has_a_row_of_its_own() -> None:
    model = trees(1, 6)
    x = np.random.default_rng(2).normal(size=(3000, 6))
    together = model.margin(x)

    def score(part: int) -> bool:
        rows = range(part, len(x), 6)
        return all(model.margin(x[i : i + 1])[0] == together[i] for i in rows)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(score, range(6)))


def test_read_back_and_fitted_anew_it_is_the_new_model(tmp_path: Path) -> None:
    model, x = trees(1, 3), np.array([[0.5, np.nan, -1.0]])
    save_model(model, tmp_path / "model")
    assert load_model(tmp_path / "model").margin(x).tobytes() == model.margin(x).tobytes()
    other = trees(2, 3)
    model._take(other.booster)
    assert model.margin(x).tobytes() == other.margin(x).tobytes() != trees(1, 3).margin(x).tobytes()


def fails(*_: Any, **__: Any) -> Any:
    raise AttributeError("no such function in this version")


def test_a_version_without_the_call_uses_the_wrapper(monkeypatch: Any) -> None:
    monkeypatch.setattr(kinds._OneRow, "__init__", fails)
    model, x = trees(1, 3), np.array([[0.5, np.nan, -1.0]])
    assert model.one_row is None
    assert model.margin(x)[0] == model.booster.inplace_predict(x, predict_type="margin")[0]


def test_a_version_that_answers_otherwise_is_not_used(monkeypatch: Any) -> None:
    monkeypatch.setattr(kinds._OneRow, "margin", lambda self, x: 7.0)
    assert trees(1, 3).one_row is None


@pytest.mark.parametrize("rows", [0, 2, 5])
def test_other_numbers_of_rows_take_the_wrapper(rows: int, monkeypatch: Any) -> None:
    model = trees(1, 3)
    monkeypatch.setattr(kinds._OneRow, "margin", fails)
    assert model.margin(np.zeros((rows, 3))).shape == (rows,)
