"Late labels are measured and stood for: what is estimated at a cut is what the simulator knows."

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import polars as pl
import pytest

from mlkit.datasets import Data
from mlkit.events import Stream
from mlkit.fields import TIME, Category, Flag, Text
from mlkit.maturity import Maturity, measure
from mlkit.promises import promise
from mlkit.recipes import Backtest, Compute, Recipe, backtest, calibrate, probabilities
from mlkit.splits import LabelRule, Plan, SplitError

CUT = datetime(2025, 4, 1, tzinfo=timezone.utc)


class Verdict(Stream):
    of = Text()
    bad = Flag(optional=True)
    source = Category(values=("outcome", "review"))


RULE = LabelRule(Verdict, refers="of", value="bad", by_review=("source", "review"))


def late(seed: int, rows: int = 20_000, days: int = 80) -> pl.DataFrame:
    "A fifth are bad; these become known after a lognormal delay, the others in seven days."
    draw = np.random.default_rng(seed)
    bad = draw.random(rows) < 0.2
    delay = np.where(bad, 5 * np.exp(0.6 * draw.normal(size=rows)), 7.0)
    before = draw.random(rows) * days
    when = [CUT - timedelta(days=float(d)) for d in before]
    known = [w + timedelta(days=float(d)) for w, d in zip(when, delay, strict=True)]
    times = dict(event_time=pl.Series(when, dtype=TIME), known=pl.Series(known, dtype=TIME))
    ids = [f"r{i}" for i in range(rows)]
    return pl.DataFrame(dict(event_id=ids, who=draw.integers(0, 500, rows), bad=bad, **times))


def requests_of(world: pl.DataFrame) -> pl.DataFrame:
    return world.select("event_id", "event_time", "who")


def labels_of(world: pl.DataFrame, source: str = "outcome") -> pl.DataFrame:
    return world.select(
        event_id=pl.col("event_id") + f"/{source}",
        event_time="known",
        of="event_id",
        bad="bad",
        source=pl.lit(source),
        seq=pl.int_range(pl.len()),
    )


def measured(world: pl.DataFrame, at: datetime = CUT) -> Maturity:
    return measure(RULE, requests_of(world), labels_of(world), at)


def true_share(world: pl.DataFrame, days: float) -> float:
    delay = (pl.col("known") - pl.col("event_time")).dt.total_seconds() / 86_400
    return float(world.filter("bad").select((delay <= days).mean()).item())


@pytest.mark.parametrize("seed", range(5))
def test_the_share_that_is_known_is_the_true_one(seed: int) -> None:
    "Although the young requests show only their early labels, of which a plain count is misled."
    world = late(seed)
    maturity = measured(world)
    plain = world.filter(pl.col("bad") & (pl.col("known") < CUT))
    off = []
    for days in (3.0, 5.0, 7.0, 10.0, 20.0):
        true = true_share(world, days)
        share = float(maturity.positive.known(np.array([days]))[0])
        assert share == pytest.approx(true, abs=0.03)
        off.append(abs(true_share(plain, days) - true) - abs(share - true))
    assert np.mean(off) > 0.005
    assert maturity.negative.known(np.array([6.99, 7.01])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("seed", range(5))
def test_known_labels_stand_for_those_to_come(seed: int) -> None:
    "Of a week that is seven to fourteen days old, the bad are counted as they are."
    world = late(seed)
    age = (CUT - pl.col("event_time")).dt.total_seconds() / 86_400
    week = world.filter(age.is_between(7.001, 14))
    known = week.filter(pl.col("known") < CUT).rename({"bad": "label"})
    weights = measured(world).weights(known.with_columns(by_review=False))
    true = int(week["bad"].sum())
    counted = int(known["label"].sum())
    stood_for = float(weights[known["label"].to_numpy()].sum())
    assert counted < 0.93 * true
    assert stood_for == pytest.approx(true, rel=0.06)
    assert weights[~known["label"].to_numpy()].tolist() == [1.0] * int((~known["label"]).sum())


def test_labels_that_come_after_a_fixed_time_are_left_as_they_are() -> None:
    "As in the handbook, where every outcome takes seven days."
    world = late(0, rows=2000).with_columns(known=pl.col("event_time") + timedelta(days=7))
    known = world.filter(pl.col("known") < CUT).rename({"bad": "label"})
    weights = measured(world).weights(known.with_columns(by_review=False))
    assert weights.tolist() == [1.0] * known.height


def test_nothing_after_the_cut_is_looked_at() -> None:
    world = late(1, rows=3000)
    earlier = CUT - timedelta(days=20)
    other = pl.when(pl.col("known") >= earlier).then(~pl.col("bad")).otherwise(pl.col("bad"))
    changed = world.with_columns(bad=other)
    for one, two in zip(measured(world, earlier).table(), measured(changed, earlier).table()):
        assert one.to_list() == two.to_list()


def test_a_review_comes_when_somebody_looks() -> None:
    "It says nothing of how long outcomes take, and stands for itself."
    world = late(2, rows=3000)
    looked = world.head(500).with_columns(known=pl.col("event_time") + timedelta(hours=1))
    labels = pl.concat([labels_of(world.tail(2500)), labels_of(looked, "review")])
    mixed = measure(RULE, requests_of(world), labels, CUT)
    alone = measure(RULE, requests_of(world.tail(2500)), labels_of(world.tail(2500)), CUT)
    assert mixed.table().equals(alone.table())
    rows = looked.rename({"bad": "label"}).with_columns(by_review=True)
    assert mixed.weights(rows).tolist() == [1.0] * 500


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_labels_or_none_correct_nothing_wildly(rows: int) -> None:
    world = late(3, rows=400).filter("bad").head(rows)
    maturity = measured(world)
    frame = late(4, rows=50).rename({"bad": "label"}).with_columns(by_review=False)
    weights = maturity.weights(frame)
    assert weights.shape == (50,) and weights.min() >= 1 and weights.max() <= 10
    assert "positives" in maturity.advice(Plan())


def test_a_label_from_before_its_request_is_known_at_once() -> None:
    world = late(5, rows=100).with_columns(known=pl.col("event_time") - timedelta(days=1))
    assert measured(world).positive.known(np.array([0.1])).tolist() == [1.0]


def test_the_plan_says_what_is_done_about_late_labels() -> None:
    maturity = measured(late(0))
    share = f"{maturity.positive.known(np.array([7.0]))[0]:.0%} of the positives"
    assert share in maturity.advice(Plan()) and "counts for" in maturity.advice(Plan())
    assert "too low" in maturity.advice(Plan(late="ignore"))
    assert maturity.advice(Plan(wait=60)).endswith("100% of the positives are known")
    with pytest.raises(SplitError, match="late='perhaps': give 'weigh' or 'ignore'"):
        Plan(late="perhaps")


# %% In training


def data(world: pl.DataFrame, **plan: Any) -> Data:
    plan = dict(train=14, folds=4) | plan
    signal = np.random.default_rng(0).normal(size=world.height) + 1.5 * world["bad"].to_numpy()
    features = world.select("event_id", signal=pl.Series(signal))
    return Data(
        RULE, Plan(**plan), "who", requests_of(world), labels_of(world), features, CUT, ["signal"]
    )


@pytest.mark.parametrize("kind", ["constant", "logistic", "xgboost"])
def test_a_model_learns_the_base_rate_that_will_show(kind: str) -> None:
    "Weighted by what the labels stand for; without that, a tenth too low."
    world = late(7)
    rates = {}
    for how in ("weigh", "ignore"):
        record = backtest(Recipe(kind), data(world, late=how), Compute(1))
        latest = record.fold == 0
        one = calibrate(record.margins[latest], record.labels[latest], record.weights[latest])
        rates[how] = probabilities(record.margins[latest], one).mean()
    week = world.filter(
        pl.col("event_time").is_between(*(CUT - timedelta(days=d) for d in (14, 7)))
    )
    true = float(week["bad"].mean())  # type: ignore[arg-type]
    assert rates["weigh"] == pytest.approx(true, rel=0.06)
    assert rates["ignore"] < 0.94 * true


def test_a_probability_comes_true_for_all_who_are_served() -> None:
    "Those who are known already are positive more often, and are served all the same."
    world = late(8, rows=40_000)
    often = world["who"].to_numpy() < 50
    bad = np.where(often, np.random.default_rng(1).random(world.height) < 0.6, world["bad"])
    world = world.with_columns(bad=pl.Series(bad.astype(bool)))
    made = data(world)
    record = backtest(Recipe("xgboost"), made, Compute(1))
    served = sum(fold.served.height for fold in made.folds)
    tested = sum(fold.test.height for fold in made.folds)
    assert record.labels.size == served > 1.1 * tested
    kept = promise(record)
    assert sum(kept.expected) == pytest.approx(sum(kept.happened), rel=0.03)
    assert all(fold.test["label"].mean() < fold.served["label"].mean() for fold in made.folds)


# %% Promises


def record_of(draw: np.random.Generator, moved: np.ndarray, rows: int = 1000) -> Backtest:
    "Folds whose base rates have moved by these factors."
    p = draw.beta(0.5, 9.5, rows * len(moved)).clip(1e-6, 0.9)
    fold = np.repeat(np.arange(len(moved)), rows)
    labels = (draw.random(p.size) < np.minimum(p * moved[fold], 1)).astype(int)
    margins = np.log(p / (1 - p))
    by_fold = [dict(ap=0.5)] * len(moved)
    rows = dict(weights=np.ones(p.size), entity=np.arange(p.size), caught=np.zeros(p.size, bool))
    return Backtest(Recipe("constant"), by_fold, margins, labels, fold, **rows)


@pytest.mark.parametrize("spread", [0.0, 0.2])
def test_nine_promises_of_ten_are_kept(spread: float) -> None:
    "Whether the base rate moves or not; a promise that is kept always would say nothing."
    draw = np.random.default_rng(11)
    kept = []
    for _ in range(150):
        moved = np.exp(spread * draw.normal(size=5))
        record = record_of(draw, moved[:4])
        one = calibrate(record.margins, record.labels)
        p = draw.beta(0.5, 9.5, 1000).clip(1e-6, 0.9)
        expected = probabilities(np.log(p / (1 - p)), one).sum()
        happened = (draw.random(p.size) < np.minimum(p * moved[4], 1)).sum()
        kept.append(promise(record).held(expected, happened))
    assert 0.84 <= np.mean(kept) <= 0.98


def test_folds_that_disagree_promise_less() -> None:
    draw = np.random.default_rng(12)
    steady, unsteady = (
        promise(record_of(draw, np.array(moved))) for moved in ([1.0] * 4, [0.5, 1, 1.5, 1])
    )
    assert steady.spread < 0.2 < unsteady.spread


def test_folds_that_agree_by_luck_promise_no_more_than_chance_allows() -> None:
    record = record_of(np.random.default_rng(13), np.ones(2))
    same = replace(
        record, margins=np.tile(record.margins[:1000], 2), labels=np.tile(record.labels[:1000], 2)
    )
    low, high = promise(same).interval(100)
    assert low < 84 and high > 116


@pytest.mark.parametrize("expected", [0.01, 0.3, 2.0, 30.0])
def test_a_small_number_is_promised_as_chance_has_it(expected: float) -> None:
    "One positive where a third of one was expected breaks no promise; ten do."
    one = promise(record_of(np.random.default_rng(14), np.ones(4)))
    drawn = np.random.default_rng(15).poisson(expected, 2000)
    assert np.mean([one.held(expected, n) for n in drawn]) >= 0.9
    assert not one.held(expected, 3 * expected + 10)
