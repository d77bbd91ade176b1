"Groups of events: entities under two names, and what is shared between aggregates or kept apart."

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
from helpers import (
    DAWN,
    Pay,
    Transfer,
    as_frame,
    assert_same_bits,
    assert_state_agrees,
    empty_state,
    hourly,
    numbered,
    online_frame,
    pays,
    view,
)

from mlkit.events import Stream, at_least
from mlkit.features import FeatureSet, FeatureView
from mlkit.fields import Text
from mlkit.frames import offline
from mlkit.online import apply

DAY = timedelta(days=1)


class Sender(FeatureView, key="sender"):
    got = Transfer.sum("amount", over=["1d"], by="receiver")
    sent = Transfer.count(over=["1d"])
    of = Transfer.distinct("sender", over=["1d"], by="receiver")


class Receiver(FeatureView, key="receiver"):
    got = Transfer.count(over=["1d"])


def counted(request: dict[str, Any], events: list[dict[str, Any]]) -> dict[str, Any]:
    "The features of one transfer, event by event."
    t = request["event_time"]
    past = [e for e in events if t - DAY < e["event_time"] < t] + [request]
    mine = [e for e in past if e["receiver"] == request["sender"]]
    return dict(
        sender_got_1d=sum(e["amount"] for e in mine) / 100,
        sender_sent_1d=sum(e["sender"] == request["sender"] for e in past),
        sender_of_1d=len({e["sender"] for e in mine}),
        receiver_got_1d=sum(e["receiver"] == request["receiver"] for e in past),
    )


def test_entity_under_another_name():
    "Money that the sender received; a transfer to oneself counts for both."
    features, rng = FeatureSet(Transfer, [Sender, Receiver]), np.random.default_rng(3)
    rows = hourly(
        Transfer,
        120,
        event_time=lambda i: DAWN + timedelta(hours=i // 2),
        sender=lambda i: int(rng.integers(3)),
        receiver=lambda i: int(rng.integers(3)),
        amount=lambda i: int(rng.integers(100)),
    )
    every = rows.to_dicts()
    expected = as_frame([counted(r, every) for r in every], features)
    assert_same_bits(offline(features, rows, {Transfer: rows}).drop("event_id"), expected)
    with empty_state(features) as store:
        apply(store, Transfer, numbered(rows))
        assert_same_bits(online_frame(features, rows, store), expected)


def transfers(amount: Any) -> pl.DataFrame:
    parties = dict(sender=lambda i: i % 2, receiver=lambda i: i % 3 % 2)
    return hourly(Transfer, 40, amount=amount, **parties)


def test_two_shares_of_one_entity_under_two_names():
    "Groups that differ in what the share is of have a state each."
    small = Transfer.share(dict(amount=at_least(5)), over=["1d"], by="receiver")
    large = Transfer.share(dict(amount=at_least(50)), over=["1d"])
    views = [
        view(dict(small=small), "sender", "Sender"),
        view(dict(large=large), "receiver", "Receiver"),
    ]
    features = FeatureSet(Transfer, views)
    assert_state_agrees(features, transfers(lambda i: i * i % 83 * 100))


def test_two_groups_with_the_same_occurrences():
    "Two entities of the requests, one field of the stream: held once, with what either needs."
    mine = dict(
        got=Transfer.distinct("amount", over=["1d"], by="receiver"),
        total=Transfer.sum("amount", over=["1d"], by="receiver"),
    )
    theirs = dict(got=Transfer.distinct("amount", over=["1d"]))
    views = [view(mine, "sender", "Sender"), view(theirs, "receiver", "Receiver")]
    assert_state_agrees(FeatureSet(Transfer, views), transfers(lambda i: i * i % 7))


def test_a_group_that_is_also_behind_a_distinct():
    "What a `distinct` keeps of its values may be a feature's own group, before or after it."
    pair = view(dict(n=Pay.count(over=["7d"])), ("who", "place"), "Pair")
    who = view(dict(places=Pay.distinct("place", over=["1d", "7d"])))
    rows = pays(40, who=lambda i: i % 2, place=lambda i: "abc"[i * i % 7 % 3])
    for views in ([pair, who], [who, pair]):
        features = FeatureSet(Pay, views)
        assert len(features.stored) == 2
        with empty_state(features) as store:
            for part in numbered(rows.reverse()).iter_slices(7):
                assert apply(store, Pay, part) == part.height
                assert apply(store, Pay, part) == 0
            expected = offline(features, rows, {Pay: rows}).drop("event_id")
            assert_same_bits(online_frame(features, rows, store), expected)


def test_conditions_that_read_alike_are_told_apart():
    "One text is not one of two."
    one = Pay.count(over=["1d"], where=dict(place="a or b"))
    two = Pay.count(over=["1d"], where=dict(place=["a", "b"]))
    features = FeatureSet(Pay, [view(dict(n=one, m=two))])
    assert len(features.stored) == 2
    assert_state_agrees(features, pays(6, place=lambda i: ["a", "b", "a or b"][i % 3]))


def test_keys_longer_than_the_store_allows():
    "Three texts of 200 bytes are too long a key for LMDB; they still name different entities."

    class Call(Stream):
        first = Text()
        last = Text()
        city = Text()

    names = dict(
        first=lambda i: "x" * (170 + i % 2),
        last=lambda i: "y" * 170,
        city=lambda i: "z" * 169 + "ab"[i // 2 % 2],
    )
    key = ("first", "last", "city")
    features = FeatureSet(Call, [view(dict(n=Call.count(over=["1d"])), key)])
    assert_state_agrees(features, hourly(Call, 20, **names))
