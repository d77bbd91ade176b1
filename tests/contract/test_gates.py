"Gates hold a candidate to limits that are relative to the base rate; checks take every type."

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from helpers import FEATURES
from sklearn.metrics import average_precision_score

from mlkit.checks import Check, Limits, check_invariances, check_model, gates
from mlkit.intervals import resampled
from mlkit.models import ModelError, matrix
from mlkit.promises import out_of_fold
from mlkit.questions import Bounds
from mlkit.recipes import Backtest, Compute, Recipe, fit

PASSED = [Check("a contract", True)]
RATES = [0.007, 0.05, 0.37]


def record(
    base_rate: float, shift: float = 0.0, noise: float = 0.0, rows: int = 40_000
) -> Backtest:
    """A backtest of two folds, four rows an entity; on the earlier one, margins are `shift` too
    high, on both they are off by `noise`."""
    draw = np.random.default_rng(3)
    a = min(0.5, 7 * base_rate)  # what is rare can be told from the rest all the same
    p = draw.beta(a, a / base_rate - a, rows).clip(1e-9, 1 - 1e-9)
    labels = (draw.random(rows) < p).astype(int)
    fold = np.repeat([0, 1], rows // 2)
    margins = np.log(p / (1 - p)) + shift * fold + noise * draw.normal(size=rows)
    return of_margins(margins, labels, fold, draw.integers(0, rows // 4, rows))


def of_margins(
    margins: np.ndarray, labels: np.ndarray, fold: np.ndarray, entity: np.ndarray
) -> Backtest:
    by_fold = [
        dict(ap=float(average_precision_score(labels[fold == k], margins[fold == k])))
        for k in range(2)
    ]
    rows = dict(weights=np.ones(fold.size), entity=entity, caught=np.zeros(fold.size, bool))
    return Backtest(Recipe("constant"), by_fold, margins, labels, fold, **rows)


def constant(like: Backtest) -> Backtest:
    return of_margins(np.zeros(like.margins.size), like.labels, like.fold, like.entity)


def answers(candidate: Backtest, champion: Backtest | None = None) -> dict[str, bool]:
    gated = gates(PASSED, candidate, constant(candidate), champion)
    return {gate.name: gate.passed for gate in gated}


@pytest.mark.parametrize("base_rate", RATES)
@pytest.mark.parametrize("shift, passes", [(0.0, True), (0.1, True), (2.0, False), (-3.0, False)])
def test_calibration_is_judged_relative_to_the_base_rate(base_rate, shift, passes):
    "An absolute limit of .02 refuses nothing at 1 % and honest models at 37 %."
    answered = answers(record(base_rate, shift))
    assert answered["calibrated out of time"] is passes


def test_no_fold_is_judged_by_a_calibration_that_saw_it():
    "What one fold says is mended by another: twice the same shift is no shift."
    apart = record(0.05, shift=2.0)
    assert not np.allclose(out_of_fold(apart), out_of_fold(record(0.05)), rtol=0.5)
    together = replace(apart, margins=record(0.05).margins + 2.0)
    assert np.allclose(out_of_fold(together), out_of_fold(record(0.05)), rtol=0.05)


def test_few_positives_allow_more():
    "They tell little: the limit widens by the standard error of the base rate."
    limits = [Limits().calibration_limit(n) for n in (0, 30, 400, 10_000)]
    assert limits == sorted(limits, reverse=True)
    assert limits[-1] == pytest.approx(0.275)


@pytest.mark.parametrize("base_rate", RATES)
@pytest.mark.parametrize("noise, passes", [(0.0, True), (0.05, True), (3.0, False)])
def test_a_candidate_may_lose_a_twentieth_of_the_lead(base_rate, noise, passes):
    answered = answers(record(base_rate, noise=noise), record(base_rate))
    assert answered["not worse than the champion"] is passes


def test_what_may_be_worse_is_not_certain_enough():
    "By its point it lost less than is allowed; with so few positives it may have lost much more."
    few = record(0.05, rows=2_000)
    other = replace(few, margins=record(0.05, noise=1.0, rows=2_000).margins)
    lost = (resampled(few, "ap") - resampled(other, "ap")).value
    lead = resampled(few, "ap").value - few.labels.mean()
    by_point = Limits(shortfall=1.01 * lost / lead)
    gated = gates(PASSED, other, constant(few), few, by_point)
    assert not gated[-1].passed
    certain = gates(PASSED, other, constant(few), few, Limits(shortfall=0.9))
    assert certain[-1].passed


def test_records_of_other_rows_are_not_compared():
    other = record(0.05, rows=2_000)
    [*_, compared] = gates(PASSED, record(0.05), constant(record(0.05)), other)
    assert not compared.passed
    assert "different rows" in compared.detail


def test_random_scores_are_refused():
    "Half of them are above the base rate; one in a hundred may pass by chance."
    own, passed = record(0.05, rows=3_000), 0
    for seed in range(100):
        drawn = np.random.default_rng(seed).normal(size=own.margins.size)
        candidate = of_margins(drawn, own.labels, own.fold, own.entity)
        passed += gates(PASSED, candidate, constant(own))[1].passed
    assert passed <= 5


@pytest.mark.parametrize("rows", [3_000, 40_000])
def test_a_weak_model_that_is_better_than_chance_passes(rows):
    "Few positives are enough for one that knows something."
    assert answers(record(0.05, noise=2.0, rows=rows))["better than chance"]


def test_a_constant_is_no_better_than_chance():
    assert not answers(constant(record(0.05)))["better than chance"]


def test_a_lucky_entity_is_no_evidence():
    "All positives found are one customer's: without it, nothing is left."
    own = record(0.05, rows=3_000)
    entity = np.where(own.labels == 1, 0, own.entity + 1)
    margins = np.random.default_rng(1).normal(size=entity.size) + 0.2 * own.labels
    apart, together = (
        resampled(of_margins(margins, own.labels, own.fold, e), "ap") for e in (own.entity, entity)
    )
    assert np.ptp(together.interval()) > 1.5 * np.ptp(apart.interval())


def test_a_failed_check_is_named():
    failed = [Check("rows are independent", False), *PASSED]
    [contract, *_] = gates(failed, record(0.05), constant(record(0.05)))
    assert not contract.passed
    assert contract.detail == "rows are independent"


# %% Every type of feature


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    "Rows with numbers, flags and categories, each missing here and there."
    draw = np.random.default_rng(8)
    rows = 400
    columns = {}
    for feature in FEATURES.features:
        values = draw.integers(0, 2, rows)
        if feature.words:
            column = pl.Series([feature.words[i % len(feature.words)] for i in values])
        else:
            column = pl.Series(values)
        known = pl.Series(draw.random(rows) < 0.9)
        columns[feature.name] = column.cast(feature.dtype).zip_with(
            known, pl.Series([None] * rows, dtype=feature.dtype)
        )
    return pl.DataFrame(columns).with_columns(label=pl.Series(draw.random(rows) < 0.3))


@pytest.mark.parametrize("kind", ["constant", "logistic", "xgboost"])
def test_checks_take_every_type_of_feature(kind, frame):
    "Categories, flags, numbers and what is missing."
    assert {"Enum", "Boolean", "Int64", "Float64"} <= {
        str(t).partition("(")[0] for t in frame.dtypes
    }
    model = fit(Recipe(kind), frame, FEATURES.inputs, FEATURES.hash, Compute(threads=1))
    checks = check_model(model, FEATURES, frame, 1000, Bounds(alone_seconds=0.3, calls=500))
    same = SimpleNamespace(name="nothing changes", allowed="same", change=dict)
    rebuilt = SimpleNamespace(
        name="rebuilt by name",
        allowed="up",
        change=lambda values: values | {f.name: values[f.name] for f in FEATURES.features},
    )
    checks += check_invariances(model, [same, rebuilt], frame)
    assert not [check for check in checks if not check.passed]
    assert matrix(frame, model.features).shape == (frame.height, len(FEATURES.inputs))


def test_a_model_is_tried_on_rows(frame):
    model = fit(Recipe("constant"), frame, FEATURES.inputs)
    with pytest.raises(ModelError, match="there are none"):
        check_model(model, FEATURES, frame.clear())
