"Trees fitted on a cluster: the same contract, and nearly the same ranking."

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from mlkit.checks import check_invariances, check_model
from mlkit.etl import to_events
from mlkit.frames import offline
from mlkit.metrics import evaluate
from mlkit.models import load_model, matrix, save_model
from mlkit.training import START, Recipe, fit, folds, test_frame, train, training_frame
from mlkit.usecases.fraud import SIMULATOR, Label, Transaction, usecase
from mlkit.usecases.simulator import simulate


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    "A training frame, folds and a test frame of simulated payments."
    events, _ = to_events(SIMULATOR, simulate(customers=600, terminals=1200, days=80))
    events = {s: e.with_columns(seq=pl.int_range(pl.len())) for s, e in events.items()}
    features = offline(usecase.features, events[Transaction], events)
    cut = (events[Transaction]["event_time"].min() + timedelta(days=70)).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    around = (events[Transaction], events[Label], features, cut)
    return dict(
        frame=training_frame(usecase.labels, usecase.plan, *around),
        folds=folds(usecase.labels, usecase.plan, usecase.entity, *around),
        test=test_frame(usecase.labels, usecase.plan, usecase.entity, *around),
    )


def trained(made: dict[str, Any], tmp_path: Any, cluster: Any) -> Any:
    return train(
        Recipe(increasing=usecase.increasing),
        made["frame"],
        made["folds"],
        usecase.features.names,
        usecase.features.hash,
        usecase.entity,
        0,
        tmp_path / "unused.db",
        "unused",
        threads=1,
        cluster=cluster,
    )


def test_a_model_fitted_by_dask_is_a_model_like_any_other(client, made, tmp_path):
    there, here = trained(made, tmp_path, client), trained(made, tmp_path, None)
    failed = [
        c
        for c in check_model(there.model, usecase.features, made["test"], latency_budget_ms=1000)
        if not c.passed
    ]
    failed += [
        c for c in check_invariances(there.model, usecase.invariances, made["test"]) if not c.passed
    ]
    assert not failed
    assert (there.model.kind, there.model.features, there.rows, sorted(there.backtests)) == (
        here.model.kind,
        here.model.features,
        here.rows,
        sorted(here.backtests),
    )
    save_model(there.model, tmp_path / "model")
    x = matrix(made["test"], there.model.features)
    assert load_model(tmp_path / "model").score(x).tobytes() == there.model.score(x).tobytes()
    judged = {
        name: evaluate(made["test"].with_columns(score=pl.Series(t.model.score(x))), usecase.entity)
        for name, t in dict(dask=there, here=here).items()
    }
    print({name: {k: round(m[k], 4) for k in ("auc", "ap", "cp100")} for name, m in judged.items()})
    assert (
        abs(judged["dask"]["auc"] - judged["here"]["auc"]) < 0.02
        and abs(judged["dask"]["ap"] - judged["here"]["ap"]) < 0.05
    )
    assert np.corrcoef(there.model.margin(x), here.model.margin(x))[0, 1] > 0.95


def test_the_cluster_sees_every_row_once(client, made):
    "Without splits there is one leaf, and it depends on the sum over all rows alone."
    stump = Recipe(
        params={**START, "n_estimators": 1, "max_depth": 1, "gamma": 1e9}, imbalance="none"
    )
    there, here = (
        fit(stump, made["frame"], usecase.features.names, cluster=c) for c in (client, None)
    )
    x = matrix(made["test"], usecase.features.names)
    assert there.margin(x) == pytest.approx(here.margin(x), rel=1e-5)
