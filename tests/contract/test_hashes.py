"Hashes: what changes a value changes the set's, what changes the state changes the state's."

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import polars as pl
import pytest
from helpers import Pay, Transfer, view

from mlkit.events import Stream
from mlkit.features import FeatureSet, FeatureView
from mlkit.fields import Category, Fixed, Key, Text

CARDS = dict(kind="card", online=True)
BASE = dict(n=Pay.count(over=["1d", "7d"]), spend=Pay.mean("amount", over=["7d"], where=CARDS))


def made(
    members: dict[str, Any] = BASE,
    row: pl.Expr = pl.col("amount") / 2,
    doc: str = "",
    turned: bool = False,
) -> FeatureSet:
    views = [view({"__doc__": doc, **members}), type("Row", (FeatureView,), {"half": row})]
    return FeatureSet(Pay, views[::-1] if turned else views)


def spend(**options: Any) -> dict[str, Any]:
    "The base, with another `spend`."
    return {**BASE, "spend": Pay.mean("amount", over=["7d"], **options)}


SAME = {
    "a docstring": lambda: made(doc="What this customer does."),
    "the order of views": lambda: made(turned=True),
    "conditions in other words": lambda: made(
        spend(where=dict(online=True, kind=["card", "card"]))
    ),
}


@pytest.mark.parametrize("what", SAME)
def test_hash_does_not_change_with_what_changes_no_value(what):
    same, other = made(), SAME[what]()
    assert (other.hash, other.state_hash) == (same.hash, same.state_hash)


CHANGES = {
    "a window": lambda: made({**BASE, "n": Pay.count(over=["1d", "8d"])}),
    "a condition": lambda: made(spend(where=dict(kind="cash", online=True))),
    "an aggregate": lambda: made({**BASE, "spend": Pay.max("amount", over=["7d"], where=CARDS)}),
    "the value for nothing": lambda: made(spend(where=CARDS, empty=0)),
    "a name": lambda: made({"m": BASE["n"], "spend": BASE["spend"]}),
    "an expression": lambda: made(row=pl.col("amount") / 3),
    "one feature more": lambda: made({**BASE, "gap": Pay.since_last(over=["7d"])}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_hash_changes_with_what_changes_a_value(what):
    assert CHANGES[what]().hash != made().hash


def test_state_is_shared_by_sets_that_differ_in_expressions_only():
    assert made(row=pl.col("amount") / 3).state_hash == made().state_hash
    more = made({**BASE, "m": Pay.max("amount", over=["1d"])})
    assert more.state_hash != made().state_hash


def sale(
    amount: Fixed = Fixed(places=2, high=1000), words: tuple[str, ...] = ("a", "b")
) -> FeatureSet:
    stream = type("Sale", (Stream,), dict(who=Key(), amount=amount, kind=Category(values=words)))
    total, last = stream.sum("amount", over=["1d"]), stream.last("kind", over=["1d"])
    return FeatureSet(stream, [view(dict(s=total, k=last))])


def test_scale_and_vocabulary_are_in_the_hash():
    "And a description or a bound is not."
    plain = sale().hash
    assert sale(Fixed("with a description", places=2, high=500)).hash == plain
    others = [sale(Fixed(places=3, high=1000)), sale(Fixed(places=0, high=1000))]
    others.append(sale(words=("b", "a")))
    assert len({plain, *(other.hash for other in others)}) == 4


def features_of(**members: Any) -> FeatureSet:
    return FeatureSet(Pay, [view(members)])


def sent(by: Any, key: Any) -> FeatureSet:
    return FeatureSet(Transfer, [view(dict(n=Transfer.count(over=["1d"], by=by)), key)])


def shares() -> list[FeatureSet]:
    return [features_of(n=Pay.share(dict(kind=k), over=["1d"])) for k in ("card", "cash")]


def vocabularies() -> list[FeatureSet]:
    made = []
    for words in (("a", "b"), ("b", "a")):
        stream = type("Sale", (Stream,), dict(kind=Category(values=words)))
        made.append(FeatureSet(stream, [type("Row", (FeatureView,), {"kind": pl.col("kind")})]))
    return made


def types() -> list[FeatureSet]:
    made = []
    for field in (Key(), Text()):
        stream = type("Sale", (Stream,), dict(who=Key(), what=field))
        made.append(FeatureSet(stream, [view(dict(n=stream.distinct("what", over=["1d"])))]))
    return made


PAIR = ("sender", "receiver")
OTHER_VALUES = {
    "another aggregate of the same facts": lambda: [
        features_of(n=Pay.sum("amount", over=["1d"])),
        features_of(n=Pay.mean("amount", over=["1d"])),
    ],
    "an aggregate of no facts": lambda: [
        features_of(n=Pay.count(over=["1d"])),
        features_of(n=Pay.since_last(over=["1d"])),
    ],
    "what the share is of": shares,
    "the order of the stream's fields for the entity": lambda: [
        sent(PAIR, PAIR),
        sent(PAIR[::-1], PAIR),
    ],
    "the request's field for the entity": lambda: [sent("sender", key) for key in PAIR],
    "the vocabulary of a row-wise feature": vocabularies,
    "the type of a field": types,
}


@pytest.mark.parametrize("what", OTHER_VALUES)
def test_hash_changes_with_each_part_of_a_definition(what):
    one, two = OTHER_VALUES[what]()
    assert one.hash != two.hash


OTHER_STATES = {
    "scale": lambda: [sale(Fixed(places=p, high=1000)) for p in (2, 3)],
    "vocabulary": lambda: [sale(words=w) for w in (("a", "b"), ("b", "a"))],
    "what the share is of": shares,
    "a condition": lambda: [
        features_of(n=Pay.count(over=["1d"], where=dict(kind=k))) for k in ("card", "cash")
    ],
    "the stream's field for the entity": lambda: [sent(by, "sender") for by in PAIR],
}


@pytest.mark.parametrize("what", OTHER_STATES)
def test_state_hash_changes_with_what_the_numbers_stand_for(what):
    one, two = OTHER_STATES[what]()
    assert one.state_hash != two.state_hash


HASHES = """
from helpers import Pay, view
from mlkit.features import FeatureSet
last = Pay.last("kind", over=["1d"], where=dict(online=True))
features = FeatureSet(Pay, [view(dict(k=last))])
print(features.hash, features.state_hash)
"""


def test_hashes_are_the_same_in_every_process():
    "Conditions are in an order of their own, not in that of a set, which differs by process."
    printed = set()
    for seed in "1234":
        path = os.pathsep.join(sys.path)
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        command = [sys.executable, "-c", HASHES]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        printed.add(done.stdout)
    assert len(printed) == 1, printed
