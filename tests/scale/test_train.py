"Trees fitted on a cluster: the same contract, and nearly the same ranking."

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from mlkit.checks import check_invariances, check_model
from mlkit.datasets import Data
from mlkit.formats import to_events
from mlkit.frames import offline
from mlkit.metrics import evaluate
from mlkit.modelfiles import load_model, save_model
from mlkit.models import matrix
from mlkit.recipes import Compute, Recipe, fit
from mlkit.training import train
from mlkit.usecases.fraud import SIMULATOR, Label, Transaction, usecase
from mlkit.usecases.simulator import simulate


@pytest.fixture(scope="module")
def data() -> Data:
    "Simulated payments, cut after ten weeks."
    events, _ = to_events(SIMULATOR, simulate(customers=600, terminals=1200, days=80))
    events = {s: e.with_columns(seq=pl.int_range(pl.len())) for s, e in events.items()}
    features = offline(usecase.features, events[Transaction], events)
    cut = (events[Transaction]["event_time"].min() + timedelta(days=70)).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    return Data(
        usecase.labels,
        usecase.plan,
        usecase.entity,
        events[Transaction],
        events[Label],
        features,
        cut,
        usecase.features.names,
        usecase.features.hash,
    )


def trained(data: Data, cluster: Any) -> Any:
    recipe = Recipe(increasing=usecase.increasing)
    return train(recipe, data, compute=Compute(threads=1, cluster=cluster))


def test_a_model_fitted_by_dask_is_a_model_like_any_other(client, data, tmp_path):
    "It keeps the contract and the invariances, is explained as any, saved as any, and ranks alike."
    there, here = trained(data, client), trained(data, None)
    test = data.test_frame()
    checks = check_model(there.model, usecase.features, test, latency_budget_ms=1000)
    checks += check_invariances(there.model, usecase.invariances, test)
    assert not [check for check in checks if not check.passed]
    assert (there.model.kind, there.model.features) == (here.model.kind, here.model.features)
    assert (there.rows, sorted(there.backtests)) == (here.rows, sorted(here.backtests))
    save_model(there.model, tmp_path / "model")
    x = matrix(test, there.model.features)
    assert load_model(tmp_path / "model").score(x).tobytes() == there.model.score(x).tobytes()
    by_dask, by_one = (
        evaluate(test.with_columns(score=pl.Series(t.model.score(x))), usecase.entity)
        for t in (there, here)
    )
    assert abs(by_dask["auc"] - by_one["auc"]) < 0.02
    assert abs(by_dask["ap"] - by_one["ap"]) < 0.05
    assert np.corrcoef(there.model.margin(x), here.model.margin(x))[0, 1] > 0.95


def test_the_cluster_sees_every_row_once(client, data):
    "Without splits there is one leaf, and it depends on the sum over all rows alone."
    stump = Recipe(params=dict(n_estimators=1, max_depth=1, gamma=1e9))
    frame = data.training_frame()
    there, here = (fit(stump, frame, data.inputs, compute=Compute(1, c)) for c in (client, None))
    x = matrix(data.test_frame(), data.inputs)
    assert there.margin(x) == pytest.approx(here.margin(x), rel=1e-5)
