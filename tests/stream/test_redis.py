"A Redis stream with a consumer group: every entry once into the log, acknowledged only then."

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import world
from crowd import assert_log_complete, assert_state_equals_bulk_load, assert_unread_kept
from helpers import FEATURES, Outcome, Pay

from mlkit.entries import decode
from mlkit.etl import Logs, land
from mlkit.eventlog import scan
from mlkit.online import MissingStateError
from mlkit.redis_source import RedisSource, committed
from mlkit.sources import StreamError
from mlkit.stores import describe_store, ensure_store, open_store
from mlkit.stream import Consumer, Follower, run

STREAMS = [Pay, Outcome]


@pytest.fixture
def join(redis: Any, logs: Logs) -> Iterator[Any]:
    "Makes consumers of the group that belongs to `logs`."
    made: list[RedisSource] = []

    def make(**options: Any) -> RedisSource:
        made.append(
            RedisSource(
                redis.url, STREAMS, logs.folder / "stream", "events", **{"linger": 0.0, **options}
            )
        )
        return made[-1]

    yield make
    for s in made:
        s.close()


def drain(logs: Logs, source: RedisSource) -> Any:
    "Consume until there is nothing left; what was done."
    with ensure_store(FEATURES, logs.folder, logs) as store:
        return run(Consumer(logs, [Follower(store, logs)], source), once=True)


def pending(redis: Any) -> int:
    return redis.xpending("events", "mlkit")["pending"]


def test_every_entry_once(logs: Logs, redis: Any, join: Any) -> None:
    "Overlapping, dirty, contradicting and unreadable entries; then all of them again."
    for n in range(5):
        world.send(redis, "events", n)
    done = drain(logs, join(batch_size=37))
    assert (done.events, done.behind, done.lag.waiting, pending(redis)) == (
        len(world.pay_ids(5)) + len(world.outcome_ids(5)),
        0,
        0,
        0,
    )
    assert_log_complete(logs, 5)
    assert_unread_kept(logs, 5)
    assert_state_equals_bulk_load(logs)
    before = scan(logs[Pay]).collect()
    for n in range(5):
        world.send(redis, "events", n)
    assert drain(logs, join(batch_size=50)).events == 0
    assert scan(logs[Pay]).collect().equals(before)


def test_group_that_was_lost_is_read_again_from_the_beginning(
    logs: Logs, redis: Any, join: Any
) -> None:
    "Redis forgot how far it was: the log did not."
    for n in range(3):
        world.send(redis, "events", n)
    source = join()
    drain(logs, source)
    redis.xgroup_destroy("events", "mlkit")
    world.send(redis, "events", 3)
    with pytest.raises(StreamError, match="NOGROUP"):
        source.poll()
    assert drain(logs, source).duplicates > 0
    assert scan(logs[Pay]).collect()["event_id"].sort().to_list() == sorted(world.pay_ids(4))


@pytest.mark.parametrize(
    "fields, why",
    [
        (dict(stream="refund", event="{}"), "is not one of pay, outcome"),
        (dict(event="{}"), "is not one of pay, outcome"),
        (dict(stream="pay"), "not JSON"),
        (dict(stream="pay", event="{half"), "not JSON"),
        (dict(stream="pay", event='"text"'), "not a JSON object"),
        (dict(stream=b"\xff", event=b"\xff"), "is not one of pay, outcome"),
        (dict(stream="pay", event=b'{"who": "\xff"}'), "not JSON"),
    ],
)
def test_what_is_no_event_is_kept_with_its_entry_id(
    logs: Logs, redis: Any, join: Any, fields: dict, why: str
) -> None:
    "And does not keep the entries behind it from landing."
    entry = redis.xadd("events", fields).decode()
    world.send(redis, "events", 0)
    assert drain(logs, join()).events == len(world.pay_ids(1)) + len(world.outcome_ids(1))
    assert pending(redis) == 0
    kept = [(json.loads(r["row"])["entry"], r["reason"]) for r in logs.unreadable.read().to_dicts()]
    assert [w for e, w in kept if e == entry][0].find(why) >= 0


def test_what_is_no_event_is_kept_whole(logs: Logs, redis: Any, join: Any) -> None:
    "Other fields, and bytes that are no text: all of it can be had back from quarantine."
    redis.xadd("events", dict(stream=b"p\xe4y", event="{}", source="till 7"))
    drain(logs, join())
    [row] = [json.loads(r["row"]) for r in logs.unreadable.read().to_dicts()]
    assert row["stream"] == "p\\xe4y"
    assert json.loads(row["other"]) == {"source": "till 7"}


def test_a_field_beside_the_event_is_not_lost(logs: Logs, redis: Any, join: Any) -> None:
    "An event whose entry says more than the event is kept whole in quarantine, not cut to it."
    [(stream, row), *_] = world.batch(0)
    redis.xadd("events", dict(stream=stream, event=json.dumps(row), till="7"))
    assert drain(logs, join()).events == 0
    [kept] = logs.unreadable.read().to_dicts()
    assert json.loads(json.loads(kept["row"])["other"]) == {"till": "7"}
    assert json.loads(json.loads(kept["row"])["event"]) == row


def test_a_copied_workspace_has_a_state_of_its_own(
    logs: Logs, redis: Any, join: Any, tmp_path: Path
) -> None:
    "Two folders of one name share neither state nor consumer group; a moved one keeps its own."
    world.send(redis, "events", 0)
    drain(logs, join())
    with ensure_store(FEATURES, logs.folder, logs, redis.url) as store:
        held = describe_store(store)
    copy = tmp_path / "copy" / logs.folder.name
    shutil.copytree(logs.folder, copy)
    with pytest.raises(MissingStateError):
        describe_store(open_store(FEATURES, copy, redis.url))
    logs.folder.rename(tmp_path / "moved")
    with open_store(FEATURES, tmp_path / "moved", redis.url) as store:
        assert describe_store(store) == held


@pytest.mark.parametrize(
    "change, why",
    [
        (dict(colour="red"), "unknown field: colour"),
        (dict(amount="lots"), "amount: not a fixed"),
        (dict(who=None), "who: missing"),
        (dict(who=[1]), "who: not a key"),
        (dict(event_time="soon"), "event_time: not a time"),
    ],
)
def test_what_breaks_the_contract_is_kept_with_the_reason(
    logs: Logs, redis: Any, join: Any, change: dict, why: str
) -> None:
    redis.xadd("events", dict(stream="pay", event=json.dumps({**world.pay(1), **change})))
    assert drain(logs, join()).quarantined == 1
    assert pending(redis) == 0
    [row] = logs[Pay].quarantine.read().to_dicts()
    assert why in row["reason"]
    assert row["batch_id"].startswith("redis/events/")


def test_offsets_are_committed_with_the_rows(logs: Logs, redis: Any, join: Any) -> None:
    "From a row to its entries, and from the log to the last offset; another key is another offset."
    ids = [
        redis.xadd("events", dict(stream="pay", event=json.dumps(world.pay(i)))).decode()
        for i in range(9)
    ]
    drain(logs, join(batch_size=3))
    rows = scan(logs[Pay]).collect().sort("seq")
    spans = [b.split("/")[2].split("..") for b in rows["batch_id"]]
    assert spans == [[ids[i // 3 * 3], ids[i // 3 * 3 + 2]] for i in range(9)]
    assert committed(logs[Pay], "events") == tuple(int(n) for n in ids[-1].split("-"))
    assert committed(logs[Pay], "event") is None
    assert committed(logs[Outcome], "events") is None


def test_the_same_offsets_with_other_content_are_another_batch(logs: Logs) -> None:
    "A Redis that was emptied and numbers anew does not make its entries look like repeats."
    one, other = (
        decode(
            "events",
            [(b"1-1", {b"stream": b"pay", b"event": json.dumps(world.pay(i)).encode()})],
            {"pay": Pay},
        )
        for i in (1, 2)
    )
    assert [land(logs, b).new for b in (one, other, one)] == [1, 1, 0]


@pytest.mark.parametrize("moment", ["log", "state", "done"])
def test_a_consumer_that_dies_with_pending_entries(
    logs: Logs, redis: Any, consumers: Any, moment: str
) -> None:
    "The next one on this machine has its name and goes on at once, whatever the time."
    for n in range(2):
        world.send(redis, "events", n)
    crowd = consumers(url=redis.url, batch_size=30, linger=0.0, takeover=3600)
    assert crowd.wait(crowd.start(moment=moment)) == -9
    assert pending(redis) == 30
    crowd.once()
    assert pending(redis) == 0
    assert len(redis.xinfo_consumers("events", "mlkit")) == 1
    assert_log_complete(logs, 2)
    assert_unread_kept(logs, 2)
    assert_state_equals_bulk_load(logs)


def test_entries_of_a_silent_consumer_are_taken_over_whole(
    logs: Logs, redis: Any, join: Any
) -> None:
    """All it had, as one batch of the same name; when it turns out to be alive, its batch is
    there already."""
    for n in range(2):
        world.send(redis, "events", n)
    silent, other = join(batch_size=40), join(batch_size=7, takeover=0.0)
    assert silent.name != other.name
    [held] = silent.poll()
    [taken] = other.poll()
    assert (taken.name, taken.handle) == (held.name, held.handle)
    assert "took over 40 entries" in other.notices[0]
    landed = land(logs, taken)
    other.done(taken)
    again = land(logs, held)
    silent.done(held)
    assert landed.new > 0
    assert again.new == 0
    assert pending(redis) == 0
    drain(logs, other)
    assert_log_complete(logs, 2)


def test_a_consumer_that_is_at_work_is_left_alone(redis: Any, join: Any) -> None:
    world.send(redis, "events", 0)
    busy, other = join(batch_size=20), join(batch_size=20, takeover=3600)
    [held], [next_one] = busy.poll(), other.poll()
    assert not set(held.handle) & set(next_one.handle)


def test_entries_trimmed_before_they_were_read_are_noted(logs: Logs, redis: Any, join: Any) -> None:
    "They are gone from Redis; that they were there is in quarantine."
    world.send(redis, "events", 0)
    first = join(batch_size=5)
    [held] = first.poll()
    redis.xdel("events", held.handle[0])
    first.close()
    drain(logs, join())
    assert [
        json.loads(r["row"])["entry"]
        for r in logs.unreadable.read().to_dicts()
        if "deleted" in r["reason"]
    ] == [held.handle[0].decode()]
    assert pending(redis) == 0


def test_two_consumers_at_once(logs: Logs, redis: Any, consumers: Any) -> None:
    "Started together, with compaction every few files: together they take every entry once."
    for n in range(16):
        world.send(redis, "events", n)
    crowd = consumers(url=redis.url, once=True, batch_size=45, linger=0.0)
    pids = [crowd.start(), crowd.start()]
    assert [crowd.wait(p) for p in pids] == [0, 0], crowd.errors.read_text()
    assert pending(redis) == 0
    assert_log_complete(logs, 16)
    assert_unread_kept(logs, 16)
    assert_state_equals_bulk_load(logs)


def test_an_error_in_between_leaves_nothing_behind(
    logs: Logs, redis: Any, join: Any, monkeypatch: Any
) -> None:
    """The connection breaks after Redis gave the entries away: the next poll gets them, and
    before anything new."""
    import redis as client

    world.send(redis, "events", 0)
    source = join(batch_size=10)
    honest = source._redis.xreadgroup

    def breaks(*a: Any, **k: Any) -> None:
        honest(*a, **k)
        raise client.ConnectionError("gone")

    monkeypatch.setattr(source._redis, "xreadgroup", breaks)
    source._none_pending = True
    with pytest.raises(StreamError, match="gone"):
        source.poll()
    monkeypatch.undo()
    [batch] = source.poll()
    assert batch.handle == [n for n, _ in redis.xrange("events", count=10)]
    assert pending(redis) == 10


def test_the_password_is_never_shown(tmp_path: Path, server: Any) -> None:
    """Neither of a server that is not there, nor of one that refuses it, nor of an address that
    is none."""
    for url in ("redis://me:secret@127.0.0.1:1/0", f"redis://me:secret@127.0.0.1:{server.port}/0"):
        source = RedisSource(url, STREAMS, tmp_path)
        with pytest.raises(StreamError, match="127.0.0.1") as e:
            source.poll()
        assert "secret" not in str(e.value) + source.title
        assert e.value.__cause__ is None
        source.close()
    for url in ("secret", "redis://127.0.0.1:secret/0"):
        with pytest.raises(StreamError, match="MLKIT_REDIS_URL") as e:
            RedisSource(url, STREAMS, tmp_path)
        assert "secret" not in str(e.value)


def test_a_value_of_another_type_at_the_key(redis: Any, join: Any) -> None:
    "It is said what is there; once it has gone, entries are taken."
    redis.set("events", "text")
    source = join()
    for _ in range(2):
        with pytest.raises(StreamError, match="the key events in Redis holds something else"):
            source.poll()
    redis.delete("events")
    world.send(redis, "events", 0)
    assert source.poll()


@pytest.mark.parametrize(
    "fields",
    [
        {b"": b""},
        {b"stream": b"pay", b"event": b"x" * 10_000_000},
        {b"stream": b"pay", b"event": b'{"event_id": "' + b"x" * 10_000_000 + b'"}'},
        {b"stream": b"pay", b"event": b"[" * 100_000},
        {b"stream": b"pay", b"event": b"{}", b"\xff\x00": b"\xfe" * 1000},
        {b"stream": b"p" * 1_000_000, b"event": b"{}"},
    ],
    ids=["no field", "10 MB", "an id of 10 MB", "deep", "bytes", "a long name"],
)
def test_an_entry_of_any_kind_does_not_keep_the_others(
    logs: Logs, redis: Any, join: Any, fields: dict
) -> None:
    redis.xadd("events", fields)
    world.send(redis, "events", 0)
    done = drain(logs, join())
    assert done.events == len(world.pay_ids(1)) + len(world.outcome_ids(1))
    assert pending(redis) == 0


def test_entries_that_no_reader_foresees(
    logs: Logs, redis: Any, join: Any, monkeypatch: Any
) -> None:
    "One that breaks the reading of its batch is kept as it came; the others land."
    import mlkit.entries as module

    honest = module.decode

    def breaks(key: str, entries: list, streams: dict) -> Any:
        if any(b"e3" in (f or {}).get(b"event", b"") for _, f in entries):
            raise RuntimeError("no such case")
        return honest(key, entries, streams)

    monkeypatch.setattr(module, "decode", breaks)
    for i in range(6):
        redis.xadd("events", dict(stream="pay", event=json.dumps(world.pay(i))))
    done = drain(logs, join())
    assert (done.batches, done.events, done.quarantined) == (1, 5, 1)
    assert "no such case" in logs.unreadable.read()["reason"][0]


def test_a_batch_that_cannot_land_is_kept_in_quarantine(
    logs: Logs, redis: Any, join: Any, monkeypatch: Any
) -> None:
    import mlkit.stream as module

    honest, met = module.land, []

    def breaks(*a: Any) -> Any:
        if not met:
            met.append(1)
            raise pl.exceptions.ComputeError("odd")
        return honest(*a)

    monkeypatch.setattr(module, "land", breaks)
    world.send(redis, "events", 0)
    drain(logs, join(batch_size=10))
    assert logs.unreadable.read()["reason"].str.contains("cannot land").sum() == 10
    assert pending(redis) == 0


def test_another_consumer_whose_name_is_no_text(redis: Any, join: Any) -> None:
    world.send(redis, "events", 0)
    first = join()
    first.poll()
    redis.xreadgroup("mlkit", b"\xff", {"events": ">"}, count=5)
    assert join(takeover=0).poll()


@pytest.mark.parametrize("twice", ["event", "stream"])
def test_a_field_that_is_there_twice_is_kept_with_both_values(
    logs: Logs, redis: Any, join: Any, twice: str
) -> None:
    "valkey-io/valkey-go#47, redis/RedisInsight#757: an entry is a list of pairs, and no dict."
    given = ["stream", "pay", "event", json.dumps(world.pay(1))]
    given += [twice, dict(event=json.dumps(world.pay(2)), stream="outcome")[twice]]
    redis.execute_command("XADD", "events", "*", *given)
    redis.xadd("events", dict(stream="pay", event=json.dumps(world.pay(3))))
    done = drain(logs, join())
    assert (done.events, done.quarantined, pending(redis)) == (1, 1, 0)
    kept = logs.unreadable.read().row(0, named=True)
    assert kept["reason"] == f"field '{twice}' is there twice"
    pairs = json.loads(json.loads(kept["row"])["other"])
    assert pairs == [list(pair) for pair in zip(given[::2], given[1::2])]
