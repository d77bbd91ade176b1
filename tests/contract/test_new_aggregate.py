"An aggregate is one row of a table: rows in this file, and frames, state and catalogue know them."

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from helpers import (
    OVER,
    Pay,
    as_frame,
    ask,
    assert_same_bits,
    empty_state,
    numbered,
    online_frame,
    pays,
    view,
)

from mlkit.aggregates import add_aggregates
from mlkit.errors import ContractError
from mlkit.eventlog import append
from mlkit.events import StreamType, UnknownWord
from mlkit.facts import FACTS, FactKind, add_facts
from mlkit.features import FeatureSet
from mlkit.fields import Fixed
from mlkit.formulas import AGGREGATES, AggregateKind, as_measured, in_unit, number, ratio
from mlkit.frames import offline
from mlkit.lmdbstate import LmdbStore, load_lmdb
from mlkit.online import apply
from mlkit.requests import Online

GIVEN = FactKind(
    "given",
    kept="total",
    adds=lambda code: int(code != 0),
    adds_all=lambda codes: (codes != 0).cast(pl.Int64),
)
FARTHEST = FactKind("farthest", kept="largest", adds=abs, adds_all=lambda codes: codes.abs())
GENEROSITY = AggregateKind(
    "generosity",
    "Share of values that are not zero.",
    "share of {s} events with some {m}",
    number("share"),
    takes=AGGREGATES["min"].takes,
    facts=("given",),
    finish=ratio,
)
SPREAD = AggregateKind(
    "spread",
    "Largest less smallest value.",
    "spread of {m} of {s} events",
    as_measured,
    takes=AGGREGATES["min"].takes,
    facts=("min", "max"),
    finish=lambda n, low, high: high - low,
)
EXTREME = AggregateKind(
    "extreme",
    "Largest distance from zero.",
    "largest distance of {m} from zero in {s} events",
    in_unit(),
    takes=AGGREGATES["min"].takes,
    facts=("farthest",),
    finish=lambda n, farthest: farthest,
)


@pytest.fixture(autouse=True)
def rows() -> Iterator[None]:
    "The rows of this file, for its tests only."
    add_facts(GIVEN, FARTHEST)
    add_aggregates(GENEROSITY, SPREAD, EXTREME)
    yield
    for fact in (GIVEN, FARTHEST):
        del FACTS[fact.name]
    for kind in (GENEROSITY, SPREAD, EXTREME):
        del AGGREGATES[kind.name]
        del StreamType.words[kind.name]


def members() -> dict[str, Any]:
    "Over a measure that may be missing, next to aggregates that share their facts."
    return dict(
        kind=Pay.generosity("tip", over=OVER),
        span=Pay.spread("tip", over=OVER, empty=-1),
        far=Pay.extreme("tip", over=OVER),
        least=Pay.min("tip", over=["1d"]),
        total=Pay.sum("tip", over=["7d"]),
    )


def tips(n: int) -> pl.DataFrame:
    tip = lambda i: None if i % 7 == 3 else (i * 37 % 11 - 5) * (i % 3) * 100
    return numbered(pays(n, who=lambda i: i % 2, tip=tip))


def test_frame_and_state_agree_bit_for_bit():
    "Loaded, applied one by one, asked before each event."
    features, frame = FeatureSet(Pay, [view(members())]), tips(120)
    expected = offline(features, frame, {Pay: frame}).drop("event_id")
    online, answers = Online(features), []
    with empty_state(features) as store:
        for i, request in enumerate(frame.to_dicts()):
            answers.append(ask(online, store, request))
            apply(store, Pay, frame[i : i + 1])
    assert_same_bits(as_frame(answers, features), expected)


def test_a_state_loaded_at_once_agrees_too(logs, tmp_path):
    features, frame = FeatureSet(Pay, [view(members())]), tips(300)
    append(logs[Pay], frame.drop("seq"), "all")
    load_lmdb(features, tmp_path / "state", logs)
    with LmdbStore(features, tmp_path / "state") as store:
        expected = offline(features, frame, {Pay: frame}).drop("event_id")
        assert_same_bits(online_frame(features, frame, store), expected)


def test_values_are_what_the_words_mean():
    frame = tips(120)
    features = FeatureSet(Pay, [view(dict(members(), n=Pay.count(over=["7d"])))])
    last = offline(features, frame, {Pay: frame})[-1]
    of = frame.filter(pl.col("who") == 1, pl.col("tip").is_not_null())
    of = of.filter(pl.col("event_time") > frame["event_time"][-1] - pl.duration(days=7))
    tip = of["tip"]
    assert last["who_kind_7d"].item() == (tip != 0).sum() / len(tip)
    assert last["who_span_7d"].item() == (tip.max() - tip.min()) / 100
    assert last["who_far_7d"].item() == tip.abs().max() / 100


def test_catalogue_and_hashes_know_it():
    features = FeatureSet(Pay, [view(members())])
    entry = features.catalogue().row(0, named=True)
    assert entry["meaning"] == (
        "share of pay events with some tip (tip known) of the same who within 1h"
    )
    assert (entry["unit"], entry["nothing"]) == ("share", "missing")
    plain = FeatureSet(Pay, [view(dict(kind=Pay.mean("tip", over=OVER)))])
    other = FeatureSet(Pay, [view(dict(kind=Pay.generosity("tip", over=OVER)))])
    assert plain.hash != other.hash and plain.state_hash != other.state_hash
    shared = FeatureSet(Pay, [view(dict(least=members()["least"], most=Pay.max("tip", over=OVER)))])
    spread = FeatureSet(Pay, [view(dict(span=Pay.spread("tip", over=OVER)))])
    assert shared.state_hash == spread.state_hash


def test_it_is_a_word_of_every_stream():
    "With completion and help; what nobody has added is refused with what there is."
    assert {"spread", "count"} <= set(dir(Pay))
    assert "Largest less smallest" in inspect.getdoc(Pay.spread)
    with pytest.raises(UnknownWord, match=r"Pay cannot be asked for 'sprad'; .*spread"):
        Pay.sprad("tip", over=["1d"])
    assert not hasattr(Pay, "sprad")


def test_a_row_that_contradicts_another_is_refused():
    with pytest.raises(ContractError, match="already"):
        add_aggregates(AggregateKind("count", "", "", number("")))
    with pytest.raises(ContractError, match="already"):
        add_facts(FactKind("sum", kept="largest"))
    with pytest.raises(ContractError, match="no way to keep"):
        add_facts(FactKind("median", kept="sorted"))
    with pytest.raises(ContractError, match="no fact 'median'"):
        add_aggregates(AggregateKind("median", "", "", number(""), facts=("median",)))


@pytest.mark.parametrize(
    "name, message",
    [
        ("a b", "'a b': .*one word of small letters"),
        ("", "'': .*one word of small letters"),
        (["count"], "one word of small letters"),
        ("lambda", "'lambda' is a word of Python's"),
        ("_median", "one word of small letters"),
        ("fields", "'fields' is a name of every stream's own"),
        ("to_json", "'to_json' is a name of every stream's own"),
        ("mro", "'mro' is a name of every stream's own"),
    ],
)
def test_a_word_that_a_stream_could_not_be_asked_in_is_refused(name, message):
    with pytest.raises(ContractError, match=message):
        add_aggregates(AggregateKind(name, "", "", number("")))
    assert name != "fields" or isinstance(Pay.fields, dict)


@pytest.mark.parametrize("meaning", ["{n} of {s}", "{m} of {s}", "{of}", "{}", "{s", "{s.x}", None])
def test_a_meaning_that_cannot_be_filled_in_is_refused(meaning):
    "Here nothing is measured, and no condition asked of."
    with pytest.raises(ContractError, match="median: meaning=.*: write {s} for the stream"):
        AggregateKind("median", "", meaning, number(""))


@pytest.mark.parametrize(
    "part, value, message",
    [
        ("takes", Fixed, "takes = .*: give a tuple of kinds of fields"),
        ("takes", ("Fixed",), "takes = .*: give a tuple of kinds of fields"),
        ("facts", "sum", "facts = 'sum': give a tuple of names"),
        ("value_type", "s", "value_type = 's' is no function"),
        ("finish", None, "finish = None is no function"),
        ("finish_all", 3, "finish_all = 3 is no function"),
    ],
)
def test_a_part_of_another_type_is_refused(part, value, message):
    with pytest.raises(ContractError, match=f"spread: {message}"):
        replace(SPREAD, **{part: value})


@pytest.mark.parametrize("name", ["", "a b", ["a"], 3])
def test_a_fact_is_called_by_a_word(name):
    with pytest.raises(ContractError, match="its name is one word of small letters"):
        FactKind(name, "total")


WRONG = {
    "a formula that raises": (lambda n, low, high: 1 // 0, "ZeroDivisionError"),
    "too few parameters": (lambda n: n, "TypeError"),
    "no number": (lambda n, low, high: "much", "(Type|Value|Attribute)Error"),
}


@pytest.mark.parametrize("finish, error", WRONG.values(), ids=list(WRONG))
def test_a_formula_that_fails_is_named(finish, error):
    "In a frame and for one request; a value of the wrong type is a failure too."
    features, frame = FeatureSet(Pay, [view(dict(span=Pay.spread("tip", over=["1d"])))]), tips(3)
    AGGREGATES["spread"] = replace(SPREAD, finish=finish)
    message = f"who_span_1d: `finish` of the aggregate 'spread' fails: {error}"
    with pytest.raises(ContractError, match=message):
        offline(features, frame, {Pay: frame})
    online = Online(features)
    with pytest.raises(ContractError, match=message), empty_state(features) as store:
        ask(online, store, frame.row(0, named=True))
