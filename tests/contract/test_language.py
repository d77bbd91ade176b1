"The feature language: what is refused when it is defined, what the hash depends on, entities under other names, categories as a model sees them."

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from helpers import DAWN, Outcome, Pay, as_frame, ask, assert_same_bits, empty_state, numbered

from mlkit.eventlog import append, scan
from mlkit.events import (
    Category,
    ContractError,
    Fixed,
    Key,
    Stream,
    Text,
    at_least,
    below,
    between,
    present,
)
from mlkit.features import FeatureSet, FeatureView
from mlkit.frames import offline
from mlkit.lmdbstate import LmdbStore
from mlkit.models import matrix, row
from mlkit.online import apply, state_folder
from mlkit.requests import Online
from mlkit.stream import follow


def view(members: dict[str, Any], key: Any = "who", doc: str = "") -> type[FeatureView]:
    return type("Who", (FeatureView,), {"__doc__": doc, **members}, key=key)


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
    "a text of no length": (lambda: Text(longest=0), "no text would fit"),
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
    "a length in words": (lambda: Text(longest="5"), "no text would fit"),
    "words that are a number": (lambda: Category(values=5), "non-empty words"),
    "an entity that is a number": (lambda: Pay.count(over=["1d"], by=3), "has no field 3"),
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
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_when_defined(what):
    "Each with a message that says what is wrong."
    make, says = REFUSED[what]
    with pytest.raises(ContractError, match=says):
        make()


def test_a_class_that_extends_another_has_what_that_has():
    "A stream has its fields, a view its key and its features."

    class Refund(Pay):
        why = Text()

    assert list(Refund.fields) == [*Pay.fields, "why"] and Refund.name == "refund"

    class Plain(FeatureView, key="who"):
        n = Pay.count(over=["1d"])

    class More(Plain):
        spend = Pay.mean("amount", over=["7d"])

    assert FeatureSet(Pay, [More]).names == ["more_n_1d", "more_spend_7d"] and More.key == ("who",)

    class Other(FeatureView, key="who"):
        total = Pay.sum("amount", over=["7d"])

    class Both(Plain, Other):
        pass

    assert set(Both.members) == {"n", "total"}

    class Till(Stream):
        till = Key()

    class Sale(Pay, Till):
        pass

    assert list(Sale.fields) == ["event_id", "event_time", "till", *list(Pay.fields)[2:]]


def test_the_catalogue_speaks_in_units():
    "Amounts as they are written, missing values as such, the entity by both its names, expressions whole."

    class Strict(FeatureView, key="who"):
        "What is known."

        n = Pay.count(
            over=["1d"], where=dict(amount=between(0.5, 50), shade=[None, "red"], online=True)
        )

    class Row(FeatureView):
        "At the moment."

        card = pl.col("kind") == "card"

    said = FeatureSet(Pay, [Strict, Row]).catalogue()["meaning"].to_list()
    assert said == [
        "number of pay events (amount >= 0.5 and < 50 and online = True and shade = missing or red) of the same who within 1d",
        'At the moment: (kind) == ("card")',
    ]


BASE = dict(
    n=Pay.count(over=["1d", "7d"]),
    spend=Pay.mean("amount", over=["7d"], where=dict(kind="card", online=True)),
)


def made(
    members: dict[str, Any] = BASE,
    row: pl.Expr = pl.col("amount") / 2,
    doc: str = "",
    turned: bool = False,
) -> FeatureSet:
    views = [view(members, doc=doc), type("Row", (FeatureView,), {"half": row})]
    return FeatureSet(Pay, views[::-1] if turned else views)


def test_hash_does_not_change_with_what_changes_no_value():
    "Docstrings, the order of views, of conditions and of values, a condition in other words."
    same = made()
    for other in (
        made(doc="What this customer does."),
        made(turned=True),
        made(
            {
                **BASE,
                "spend": Pay.mean(
                    "amount", over=["7d"], where=dict(online=True, kind=["card", "card"])
                ),
            }
        ),
    ):
        assert (other.hash, other.state_hash) == (same.hash, same.state_hash)


CHANGES = {
    "a window": lambda: made({**BASE, "n": Pay.count(over=["1d", "8d"])}),
    "a condition": lambda: made(
        {**BASE, "spend": Pay.mean("amount", over=["7d"], where=dict(kind="cash", online=True))}
    ),
    "an aggregate": lambda: made(
        {**BASE, "spend": Pay.max("amount", over=["7d"], where=dict(kind="card", online=True))}
    ),
    "the value for nothing": lambda: made(
        {
            **BASE,
            "spend": Pay.mean("amount", over=["7d"], where=dict(kind="card", online=True), empty=0),
        }
    ),
    "a name": lambda: made({"m": BASE["n"], "spend": BASE["spend"]}),
    "an expression": lambda: made(row=pl.col("amount") / 3),
    "one feature more": lambda: made({**BASE, "gap": Pay.since_last(over=["7d"])}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_hash_changes_with_what_changes_a_value(what):
    assert CHANGES[what]().hash != made().hash


def test_state_is_shared_by_sets_that_differ_in_expressions_only():
    assert (
        made(row=pl.col("amount") / 3).state_hash
        == made().state_hash
        != made({**BASE, "m": Pay.max("amount", over=["1d"])}).state_hash
    )


@pytest.mark.parametrize(
    "field", [Fixed(places=3, high=1_000_000), Fixed(places=0, high=1_000_000)]
)
def test_scale_and_vocabulary_are_in_the_hash(field):
    def hash_of(amount: Any, words: tuple[str, ...]) -> str:
        stream = type(
            "Sale", (Stream,), dict(who=Key(), amount=amount, kind=Category(values=words))
        )
        return FeatureSet(
            stream,
            [
                type(
                    "Who",
                    (FeatureView,),
                    dict(s=stream.sum("amount", over=["1d"]), k=stream.last("kind", over=["1d"])),
                    key="who",
                )
            ],
        ).hash

    plain = hash_of(Fixed(places=2, high=1_000_000), ("a", "b"))
    assert plain == hash_of(Fixed("with a description", places=2, high=500_000), ("a", "b"))
    assert (
        len(
            {
                plain,
                hash_of(field, ("a", "b")),
                hash_of(Fixed(places=2, high=1_000_000), ("b", "a")),
            }
        )
        == 3
    )


def test_two_feature_sets_live_at_once(logs, tmp_path):
    "Each has its own state, and both follow the same log."
    now, then = made(), made({**BASE, "most": Pay.max("amount", over=["7d"])})
    rows = pl.DataFrame(
        [
            dict(
                event_id=f"p{i}",
                event_time=DAWN + timedelta(hours=i),
                who=i % 3,
                place="a",
                amount=100 * i,
                online=True,
                kind="card",
            )
            for i in range(40)
        ],
        schema=Pay.schema(),
    )
    assert state_folder(tmp_path, now) != state_folder(tmp_path, then)
    with (
        LmdbStore(now, state_folder(tmp_path, now), write=True, create=True) as one,
        LmdbStore(then, state_folder(tmp_path, then), write=True, create=True) as two,
    ):
        for part in rows.iter_slices(9):
            append(logs[Pay], part, part["event_id"][0])
            follow(one, logs)
            follow(two, logs)
        history = {Pay: scan(logs[Pay]).collect()}
        for features, store in ((now, one), (then, two)):
            assert_same_bits(
                as_frame([ask(Online(features), store, r) for r in rows.to_dicts()], features),
                offline(features, rows, history).drop("event_id"),
            )


class Transfer(Stream):
    sender = Key()
    receiver = Key()
    amount = Fixed(places=2, high=1e6)


def test_entity_under_another_name():
    "Money received by the sender, and as much sent by the receiver; a transfer to oneself counts for both."

    class Sender(FeatureView, key="sender"):
        got = Transfer.sum("amount", over=["1d"], by="receiver")
        sent = Transfer.count(over=["1d"])
        of = Transfer.distinct("sender", over=["1d"], by="receiver")

    class Receiver(FeatureView, key="receiver"):
        got = Transfer.count(over=["1d"])

    features, rng = FeatureSet(Transfer, [Sender, Receiver]), np.random.default_rng(3)
    rows = pl.DataFrame(
        [
            dict(
                event_id=f"t{i:03}",
                event_time=DAWN + timedelta(hours=int(i) // 2),
                sender=int(rng.integers(3)),
                receiver=int(rng.integers(3)),
                amount=int(rng.integers(100)),
            )
            for i in range(120)
        ],
        schema=Transfer.schema(),
    )
    every, expected = rows.to_dicts(), []
    for r in every:
        past = [
            e
            for e in every
            if r["event_time"] - timedelta(days=1) < e["event_time"] < r["event_time"]
        ] + [r]
        mine = [e for e in past if e["receiver"] == r["sender"]]
        expected.append(
            dict(
                sender_got_1d=sum(e["amount"] for e in mine) / 100,
                sender_sent_1d=sum(e["sender"] == r["sender"] for e in past),
                sender_of_1d=len({e["sender"] for e in mine}),
                receiver_got_1d=sum(e["receiver"] == r["receiver"] for e in past),
            )
        )
    wanted = as_frame(expected, features)
    assert_same_bits(offline(features, rows, {Transfer: rows}).drop("event_id"), wanted)
    with empty_state(features) as store:
        apply(store, Transfer, numbered(rows))
        assert_same_bits(
            as_frame([ask(Online(features), store, r) for r in every], features), wanted
        )


def test_categories_reach_a_model_as_one_column_a_word():
    "The frame for training and the row for serving are the same numbers; a missing category is missing in all its columns."
    features = FeatureSet(
        Pay,
        [
            view(dict(how=Pay.last("kind", over=["7d"]))),
            type("Row", (FeatureView,), {"shade": pl.col("shade")}),
        ],
    )
    rows = pl.DataFrame(
        [
            dict(
                event_id=f"p{i}",
                event_time=DAWN + timedelta(hours=i),
                who=1,
                place="a",
                amount=1,
                online=True,
                kind="card",
                shade=[None, "red", "blue"][i],
            )
            for i in range(3)
        ],
        schema=Pay.schema(),
    )
    frame = offline(features, rows, {Pay: rows})
    assert features.inputs == [
        "who_how_7d=card",
        "who_how_7d=cash",
        "shade=red",
        "shade=green",
        "shade=blue",
    ]
    x = matrix(frame, features.inputs)
    assert np.array_equal(x[1], [1, 0, 1, 0, 0]) and np.isnan(x[0]).all()
    assert np.array_equal(
        x, np.vstack([row(r, features.inputs) for r in frame.to_dicts()]), equal_nan=True
    )


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
    rows = pl.DataFrame(
        [
            dict(
                event_id=f"p{i}",
                event_time=DAWN + timedelta(hours=i),
                who=1,
                place="a",
                amount=a,
                online=True,
                kind="card",
            )
            for i, a in enumerate((0, 499, 500, 700))
        ],
        schema=Pay.schema(),
    )
    features = FeatureSet(Pay, [view(dict(n=Pay.count(over=["1d"], where=dict(amount=wanted))))])
    assert offline(features, rows, {Pay: rows})["who_n_1d"].to_list() == counted


def test_what_is_not_finite_is_missing_everywhere():
    features = FeatureSet(
        Pay,
        [
            type(
                "Row",
                (FeatureView,),
                {
                    "odd": pl.col("amount") / pl.col("amount"),
                    "endless": 1 / pl.col("amount"),
                    "then": (1 / pl.col("amount")).is_null(),
                },
            )
        ],
    )
    rows = pl.DataFrame(
        [
            dict(
                event_id=f"p{i}",
                event_time=DAWN,
                who=1,
                place="a",
                amount=a,
                online=True,
                kind="card",
            )
            for i, a in enumerate((0, 100))
        ],
        schema=Pay.schema(),
    )
    frame = offline(features, rows, {}).drop("event_id")
    assert frame["odd"].to_list() == [None, 1.0] and frame["endless"].to_list() == [None, 1.0]
    assert_same_bits(
        as_frame([Online(features)(r, None) for r in rows.to_dicts()], features), frame
    )
