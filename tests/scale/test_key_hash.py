"Which bucket a key belongs to is the same for ever, for any type of key and any number of rows."

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mlkit.pieces import key_hash

KEYS = pl.DataFrame(
    {
        "who": np.array([0, -1, 2**63 - 1], np.int64),
        "place": ["", "é", "x" * 300],
        "flag": [True, False, True],
    }
)


@pytest.mark.parametrize(
    "key, expected",
    [
        (["who"], [427, 535, 74]),
        (["place"], [427, 429, 645]),
        (["place", "who", "flag"], [627, 65, 667]),
    ],
)
def test_hashes_are_what_they_always_were(key, expected):
    assert [h % 997 for h in key_hash(KEYS, key).tolist()] == expected


def test_of_more_texts_than_are_hashed_at_once():
    shops = pl.DataFrame({"place": [f"shop {i % 999}" for i in range(70_000)]})
    assert (key_hash(shops, ["place"])[-999:] == key_hash(shops[-999:], ["place"])).all()


@pytest.mark.parametrize("dtype", [pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt32, pl.UInt64])
def test_of_whole_numbers_of_any_width(dtype):
    frame = pl.DataFrame({"who": [0, 1, 127]})
    assert (key_hash(frame.cast(dtype), ["who"]) == key_hash(frame, ["who"])).all()


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["a", "é", ""])])
def test_of_words(dtype):
    frame = pl.DataFrame({"place": ["a", "é", ""]})
    assert (key_hash(frame.cast(dtype), ["place"]) == key_hash(frame, ["place"])).all()


def test_of_no_rows():
    assert key_hash(KEYS.clear(), ["who", "place"]).shape == (0,)
