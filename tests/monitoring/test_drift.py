"Drift is what it is known to be: near 0 without a change, the closed form for a known one."

from __future__ import annotations

from datetime import date, datetime, timedelta
from statistics import NormalDist

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlkit.drift import drift, ks, psi

NORMAL = NormalDist()
LEAST = 1e-6  # what an empty bin counts as
WORDS = pl.Enum(["red", "green", "blue"])


def index(reference: list[float], current: list[float]) -> float:
    "The population stability index of known shares."
    r, c = (np.maximum(shares, LEAST) for shares in (reference, current))
    return float(((c - r) * np.log(c / r)).sum())


@pytest.mark.parametrize("shift", [0.2, 0.5, 1.0])
def test_of_a_normal_number_that_is_shifted(shift):
    before = pl.Series([NORMAL.inv_cdf((i + 0.5) / 20_000) for i in range(20_000)])
    after = before + shift
    cuts = [NORMAL.inv_cdf(i / 10) - shift for i in range(1, 10)]
    shares = np.diff([0.0, *(NORMAL.cdf(c) for c in cuts), 1.0])
    assert psi(before, after) == pytest.approx(index([0.1] * 10, shares), rel=0.002)
    assert ks(before, after) == pytest.approx(2 * NORMAL.cdf(shift / 2) - 1, abs=0.0001)


def test_of_an_unchanged_number_is_what_chance_makes_it():
    "Its mean is (bins − 1)·(1/n + 1/m), to the first order."
    rng, n, m = np.random.default_rng(2), 1000, 2000
    draw = lambda size: pl.Series(rng.normal(size=size))
    found = np.mean([psi(draw(n), draw(m)) for _ in range(300)])
    assert found == pytest.approx(9 * (1 / n + 1 / m), rel=0.15)


@pytest.mark.parametrize("after", [0.95, 0.9, 0.5, 0.0])
def test_of_a_number_that_is_mostly_zero(after):
    "Zeros that become something else are seen, though every decile is 0."
    counts = lambda zeros: pl.Series([0] * round(1000 * zeros) + [3] * round(1000 * (1 - zeros)))
    truth = index([0.95, 0.05], [after, 1 - after])
    assert psi(counts(0.95), counts(after)) == pytest.approx(truth)
    assert ks(counts(0.95), counts(after)) == pytest.approx(0.95 - after)


@pytest.mark.parametrize("constant", [0, -7, 2.5])
def test_of_a_number_that_was_constant(constant):
    before = pl.Series([constant] * 100, dtype=pl.Float64)
    for after in (constant - 1, constant + 1):
        moved = pl.Series([after] * 100, dtype=pl.Float64)
        assert psi(before, moved) == pytest.approx(index([1, 0], [0, 1]))


@pytest.mark.parametrize("missing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("values", [[1.5, 2.5], [True, False], ["red", "blue"]])
def test_of_a_column_that_begins_to_be_missing(values, missing):
    before, n = pl.Series(values * 500), round(1000 * missing)
    after = pl.Series([None] * n + before.to_list()[n:], dtype=before.dtype)
    truth = index([0.5, 0.5, 0], [(1 - missing) / 2, (1 - missing) / 2, missing])
    assert psi(before, after) == pytest.approx(truth)


def test_of_words():
    before = pl.Series(["red"] * 60 + ["green"] * 40, dtype=WORDS)
    after = pl.Series(["red"] * 30 + ["green"] * 40 + ["blue"] * 30, dtype=WORDS)
    assert psi(before, after) == pytest.approx(index([0.6, 0.4, 0], [0.3, 0.4, 0.3]))
    assert ks(before, after) is None
    row = drift(pl.DataFrame({"hue": before}), pl.DataFrame({"hue": after}), ["hue"]).row(0)
    assert row[3:6] == ("blue", 0.0, 0.3)


def test_of_words_that_another_enum_or_a_file_knows_by_another_type():
    before = pl.Series(["red", "green"] * 50, dtype=WORDS)
    for dtype in (pl.String, pl.Categorical, pl.Enum(["green", "red", "grey"])):
        assert psi(before, before.cast(pl.String).cast(dtype)) == 0


NUMBERS = [
    *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.Int128),
    *(pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64),
    *(pl.Float32, pl.Float64, pl.Decimal(9, 2)),
]


def columns(some: list[int | None]) -> dict[str, pl.Series]:
    "Columns of every type that a feature can have, and of moments, from small numbers."
    numbers = pl.Series(some, dtype=pl.Int64)
    midnight = datetime(2025, 1, 1)
    as_time = lambda i: None if i is None else midnight + timedelta(hours=i)
    as_day = lambda i: None if i is None else date(2025, 1, 1) + timedelta(days=i)
    made = {str(dtype): numbers.cast(dtype) for dtype in NUMBERS}
    made["flag"] = numbers % 2 == 0
    made["word"] = (numbers % 3).replace_strict(range(3), WORDS.categories, return_dtype=WORDS)
    made["moment"] = pl.Series([as_time(i) for i in some], dtype=pl.Datetime("us", "UTC"))
    made["day"] = pl.Series([as_day(i) for i in some], dtype=pl.Date)
    made["nothing"] = pl.Series([None] * len(some), dtype=pl.Null)
    return made


@given(
    st.lists(st.one_of(st.none(), st.integers(0, 100)), max_size=30),
    st.lists(st.one_of(st.none(), st.integers(0, 100)), max_size=30),
)
def test_of_every_type(some, others):
    "A finite table; of the same rows in another order 0; numbers agree whatever their width."
    a, b = pl.DataFrame(columns(some)), pl.DataFrame(columns(others))
    table = drift(a, b, a.columns)
    assert sorted(table["feature"]) == sorted(a.columns)
    assert table["psi"].is_finite().all()
    assert (table["psi"] >= 0).all()
    assert drift(a, a.reverse(), a.columns)["psi"].to_list() == [0.0] * a.width
    by_name = {row["feature"]: row for row in table.to_dicts()}
    indices = {by_name[str(dtype)]["psi"] for dtype in NUMBERS}
    assert len(indices) == 1
    assert by_name["word"]["ks"] is None
    assert 0 <= by_name["flag"]["ks"] <= 1
