"Gates hold a candidate to limits that are relative to the base rate; checks take every type."

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from helpers import FEATURES

from mlkit.checks import Check, Limits, check_invariances, check_model, gates
from mlkit.models import ModelError, matrix
from mlkit.promises import out_of_fold
from mlkit.recipes import Backtest, Compute, Recipe, fit

PASSED = [Check("a contract", True)]
RATES = [0.007, 0.05, 0.37]


def record(base_rate: float, shift: float = 0.0, ap: float = 0.5, rows: int = 60_000) -> Backtest:
    "A backtest of two folds; on the earlier one, margins are `shift` too high."
    draw = np.random.default_rng(3)
    p = draw.beta(0.5, 0.5 / base_rate - 0.5, rows).clip(1e-9, 1 - 1e-9)
    labels = (draw.random(rows) < p).astype(int)
    fold = np.repeat([0, 1], rows // 2)
    margins = np.log(p / (1 - p)) + shift * fold
    return Backtest(Recipe("constant"), [dict(ap=ap)] * 2, margins, labels, fold, np.ones(rows))


def answers(candidate: Backtest, base: float, champion: Backtest | None = None) -> dict[str, bool]:
    baseline = record(base, ap=base)
    return {gate.name: gate.passed for gate in gates(PASSED, candidate, baseline, champion)}


@pytest.mark.parametrize("base_rate", RATES)
@pytest.mark.parametrize("shift, passes", [(0.0, True), (0.1, True), (2.0, False), (-3.0, False)])
def test_calibration_is_judged_relative_to_the_base_rate(base_rate, shift, passes):
    "An absolute limit of .02 refuses nothing at 1 % and honest models at 37 %."
    answered = answers(record(base_rate, shift), base_rate)
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
def test_a_candidate_may_lose_a_twentieth_of_the_lead(base_rate):
    lead = 0.4
    champion = record(base_rate, ap=base_rate + lead)
    near = record(base_rate, ap=base_rate + 0.96 * lead)
    far = record(base_rate, ap=base_rate + 0.94 * lead)
    assert answers(near, base_rate, champion)["not worse than the champion"]
    assert not answers(far, base_rate, champion)["not worse than the champion"]


def test_a_champion_below_the_base_rate_lends_no_tolerance():
    champion = record(0.05, ap=0.04)
    assert not answers(record(0.05, ap=0.03), 0.05, champion)["not worse than the champion"]


def test_what_is_no_better_than_the_base_rate_is_refused():
    assert not answers(record(0.05, ap=0.05), 0.05)["better than the base rate"]


def test_a_failed_check_is_named():
    failed = [Check("rows are independent", False), *PASSED]
    [contract, *_] = gates(failed, record(0.05), record(0.05, ap=0.05))
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
    checks = check_model(model, FEATURES, frame, latency_budget_ms=1000)
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
