"What is refused when it is defined: streams, questions, views and sets, each with a sentence."

from __future__ import annotations

import polars as pl
import pytest
from helpers import Outcome, Pay, view

from mlkit.errors import ContractError
from mlkit.events import Stream, at_least, between
from mlkit.features import FeatureSet, FeatureView
from mlkit.fields import Category, Fixed, Key, Text


def moment(expr: pl.Expr) -> FeatureSet:
    return FeatureSet(Pay, [type("Moment", (FeatureView,), {"f": expr})])


class Strange(Stream):
    who = Text()
    sum = Fixed(places=9, high=1e6)
    maybe = Key(optional=True)


REFUSED = {
    "a window that looks ahead": (lambda: Pay.count(over=["-1d"]), "looks back, never ahead"),
    "no window": (lambda: Pay.count(over=[]), "which windows"),
    "a window of no length": (lambda: Pay.count(over=["0d"]), "0d"),
    "a window of centuries": (lambda: Pay.count(over=["40000d"]), "hundred years"),
    "the next row": (lambda: moment(pl.col("amount").shift(-1)), "other rows"),
    "a label in the request": (lambda: moment(pl.col("bad")), "bad"),
    "a feature defined later": (
        lambda: FeatureSet(
            Pay,
            [
                type("A", (FeatureView,), {"a": pl.col("b")}),
                type("B", (FeatureView,), {"b": pl.col("amount") * 2}),
            ],
        ),
        "reads 'b', which is neither",
    ),
    "a measure that is no number": (lambda: Pay.sum("place", over=["1d"]), "is a Text, and"),
    "the largest of a flag": (
        lambda: Pay.max("online", over=["1d"]),
        "is a Flag, and max takes Fixed",
    ),
    "the last of a text": (lambda: Pay.last("place", over=["1d"]), "is a Text, and"),
    "a word that is not in the vocabulary": (
        lambda: Pay.count(over=["1d"], where=dict(kind="cheque")),
        "must be one of card, cash",
    ),
    "an amount compared with text": (
        lambda: Pay.count(over=["1d"], where=dict(amount="much")),
        "must be a number",
    ),
    "an order of words": (
        lambda: Pay.count(over=["1d"], where=dict(kind=at_least(3))),
        "has an order",
    ),
    "an empty range": (
        lambda: Pay.count(over=["1d"], where=dict(amount=between(5, 5))),
        "range is empty",
    ),
    "a condition that is always false": (
        lambda: Pay.count(over=["1d"], where=dict(kind=None)),
        "never missing",
    ),
    "nothing that is no word": (
        lambda: Pay.last("kind", over=["1d"], empty="cheque"),
        "must be one of",
    ),
    "nothing that is not finite": (
        lambda: Pay.mean("amount", over=["1d"], empty=float("nan")),
        "finite",
    ),
    "nothing of a count": (lambda: Pay.count(over=["1d"], empty=1), "gives 0"),
    "a share of nothing": (lambda: Pay.share({}, over=["1d"]), "of what"),
    "text plus number": (lambda: moment(pl.col("place") + 1), "arithmetic"),
    "a text as a feature": (lambda: moment(pl.col("place")), "number, a flag or a category"),
    "keys of two types": (
        lambda: FeatureSet(Pay, [view(dict(n=Strange.count(over=["1d"])))]),
        "never be equal",
    ),
    "a key that may be missing": (
        lambda: view(dict(n=Strange.count(over=["1d"])), key="maybe"),
        "must not be optional",
    ),
    "another number of fields": (
        lambda: view(dict(n=Outcome.count(over=["1d"], by=("who", "place")))),
        "field by field",
    ),
    "a field's name": (
        lambda: FeatureSet(Pay, [type("Moment", (FeatureView,), {"amount": pl.col("amount") * 2})]),
        "is taken",
    ),
    "a feature's name": (
        lambda: FeatureSet(
            Pay,
            [
                view(dict(n=Pay.count(over=["1d"]))),
                type("Row", (FeatureView,), {"who_n_1d": pl.col("amount")}),
            ],
        ),
        "is taken",
    ),
    "eight bits": (
        lambda: moment(pl.col("event_time").dt.hour() * 60),
        "cast its parts to pl.Int64",
    ),
    "eight bits further down": (
        lambda: moment((pl.col("event_time").dt.minute() + 100) > 3),
        "cast its parts to pl.Int64",
    ),
    "a sum beyond 64 bits": (lambda: Strange.sum("sum", over=["1d"]), "overflow 64 bits"),
    "windows that are not given": (lambda: Pay.count(), "which windows"),
    "windows that are no list": (lambda: Pay.count(over="7d"), "which windows"),
    "a window in other digits": (lambda: Pay.count(over=["²d"]), "whole number"),
    "an option that is not there": (
        lambda: Pay.count(over=["1d"], wher=dict(online=True)),
        "no option 'wher'",
    ),
    "a condition in words": (lambda: Pay.count(over=["1d"], where="kind=card"), "as a dict"),
    "a condition as an expression": (
        lambda: Pay.count(over=["1d"], where=pl.col("online")),
        "as a dict",
    ),
    "a bound that is not given": (
        lambda: Pay.count(over=["1d"], where=dict(amount=at_least(None))),
        "present()",
    ),
    "a bound that has more decimals": (
        lambda: Pay.count(over=["1d"], where=dict(amount=at_least(1.005))),
        r"at_least\(1.005\)",
    ),
    "a share that is not said": (lambda: Pay.share(over=["1d"]), "of what"),
    "a mean of nothing": (lambda: Pay.mean(over=["1d"]), "of which field"),
    "a mean of a number": (lambda: Pay.mean(3, over=["1d"]), "of which field"),
    "no amounts at all": (lambda: Fixed(low=5, high=1), "no amount from"),
    "bounds that are no numbers": (lambda: Fixed(high=float("nan")), "no amount from"),
    "places in words": (lambda: Fixed(places="2"), "0 to 9 places"),
    "no words at all": (lambda: Category("kind"), "non-empty words"),
    "words that are letters": (lambda: Category("kind", values="abc"), "non-empty words"),
    "a text of no length": (lambda: Text(longest=0), "from 1 to 60,000 bytes"),
    "a field without parentheses": (
        lambda: type("Sale", (Stream,), dict(who=Text)),
        r"write Text\(\)",
    ),
    "a field of Polars' types": (
        lambda: type("Sale", (Stream,), dict(who=pl.Int64)),
        "is no field",
    ),
    "a column of the log": (lambda: type("Sale", (Stream,), dict(seq=Key())), "column of the log"),
    "an aggregate without parentheses": (
        lambda: view(dict(n=Pay.count)),
        r"write Pay.count\(over=",
    ),
    "a list of aggregates": (lambda: view(dict(n=[Pay.count(over=["1d"])])), "is no feature"),
    "a number as a feature": (lambda: view(dict(n=5)), "is no feature"),
    "a number as a key": (lambda: view(dict(n=Pay.count(over=["1d"])), key=3), "as text"),
    "a field twice in a key": (
        lambda: view(dict(n=Pay.count(over=["1d"])), key=("who", "who")),
        "twice",
    ),
    "a moment as an entity": (
        lambda: view(dict(n=Pay.count(over=["1d"])), key="event_time"),
        "no entity",
    ),
    "several columns": (lambda: moment(pl.col("amount", "tip")), "several columns"),
    "every column": (lambda: moment(pl.all()), "several columns"),
    "a Python function": (
        lambda: moment(pl.col("amount").map_batches(lambda s: s)),
        "Python function",
    ),
    "fewer values than rows": (
        lambda: moment(pl.col("amount").filter(pl.col("online"))),
        "one value a row",
    ),
    "more values than rows": (
        lambda: moment(pl.col("place").str.split("a").explode()),
        "one value a row",
    ),
    "a column of its own": (
        lambda: moment(pl.col("amount") + pl.lit(pl.Series([1.0, 2.0]))),
        "holds a Series",
    ),
    "a length in words": (lambda: Text(longest="5"), "from 1 to 60,000 bytes"),
    "a length that no key may have": (lambda: Text(longest=70_000), "from 1 to 60,000 bytes"),
    "words that are a number": (lambda: Category(values=5), "non-empty words"),
    "an entity that is a number": (lambda: Pay.count(over=["1d"], by=3), "has no field 3"),
    "a list in place of an entity": (
        lambda: Pay.count(over=["1d"], by=["who", ["place"]]),
        r"has no field \['place'\]",
    ),
    "keys of two scales": (
        lambda: FeatureSet(Pay, [view(dict(n=Strange.count(over=["1d"], by="sum")), key="amount")]),
        "never be equal",
    ),
    "a name of the view's own": (lambda: view(dict(members=Pay.count(over=["1d"]))), "view's own"),
    "itself": (
        lambda: moment(pl.col("f") + 1),
        "neither a field of Pay nor a feature that comes before",
    ),
    "a view by itself": (
        lambda: FeatureSet(Pay, view(dict(n=Pay.count(over=["1d"])))),
        "as a list",
    ),
    "no views": (lambda: FeatureSet(Pay, []), "as a list"),
    "a view of nothing": (lambda: FeatureSet(Pay, [view({})]), "has no features"),
    "the name of a view": (lambda: FeatureSet(Pay, ["Who"]), "is no FeatureView"),
    "the name of a stream": (
        lambda: FeatureSet("pay", [view(dict(n=Pay.count(over=["1d"])))]),
        "are of a Stream",
    ),
    "two streams of one name": (
        lambda: FeatureSet(
            Pay, [view(dict(n=type("Pay", (Stream,), dict(who=Key())).count(over=["1d"])))]
        ),
        "share a log",
    ),
    "a field declared twice": (
        lambda: type("Twice", (Stream,), {"event_time": Key()}),
        "declared already",
    ),
    "two fields but for the case": (
        lambda: type("Twins", (Stream,), dict(who=Key(), Who=Text())),
        "apart from capital letters",
    ),
    "two features but for the case": (
        lambda: FeatureSet(Pay, [view(dict(n=Pay.count(over=["1d"]), N=Pay.count(over=["1d"])))]),
        "'who_N_1d' is taken",
    ),
    "a field of two words": (
        lambda: type("Odd", (Stream,), {"the amount": Fixed()}),
        "letters, digits and _",
    ),
    "a bound between two units": (lambda: Fixed(places=2, high=9.999), "more than 2 places"),
    "a bound in words": (lambda: Fixed(high="9"), "a bound is a number"),
    "a word that cannot be printed": (
        lambda: Category(values=("ok", "\x1b[31mred")),
        "can be printed",
    ),
    "a decimal as a feature": (
        lambda: moment(pl.col("amount").cast(pl.Decimal(20, 2))),
        "[Dd]ecimal",
    ),
    "an amount that is text": (lambda: moment(pl.col("place") * 2), "arithmetic"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_when_defined(what):
    "Each with a message that says what is wrong."
    make, message = REFUSED[what]
    with pytest.raises(ContractError, match=message):
        make()
