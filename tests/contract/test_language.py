"The feature language: classes that extend others, the catalogue, conditions, categories."

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from helpers import Pay, as_frame, assert_same_bits, pays, view

from mlkit.events import Stream, at_least, below, between, present
from mlkit.features import FeatureSet, FeatureView
from mlkit.fields import Key, Text
from mlkit.frames import offline
from mlkit.models import matrix, row
from mlkit.requests import Online


class Plain(FeatureView, key="who"):
    n = Pay.count(over=["1d"])


class Other(FeatureView, key="who"):
    total = Pay.sum("amount", over=["7d"])


def test_a_stream_that_extends_another_has_its_fields():
    class Refund(Pay):
        why = Text()

    class Till(Stream):
        till = Key()

    class Sale(Pay, Till):
        pass

    assert list(Refund.fields) == [*Pay.fields, "why"]
    assert Refund.name == "refund"
    assert list(Sale.fields) == ["event_id", "event_time", "till", *list(Pay.fields)[2:]]


def test_a_view_that_extends_another_has_its_key_and_features():
    class More(Plain):
        spend = Pay.mean("amount", over=["7d"])

    class Both(Plain, Other):
        pass

    assert FeatureSet(Pay, [More]).names == ["more_n_1d", "more_spend_7d"]
    assert More.key == ("who",)
    assert set(Both.members) == {"n", "total"}


def test_the_catalogue_speaks_in_units():
    "Amounts as they are written, missing values as such, expressions whole."

    class Strict(FeatureView, key="who"):
        "What is known."

        n = Pay.count(
            over=["1d"], where=dict(amount=between(0.5, 50), shade=[None, "red"], online=True)
        )

    class Row(FeatureView):
        "At the moment."

        card = pl.col("kind") == "card"

    meanings = FeatureSet(Pay, [Strict, Row]).catalogue()["meaning"].to_list()
    conditions = "amount >= 0.5 and < 50 and online = True and shade = missing or red"
    assert meanings == [
        f"number of pay events ({conditions}) of the same who within 1d",
        'At the moment: (kind) == ("card")',
    ]


def test_categories_reach_a_model_as_one_column_a_word():
    "Training's frame and serving's row are the same numbers; a missing word is missing in all."
    views = [
        view(dict(how=Pay.last("kind", over=["7d"]))),
        type("Row", (FeatureView,), {"shade": pl.col("shade")}),
    ]
    features = FeatureSet(Pay, views)
    rows = pays(3, shade=lambda i: [None, "red", "blue"][i])
    frame = offline(features, rows, {Pay: rows})
    kinds = [f"who_how_7d={word}" for word in ("card", "cash")]
    shades = [f"shade={word}" for word in ("red", "green", "blue")]
    assert features.inputs == kinds + shades
    x = matrix(frame, features.inputs)
    assert np.array_equal(x[1], [1, 0, 1, 0, 0])
    assert np.isnan(x[0]).all()
    one_by_one = np.vstack([row(r, features.inputs) for r in frame.to_dicts()])
    assert np.array_equal(x, one_by_one, equal_nan=True)


@pytest.mark.parametrize(
    "wanted, counted",
    [
        (at_least(5), [0, 0, 1, 2]),
        (below(5), [1, 2, 2, 2]),
        (between(0, 5.01), [1, 2, 3, 3]),
        (present(), [1, 2, 3, 4]),
        ([0, 7], [1, 1, 1, 2]),
    ],
)
def test_conditions_include_their_lower_bound_only(wanted, counted):
    rows = pays(4, amount=lambda i: (0, 499, 500, 700)[i])
    features = FeatureSet(Pay, [view(dict(n=Pay.count(over=["1d"], where=dict(amount=wanted))))])
    assert offline(features, rows, {Pay: rows})["who_n_1d"].to_list() == counted


def test_what_is_not_finite_is_missing_everywhere():
    class Row(FeatureView):
        undefined = pl.col("amount") / pl.col("amount")
        endless = 1 / pl.col("amount")
        then = (1 / pl.col("amount")).is_null()

    features = FeatureSet(Pay, [Row])
    rows = pays(2, amount=lambda i: 100 * i)
    frame = offline(features, rows, {}).drop("event_id")
    assert frame["undefined"].to_list() == [None, 1.0]
    assert frame["endless"].to_list() == [None, 1.0]
    answers = [Online(features)(r, None) for r in rows.to_dicts()]
    assert_same_bits(as_frame(answers, features), frame)


def test_a_measure_under_its_own_name_makes_no_second_level():
    "Reading it, or another field, is one evaluation; reading a computed feature is two."

    class Row(FeatureView):
        amount = pl.col("amount")
        half = pl.col("amount") / 2

    class Later(FeatureView):
        quarter = pl.col("half") / 2

    assert len(FeatureSet(Pay, [Row]).row_exprs) == 1
    assert len(FeatureSet(Pay, [Row, Later]).row_exprs) == 2
    rows = pays(3)
    features = FeatureSet(Pay, [Row, Later])
    answers = [Online(features)(r, None) for r in rows.to_dicts()]
    assert_same_bits(as_frame(answers, features), offline(features, rows, {}).drop("event_id"))
