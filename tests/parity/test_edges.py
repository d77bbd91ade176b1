"Corners of the engine that generated streams do not reach: large numbers, long keys, shared series, hashes, what is left out or replaced."

from __future__ import annotations

import math
import os
import subprocess
import sys
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from helpers import (
    DAWN,
    FEATURES,
    UTC,
    Outcome,
    Pay,
    as_frame,
    ask,
    assert_same_bits,
    empty_state,
    numbered,
    pays,
    view,
)

from mlkit import chunks, nodes
from mlkit.eventlog import append, scan
from mlkit.events import Category, Fixed, Key, Stream, Text, at_least
from mlkit.features import FeatureSet, FeatureView
from mlkit.frames import offline
from mlkit.lmdbstate import LmdbStore, load_lmdb
from mlkit.online import StateError, apply, fill
from mlkit.requests import Online
from mlkit.stream import follow
from mlkit.windows import key_codes, totals


def online_frame(features: FeatureSet, requests: pl.DataFrame, store: Any) -> pl.DataFrame:
    return as_frame([ask(Online(features), store, r) for r in requests.to_dicts()], features)


# %% Windows


def test_more_entities_than_sixteen_bits():
    "In order of time, dealt out by the low and by the high half of the entity's number."
    rows = pays(40, who=lambda i: (i % 2) * 2**16 + 3 * (i % 4 > 1))
    found = offline(
        FeatureSet(
            Pay, [view(dict(n=Pay.count(over=["7d"]), total=Pay.sum("amount", over=["7d"])))]
        ),
        rows,
        {Pay: rows},
    )
    who = rows["who"].to_list()
    assert found["who_n_7d"].to_list() == [who[: i + 1].count(w) for i, w in enumerate(who)]
    assert found["who_total_7d"].to_list() == [
        sum(j for j in range(i + 1) if who[j] == w) / 100 for i, w in enumerate(who)
    ]


def test_requests_of_entities_below_all_that_have_events():
    "Numbers of entities are never negative, also where the smallest is only asked about."
    events = pays(6, who=lambda i: 5)
    asked = pays(12, who=lambda i: (3, 5)[i % 2]).with_columns(
        pl.col("event_id") + "/asked", pl.col("event_time") + timedelta(minutes=1)
    )
    found = offline(FeatureSet(Pay, [view(dict(n=Pay.count(over=["7d"])))]), asked, {Pay: events})
    assert found["who_n_7d"].to_list() == [
        1 if i % 2 == 0 else min(6, i + 1) + 1 for i in range(12)
    ]
    e, r = key_codes(pl.DataFrame({"0": [5, 7]}), pl.DataFrame({"0": [3, 9]}))
    assert e.tolist() == [2, 4] and r.tolist() == [0, 6]


class Huge(Stream):
    "Amounts whose squares need more than 64 bits."

    who = Key()
    amount = Fixed(places=0, high=9e12)


HUGE = [
    2**31,
    2**31,
    1,
    9 * 10**12,
    0,
    9 * 10**12 - 1,
    2**32,
    3,
    8_999_999_999_999,
    2**42 + 1,
    7,
    5,
]  # 2 · 2^62 is 2^63: the first low half that is negative


def huge() -> tuple[FeatureSet, pl.DataFrame, list]:
    rows = pl.DataFrame(
        [
            dict(event_id=f"h{i:02}", event_time=DAWN + timedelta(hours=i), who=1, amount=a)
            for i, a in enumerate(HUGE)
        ],
        schema=Huge.schema(),
    )
    expected = []
    for i in range(len(HUGE)):
        given = HUGE[max(0, i - 4) : i + 1]
        n = len(given)
        expected.append(
            math.sqrt(
                float(n * sum(x * x for x in given) - sum(given) ** 2) / (float(n) * float(n - 1))
            )
            if n > 1
            else None
        )
    return FeatureSet(Huge, [view(dict(spread=Huge.std("amount", over=["5h"])))]), rows, expected


def test_squares_beyond_64_bits_offline():
    features, rows, expected = huge()
    assert offline(features, rows, {Huge: rows})["who_spread_5h"].to_list() == expected


@pytest.mark.parametrize("chunk", [1, 3, 128])
def test_squares_beyond_64_bits_online(chunk, logs, tmp_path, monkeypatch):
    "One by one, with one late, and loaded at once."
    monkeypatch.setattr(chunks, "CHUNK", chunk)
    features, rows, expected = huge()
    with empty_state(features) as store:
        for part in numbered(rows)[[0, 1, 3, 4, 5, 6, 7, 8, 9, 2, 10, 11]].iter_slices(1):
            apply(store, Huge, part)
        assert online_frame(features, rows, store)["who_spread_5h"].to_list() == expected
    append(logs[Huge], rows, "all")
    load_lmdb(features, tmp_path / "state", logs)
    with LmdbStore(features, tmp_path / "state") as store:
        assert online_frame(features, rows, store)["who_spread_5h"].to_list() == expected


def test_smallest_sums_that_do_not_fit():
    "2^63 itself, and one that only the lower halves of the values bring above it."
    begin, low = np.zeros(1, np.int64), 4_190_211 * 2**31 + 2**31 - 1
    assert 1025 * 4_190_211 * 2**31 < 2**63 <= 1025 * low
    for value, n in [(2**53, 1024), (low, 1025)]:
        with pytest.raises(OverflowError):
            totals(np.full(n, value), begin, np.array([n]), "amount")


# %% Hashes


def features_of(**members: Any) -> FeatureSet:
    return FeatureSet(Pay, [view(members)])


class Transfer(Stream):
    sender = Key()
    receiver = Key()
    amount = Fixed(places=2, high=1e6)


OTHER_VALUES = {
    "another aggregate of the same facts": lambda: [
        features_of(n=Pay.sum("amount", over=["1d"])),
        features_of(n=Pay.mean("amount", over=["1d"])),
    ],
    "an aggregate of no facts": lambda: [
        features_of(n=Pay.count(over=["1d"])),
        features_of(n=Pay.since_last(over=["1d"])),
    ],
    "what the share is of": lambda: [
        features_of(n=Pay.share(dict(kind=k), over=["1d"])) for k in ("card", "cash")
    ],
    "the order of the stream's fields for the entity": lambda: [
        FeatureSet(
            Transfer, [view(dict(n=Transfer.count(over=["1d"], by=b)), ("sender", "receiver"))]
        )
        for b in (("sender", "receiver"), ("receiver", "sender"))
    ],
    "the request's field for the entity": lambda: [
        FeatureSet(Transfer, [view(dict(n=Transfer.count(over=["1d"], by="sender")), k)])
        for k in ("sender", "receiver")
    ],
    "the vocabulary of a row-wise feature": lambda: [
        FeatureSet(
            type("Sale", (Stream,), dict(kind=Category(values=w))),
            [type("Row", (FeatureView,), {"kind": pl.col("kind")})],
        )
        for w in (("a", "b"), ("b", "a"))
    ],
    "the type of a field": lambda: [
        FeatureSet(
            s := type("Sale", (Stream,), dict(who=Key(), what=f)),
            [view(dict(n=s.distinct("what", over=["1d"])))],
        )
        for f in (Key(), Text())
    ],
}


HASHES = """
from helpers import Pay
from mlkit.features import FeatureSet, FeatureView
f = FeatureSet(Pay, [type("Who", (FeatureView,), {"k": Pay.last("kind", over=["1d"], where=dict(online=True))}, key="who")])
print(f.hash, f.state_hash)
"""


def test_hashes_are_the_same_in_every_process():
    "Where a definition has several conditions, their order is not that of a set, which Python draws anew for every process."
    said = {
        subprocess.run(
            [sys.executable, "-c", HASHES],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "1234"
    }
    assert len(said) == 1, said


@pytest.mark.parametrize("what", OTHER_VALUES)
def test_hash_changes_with_each_part_of_a_definition(what):
    one, two = OTHER_VALUES[what]()
    assert one.hash != two.hash


def sale(amount: Fixed, words: tuple[str, ...]) -> FeatureSet:
    stream = type("Sale", (Stream,), dict(who=Key(), amount=amount, kind=Category(values=words)))
    return FeatureSet(
        stream,
        [view(dict(s=stream.sum("amount", over=["1d"]), k=stream.last("kind", over=["1d"])))],
    )


OTHER_STATES = {
    "scale": lambda: [sale(Fixed(places=p, high=1000), ("a", "b")) for p in (2, 3)],
    "vocabulary": lambda: [sale(Fixed(places=2, high=1000), w) for w in (("a", "b"), ("b", "a"))],
    "what the share is of": lambda: [
        features_of(n=Pay.share(dict(kind=k), over=["1d"])) for k in ("card", "cash")
    ],
    "a condition": lambda: [
        features_of(n=Pay.count(over=["1d"], where=dict(kind=k))) for k in ("card", "cash")
    ],
    "the stream's field for the entity": lambda: [
        FeatureSet(Transfer, [view(dict(n=Transfer.count(over=["1d"], by=b)), "sender")])
        for b in ("sender", "receiver")
    ],
}


@pytest.mark.parametrize("what", OTHER_STATES)
def test_state_hash_changes_with_what_the_numbers_stand_for(what):
    one, two = OTHER_STATES[what]()
    assert one.state_hash != two.state_hash


def test_two_shares_of_one_entity_under_two_names():
    "Groups that differ in what the share is of have a state each."
    views = [
        view(
            dict(small=Transfer.share(dict(amount=at_least(5)), over=["1d"], by="receiver")),
            "sender",
            "Sender",
        ),
        view(
            dict(large=Transfer.share(dict(amount=at_least(50)), over=["1d"])),
            "receiver",
            "Receiver",
        ),
    ]
    features = FeatureSet(Transfer, views)
    rows = pl.DataFrame(
        [
            dict(
                event_id=f"t{i:02}",
                event_time=DAWN + timedelta(hours=i),
                sender=i % 2,
                receiver=i % 3 % 2,
                amount=i * i % 83 * 100,
            )
            for i in range(40)
        ],
        schema=Transfer.schema(),
    )
    with empty_state(features) as store:
        apply(store, Transfer, numbered(rows))
        assert_same_bits(
            online_frame(features, rows, store),
            offline(features, rows, {Transfer: rows}).drop("event_id"),
        )


# %% The online state


def test_keys_longer_than_the_store_allows():
    "Three texts of 200 bytes are one key too many for LMDB; they still name different entities."

    class Call(Stream):
        first = Text()
        last = Text()
        city = Text()

    features = FeatureSet(Call, [view(dict(n=Call.count(over=["1d"])), ("first", "last", "city"))])
    rows = pl.DataFrame(
        [
            dict(
                event_id=f"c{i}",
                event_time=DAWN + timedelta(minutes=i),
                first="x" * (170 + i % 2),
                last="y" * 170,
                city="z" * 169 + "ab"[i // 2 % 2],
            )
            for i in range(20)
        ],
        schema=Call.schema(),
    )
    with empty_state(features) as store:
        apply(store, Call, numbered(rows))
        assert_same_bits(
            online_frame(features, rows, store),
            offline(features, rows, {Call: rows}).drop("event_id"),
        )


def test_a_series_that_is_also_behind_a_distinct():
    "What a `distinct` keeps of its values may be a feature's own series too, before or after it."
    pair, who = (
        view(dict(n=Pay.count(over=["7d"])), ("who", "place"), "Pair"),
        view(dict(places=Pay.distinct("place", over=["1d", "7d"]))),
    )
    rows = pays(40, who=lambda i: i % 2, place=lambda i: "abc"[i * i % 7 % 3])
    for views in ([pair, who], [who, pair]):
        features = FeatureSet(Pay, views)
        assert len(features.stored) == 2
        with empty_state(features) as store:
            for part in numbered(rows.reverse()).iter_slices(7):
                assert apply(store, Pay, part) == part.height and apply(store, Pay, part) == 0
            assert_same_bits(
                online_frame(features, rows, store),
                offline(features, rows, {Pay: rows}).drop("event_id"),
            )


def test_loading_a_moment_of_more_events_than_a_chunk(logs, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 3)
    monkeypatch.setattr(nodes, "FAN", 2)
    at = [0, 0, 1, *[2] * 8, 3, 3, 3, 4, *[5] * 4, 6]
    rows = pays(len(at)).with_columns(
        event_time=pl.Series(
            [DAWN + timedelta(hours=h) for h in at], dtype=Pay.schema()["event_time"]
        )
    )
    append(logs[Pay], rows, "all")
    load_lmdb(FEATURES, tmp_path / "state", logs)
    history = {Pay: scan(logs[Pay]).collect(), Outcome: pl.DataFrame(schema=Outcome.schema())}
    with LmdbStore(FEATURES, tmp_path / "state") as store:
        assert_same_bits(
            online_frame(FEATURES, rows, store), offline(FEATURES, rows, history).drop("event_id")
        )


def test_loading_before_a_moment(logs, tmp_path):
    "Strictly before it; and the position says up to where nothing is left out, so that following the log brings the rest."
    rows = pays(30)[[*range(0, 30, 2), *range(1, 30, 2)]]  # every second one late
    append(logs[Pay], rows, "all")
    until, features = (
        rows["event_time"].sort()[20],
        features_of(n=Pay.count(over=["7d"]), total=Pay.sum("amount", over=["7d"])),
    )
    position = load_lmdb(features, tmp_path / "state", logs, until=until)
    left = scan(logs[Pay]).filter(pl.col("event_time") >= until).collect()["seq"].min()
    assert (
        position["seq"] == {"pay": left - 1}
        and position["watermark"] == (until - timedelta(hours=1)).isoformat()
    )
    with LmdbStore(features, tmp_path / "state", write=True) as store:
        assert (
            ask(
                Online(features),
                store,
                rows.row(29, named=True) | dict(event_time=until + timedelta(hours=1)),
            )["who_n_7d"]
            == 21
        )
        follow(store, logs)
        assert_same_bits(
            online_frame(features, rows, store),
            offline(features, rows, {Pay: rows}).drop("event_id"),
        )


def test_a_reader_goes_on_in_the_state_that_replaced_its_own(logs, tmp_path):
    rows, features = pays(20), features_of(n=Pay.count(over=["7d"]))
    append(logs[Pay], rows[:10], "first")
    load_lmdb(features, tmp_path / "state", logs)
    with LmdbStore(features, tmp_path / "state") as store:
        assert online_frame(features, rows[-1:], store)["who_n_7d"].to_list() == [11]
        append(logs[Pay], rows[10:19], "second")
        load_lmdb(features, tmp_path / "state", logs)
        assert online_frame(features, rows[-1:], store)["who_n_7d"].to_list() == [20]


def test_a_record_is_what_it_was():
    "Code that reads or writes a record in another way must give `layout` another number, or it would read the state of an earlier release."
    features = features_of(
        total=Pay.sum("amount", over=["7d"]),
        spread=Pay.std("amount", over=["7d"]),
        least=Pay.min("amount", over=["7d"]),
        places=Pay.distinct("place", over=["7d"]),
    )
    with empty_state(features) as store:
        apply(
            store,
            Pay,
            numbered(pays(3, amount=lambda i: [5, -7, 2**33][i], place=lambda i: "aba"[i])),
        )
        with store.env.begin() as txn:
            records = {
                k[4:].hex(): np.frombuffer(v, np.int64).tolist()
                for k, v in txn.cursor()
                if k[4:5] == b"\x00" and len(k) == 4 + 1 + 8 + 8
            }
    hour, t = 3_600_000_000, int(DAWN.timestamp()) * 1_000_000
    [record] = records.values()
    assert record == [
        3,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        t,
        t + hour,
        t + 2 * hour,
        0,
        1,
        2,
        0,
        1,
        2,
        5,
        -2,
        2**33 - 2,
        25,
        74,
        74,
        0,
        0,
        4,
        5,
        -7,
        2**33,
        -(2**63),
        -(2**63),
        t,
    ]
    assert features.layout == 3 and list(records) == [
        "00" + (1 + 2**63).to_bytes(8, "big").hex() + (t + 2**63).to_bytes(8, "big").hex()
    ]


LOADING = """
import sys
from mlkit.etl import Logs
from mlkit.lmdbstate import load_lmdb
from helpers import FEATURES
for _ in range(int(sys.argv[3])): load_lmdb(FEATURES, sys.argv[2], Logs(sys.argv[1]))
"""


def test_a_state_that_is_being_replaced_can_be_opened(logs, tmp_path):
    "By another process, over and over: whoever opens the state finds one, whole, however the two meet."
    state = tmp_path / "state"
    append(logs[Pay], pays(3), "all")
    load_lmdb(FEATURES, state, logs)
    loading = subprocess.Popen(
        [sys.executable, "-c", LOADING, str(logs.folder), str(state), "40"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    opened = 0
    while loading.poll() is None:
        for _ in range(50):
            with LmdbStore(FEATURES, state) as store, store.reader() as r:
                assert r.position()["seq"] == {"pay": 2}
            opened += 1
    assert loading.returncode == 0 and opened > 500
    os.rename(state, tmp_path / "elsewhere")
    with pytest.raises(StateError, match="no online state"):
        LmdbStore(FEATURES, state)


def test_state_of_other_features_is_refused(logs, tmp_path):
    append(logs[Pay], pays(3), "all")
    load_lmdb(features_of(n=Pay.count(over=["7d"])), tmp_path / "state", logs)
    with pytest.raises(StateError, match="holds the features"):
        LmdbStore(features_of(n=Pay.sum("amount", over=["7d"])), tmp_path / "state")


def test_conditions_that_read_alike_are_told_apart():
    "One text is not one of two."
    features = FeatureSet(
        Pay,
        [
            view(
                dict(
                    n=Pay.count(over=["1d"], where=dict(place="a or b")),
                    m=Pay.count(over=["1d"], where=dict(place=["a", "b"])),
                )
            )
        ],
    )
    assert len(features.stored) == 2
    rows = pl.DataFrame(
        [
            dict(
                event_id=f"p{i}",
                event_time=DAWN + timedelta(hours=i),
                who=1,
                place=["a", "b", "a or b"][i % 3],
                amount=1,
                online=True,
                kind="card",
            )
            for i in range(6)
        ],
        schema=Pay.schema(),
    )
    with empty_state(features) as store:
        apply(store, Pay, numbered(rows))
        assert_same_bits(
            online_frame(features, rows, store),
            offline(features, rows, {Pay: rows}).drop("event_id"),
        )


def test_two_series_with_the_same_occurrences():
    "Two entities of the requests, one field of the stream: the events are held once, with all that either needs."
    features = FeatureSet(
        Transfer,
        [
            view(
                dict(
                    got=Transfer.distinct("amount", over=["1d"], by="receiver"),
                    total=Transfer.sum("amount", over=["1d"], by="receiver"),
                ),
                "sender",
                "Sender",
            ),
            view(dict(got=Transfer.distinct("amount", over=["1d"])), "receiver", "Receiver"),
        ],
    )
    rows = pl.DataFrame(
        [
            dict(
                event_id=f"t{i:02}",
                event_time=DAWN + timedelta(hours=i),
                sender=i % 2,
                receiver=i % 3 % 2,
                amount=i * i % 7,
            )
            for i in range(40)
        ],
        schema=Transfer.schema(),
    )
    with empty_state(features) as store:
        apply(store, Transfer, numbered(rows))
        assert_same_bits(
            online_frame(features, rows, store),
            offline(features, rows, {Transfer: rows}).drop("event_id"),
        )


def test_more_than_64_facts_of_one_entity():
    "An entity without events has as many facts as any other."
    big = type(
        "Big", (Stream,), dict(who=Key(), **{f"x{i}": Fixed(places=2, high=100) for i in range(33)})
    )
    features = FeatureSet(
        big,
        [
            view(
                {
                    f"{k}{i}": getattr(big, k)(f"x{i}", over=["1d"])
                    for i in range(33)
                    for k in ("min", "sum")
                }
            )
        ],
    )
    request = dict(event_id="p", event_time=DAWN, who=1, **{f"x{i}": 5 for i in range(33)})
    with empty_state(features) as store:
        assert len(ask(Online(features), store, request)) == 66


def test_no_requests_in_blocks():
    "Nobody asks, of so many entities that they are counted in blocks."
    times = [datetime(1970, 1, 1, tzinfo=UTC), datetime(2099, 12, 31, tzinfo=UTC)]
    rows = pl.DataFrame(
        [
            dict(
                event_id=f"{k}{t}",
                event_time=t,
                who=k,
                place="a",
                amount=1,
                online=True,
                kind="card",
            )
            for k in range(3000)
            for t in times
        ],
        schema=Pay.schema(),
    )
    assert (
        offline(
            FeatureSet(Pay, [view(dict(n=Pay.count(over=["1h"])))]), rows.clear(), {Pay: rows}
        ).height
        == 0
    )


# %% Totals beyond 64 bits


class Sum(Stream):
    who = Key()
    amount = Fixed(places=0, high=9.2e12)


def million(n: int, who: int = 1) -> pl.DataFrame:
    "The largest amounts, every 25 minutes."
    return pl.DataFrame(
        dict(
            event_id=pl.Series(range(n)).cast(pl.String),
            seq=np.arange(n),
            event_time=pl.Series(np.arange(n) * 1_500_000_000).cast(pl.Datetime("us", "UTC")),
            who=np.arange(n) % who,
            amount=np.full(n, 92 * 10**11),
        )
    )


SUMS = FeatureSet(Sum, [view(dict(s=Sum.sum("amount", over=["1d"])))])


def test_total_of_all_entities_beyond_64_bits_when_loading():
    "Of all entities together, when the state is loaded."
    frame = million(1_200_000, who=2)
    with empty_state(SUMS) as store:
        with store.writer() as writer:
            fill(writer, SUMS, iter([(Sum, frame, frame.height - 1)]))
        asked = frame[-3:]
        assert (
            online_frame(SUMS, asked, store)["who_s_1d"].to_list()
            == offline(SUMS, asked, {Sum: frame})["who_s_1d"].to_list()
        )


def test_total_of_an_entity_since_ever_beyond_64_bits_is_answered_right():
    "Of one entity since ever; the window itself is small."
    frame = million(1_003_000)
    with empty_state(SUMS) as store:
        with store.writer() as writer:
            fill(writer, SUMS, iter([(Sum, frame, frame.height - 1)]))
        asked = frame[[1000, 1_002_630]]
        assert [ask(Online(SUMS), store, r)["who_s_1d"] for r in asked.to_dicts()] == offline(
            SUMS, asked, {Sum: frame}
        )["who_s_1d"].to_list()


def test_total_of_an_entity_since_ever_beyond_64_bits_can_be_applied():
    "And such an entity goes on."
    frame = million(1_003_000)
    with empty_state(SUMS) as store:
        with store.writer() as writer:
            fill(writer, SUMS, iter([(Sum, frame[:1_002_500], 1_002_499)]))
        for part in frame[1_002_500:].iter_slices(100):
            assert apply(store, Sum, part) == part.height
        assert (
            online_frame(SUMS, frame[-3:], store)["who_s_1d"].to_list()
            == offline(SUMS, frame[-3:], {Sum: frame})["who_s_1d"].to_list()
        )
