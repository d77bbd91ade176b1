"Files dropped in a folder: each once into the log, none lost, whatever state they are in."

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import world
from crowd import assert_log_complete, assert_state_equals_bulk_load
from helpers import FEATURES, Outcome, Pay

from mlkit.etl import Logs, ingest, land
from mlkit.eventlog import _alone, scan
from mlkit.sources import FolderSource
from mlkit.stores import ensure_store
from mlkit.stream import Consumer, Display, Follower, run
from mlkit.tables import LogError
from mlkit.usecases import fraud, simulator


def source(logs: Logs, settle: float = 0.0) -> FolderSource:
    return FolderSource(logs.folder / "inbox", [Pay, Outcome], settle=settle)


def drain(logs: Logs, **options: Any) -> Any:
    "Consume until the folder is empty; what was done."
    with ensure_store(FEATURES, logs.folder, logs) as store:
        return run(Consumer(logs, [Follower(store, logs)], source(logs, **options)), once=True)


def files(logs: Logs, *parts: str) -> list[str]:
    return sorted(p.name for p in (logs.folder / "inbox").joinpath(*parts).iterdir() if p.is_file())


def rows(n: int) -> str:
    return "".join(json.dumps(row) + "\n" for s, row in world.batch(n) if s == "pay")


def test_every_file_once(logs: Logs) -> None:
    "Overlapping, dirty and contradicting batches; then all of them again, under other names."
    inbox = source(logs).inbox
    for n in range(6):
        world.drop(inbox, n)
    done = drain(logs)
    assert (done.batches, done.events, done.behind, done.lag.waiting) == (
        12,
        len(world.pay_ids(6)) + len(world.outcome_ids(6)),
        0,
        0,
    )
    assert_log_complete(logs, 6)
    assert_state_equals_bulk_load(logs)
    for p in (inbox / "done").iterdir():
        os.replace(p, inbox / f"again-{p.name}")
    assert (
        (again := drain(logs)).events == 0 and again.duplicates >= done.events and not files(logs)
    )
    assert_log_complete(logs, 6)


def test_a_file_of_a_known_format_is_the_repeat_of_an_ingest(logs: Logs, tmp_path: Path) -> None:
    "The same file through `mlkit run` and through the folder is the same batch, bad rows included."
    path = tmp_path / "simulated.parquet"
    raw = simulator.simulate(customers=5, terminals=5, days=10, seed=1)
    simulator.write(
        raw.with_columns(
            amount=pl.when(pl.int_range(pl.len()) == 3).then(-1.0).otherwise("amount")
        ),
        path,
    )
    ingested = ingest(path, fraud.usecase.formats, logs)
    before = {s.name: scan(logs[s]).collect().sort("seq") for s in fraud.usecase.streams}
    inbox = FolderSource(
        logs.folder / "inbox", fraud.usecase.streams, fraud.usecase.formats, settle=0
    )
    (inbox.inbox / "other name.parquet").write_bytes(path.read_bytes())
    [batch] = inbox.poll()
    landed = land(logs, batch)
    inbox.done(batch)
    assert (
        ingested.quarantined == 1
        and landed.new == 0
        and landed.duplicates > 0
        and files(logs, "done") == ["other name.parquet"]
    )
    assert all(
        scan(logs[s]).collect().sort("seq").equals(before[s.name]) for s in fraud.usecase.streams
    )
    assert logs[fraud.Transaction].quarantine.read().height == 1


@pytest.mark.parametrize(
    "name, content, why",
    [
        ("cut.jsonl", b'{"event_id": "a", "event_time": "2025', "line 1: not JSON"),
        ("list.jsonl", b"[1]\n", "not a JSON object"),
        ("empty.csv", b"", "cannot be read"),
        ("torn.parquet", b"PAR1 and no more", "cannot be read"),
        ("false.parquet", b"a,b\n1,2\n", "no Parquet file"),
        ("notes.txt", b"hello", "not known"),
        ("other.csv", b"colour\nred\n", "fits no known format"),
    ],
)
def test_what_cannot_be_read_is_put_aside_with_the_reason(
    logs: Logs, name: str, content: bytes, why: str
) -> None:
    "Nothing of it lands, nothing of it is lost, and the files after it are taken."
    inbox = source(logs).inbox
    (inbox / name).write_bytes(content)
    world.drop(inbox, 0)
    assert drain(logs).events > 0 and not files(logs)
    assert (inbox / "rejected" / name).read_bytes() == content and why in (
        inbox / "rejected" / f"{name}.reason.txt"
    ).read_text()
    (inbox / name).write_bytes(content + b" ")
    drain(logs)
    assert (
        len(files(logs, "rejected")) == 4 and (inbox / "rejected" / name).read_bytes() == content
    )  # the second one beside the first
    assert_log_complete(logs, 1)


def test_names_of_unfinished_files_are_left_alone(logs: Logs) -> None:
    "Hidden ones, `.part` and `.tmp`."
    inbox = source(logs).inbox
    for name in (".a.jsonl", "a.jsonl.part", "a.tmp"):
        (inbox / name).write_text(rows(0))
    assert drain(logs).batches == 0 and source(logs).lag().waiting == 0 and len(files(logs)) == 3


def test_a_file_that_still_changes_waits(logs: Logs, monkeypatch: Any) -> None:
    "It is taken when it has not changed for `settle` seconds, by the clock."
    waiting, inbox = source(logs, settle=60), source(logs).inbox
    (inbox / "a.jsonl").write_text(rows(0))
    changed = (inbox / "a.jsonl").stat().st_ctime
    monkeypatch.setattr("mlkit.sources.time.time", lambda: changed + 59)
    assert waiting.poll() == [] and waiting.lag().unsettled == waiting.lag().waiting == 1
    monkeypatch.setattr("mlkit.sources.time.time", lambda: changed + 61)
    assert waiting.lag().unsettled == 0 and len(waiting.poll()) == 1


def test_a_file_that_grows_after_it_was_read_is_read_again(logs: Logs) -> None:
    "Its producer paused longer than `settle`: what it wrote later is not lost in `done/`, and what landed before is recognised."
    path, text = source(logs).inbox / "a.jsonl", rows(0).splitlines(keepends=True)
    path.write_text("".join(text[:5]))
    folder = source(logs)
    [batch] = folder.poll()
    land(logs, batch)
    with open(path, "a") as writer:
        writer.writelines(text[5:])
    folder.done(batch)
    assert (
        files(logs) == ["a.jsonl"]
        and drain(logs).duplicates >= 5
        and files(logs, "done") == ["a.jsonl"]
    )
    assert set(scan(logs[Pay]).collect()["event_id"]) == world.pay_ids(1)


@pytest.mark.skipif(
    not hasattr(fcntl, "F_SETLEASE"), reason="only Linux tells whether a file is open for writing"
)
def test_a_file_that_is_open_for_writing_is_left(logs: Logs) -> None:
    "However long its producer pauses; it is said once, and taken when it is closed."
    path, text = source(logs).inbox / "a.jsonl", rows(0).splitlines(keepends=True)
    folder = source(logs)
    with open(path, "w") as writer:
        writer.writelines(text[:5])
        writer.flush()
        assert folder.poll() == [] == folder.poll() and files(logs) == ["a.jsonl"]
        assert folder.notices == ["a.jsonl stays in the inbox: somebody is still writing it"]
        writer.writelines(text[5:])
    assert drain(logs).events == len(world.pay_ids(1))


@pytest.mark.parametrize(
    "name", ["a[b].jsonl", "a*.jsonl", "a?.jsonl", "{a,b}.jsonl", "ä b%20.jsonl"]
)
def test_a_name_that_looks_like_a_pattern_is_a_name(logs: Logs, name: str) -> None:
    "And not that of another file, whose rows would be taken for its own."
    (source(logs).inbox / name).write_text(rows(0))
    (source(logs).inbox / "ab.jsonl").write_text(rows(1))
    (source(logs).inbox / "a[c].csv").write_text(
        "".join(
            f"{line}\n"
            for line in [
                "event_id,event_time,who,place,amount,online,kind",
                "c1,2025-03-28T21:00:00Z,1,a,1.5,true,card",
            ]
        )
    )
    drain(logs)
    assert set(scan(logs[Pay]).collect()["event_id"]) == world.pay_ids(2) | {"c1"} and not files(
        logs, "rejected"
    )


def test_a_file_that_cannot_be_opened_does_not_hold_up_the_others(
    logs: Logs, monkeypatch: Any
) -> None:
    "It stays where it is, and that is said once."
    import builtins

    honest, folder = builtins.open, source(logs)
    for n, name in enumerate(["a.jsonl", "b.jsonl"]):
        (folder.inbox / name).write_text(rows(n))

    def guarded(path: Any, *a: Any, **k: Any) -> Any:
        if str(path).endswith("a.jsonl"):
            raise PermissionError(13, "Permission denied")
        return honest(path, *a, **k)

    monkeypatch.setattr("mlkit.sources.open", guarded, raising=False)
    [batch] = folder.poll()
    land(logs, batch)
    folder.done(batch)
    assert folder.poll() == [] and files(logs) == ["a.jsonl"] and files(logs, "done") == ["b.jsonl"]
    assert folder.notices == ["a.jsonl stays in the inbox: it cannot be read (Permission denied)"]


@pytest.mark.parametrize(
    "data, why",
    [
        ("who;place\n1;a\n".encode(), "divided by semicolons"),
        ("who,place\n1,a\n".encode("utf-16"), "UTF-16"),
        ("who,place\n1,caf\xe9 and more\n".encode("latin-1"), "line 2: not UTF-8"),
    ],
)
def test_text_of_another_kind_is_named(logs: Logs, data: bytes, why: str) -> None:
    (source(logs).inbox / "a.csv").write_bytes(data)
    drain(logs)
    assert why in (source(logs).inbox / "rejected" / "a.csv.reason.txt").read_text()


def test_a_half_written_file_is_not_rejected_once_it_is_whole(logs: Logs, monkeypatch: Any) -> None:
    "A file that cannot be read, but has changed by the time that is known, stays where it is."
    import mlkit.sources as module

    path, honest = source(logs).inbox / "a.jsonl", module.file_batch
    path.write_text(rows(0)[:-20])

    def grows(p: Path, formats: list) -> Any:
        try:
            return honest(p, formats)
        finally:
            path.write_text(rows(0))

    monkeypatch.setattr(module, "file_batch", grows)
    assert (
        source(logs).poll() == [] and files(logs) == ["a.jsonl"] and files(logs, "rejected") == []
    )
    monkeypatch.undo()
    assert drain(logs).events == len(world.pay_ids(1))


def test_a_claimed_file_is_left_to_its_consumer(logs: Logs) -> None:
    "While another holds the lock it is passed over; when that one is gone, it is taken."
    inbox = source(logs).inbox
    world.drop(inbox, 0)
    first, second = source(logs), source(logs)
    [mine], [theirs] = first.poll(), second.poll()
    assert mine.handle.path != theirs.handle.path and second.poll() == []
    mine.handle.file.close()
    assert [b.handle.path for b in second.poll()] == [mine.handle.path]


def test_names_in_done_are_never_overwritten(logs: Logs) -> None:
    inbox = source(logs).inbox
    for n in range(3):
        (inbox / "daily.jsonl").write_text(rows(n))
        drain(logs)
    assert files(logs, "done") == ["daily-1.jsonl", "daily-2.jsonl", "daily.jsonl"] and {
        (inbox / "done" / f).read_text() for f in files(logs, "done")
    } == {rows(n) for n in range(3)}


@pytest.mark.parametrize("moment", ["log", "state", "done"])
def test_a_consumer_that_dies_between_the_steps(logs: Logs, consumers: Any, moment: str) -> None:
    "Before the log has the batch, before the state has it, before the source knows: the next consumer leaves no trace of it."
    inbox = source(logs).inbox
    world.drop(inbox, 0)
    world.drop(inbox, 1)
    crowd = consumers()
    assert crowd.wait(crowd.start(moment=moment)) == -9
    crowd.once()
    assert not files(logs)
    assert_log_complete(logs, 2)
    assert_state_equals_bulk_load(logs)


def test_two_consumers_at_once(logs: Logs, consumers: Any) -> None:
    "Started together on a full folder, with compaction every few files: together they take every file once."
    inbox = source(logs).inbox
    for n in range(12):
        world.drop(inbox, n)
    crowd = consumers(once=True)
    pids = [crowd.start(), crowd.start()]
    assert [crowd.wait(p) for p in pids] == [0, 0], crowd.errors.read_text()
    assert len(files(logs, "done")) == 24
    assert_log_complete(logs, 12)
    assert_state_equals_bulk_load(logs)


def test_files_are_merged_by_one_consumer_at_a_time(logs: Logs) -> None:
    "A consumer that finds another merging leaves it at that; the rows stay what they were, once each."
    inbox = source(logs).inbox
    for n in range(4):
        world.drop(inbox, n)
    consumer = Consumer(logs, [], source(logs), compact_after=1)
    with _alone(logs[Pay]) as alone:
        assert alone
        run(consumer, once=True)
    assert (
        len(logs[Outcome].table().file_uris()) < len(logs[Pay].table().file_uris())
        and consumer.stats.compactions > 0
    )
    assert_log_complete(logs, 4)


def test_a_full_disk_is_waited_out(logs: Logs, monkeypatch: Any) -> None:
    "The batch in hand is kept and lands when there is room again; with `once` the error is the caller's."
    import mlkit.etl as module

    world.drop(source(logs).inbox, 0)
    honest, said = module.append, []

    def full(*_: Any) -> None:
        raise LogError("cannot write: no space left on device. Nothing was appended.")

    monkeypatch.setattr(module, "append", full)
    with pytest.raises(LogError):
        drain(logs)

    class Say(Display):
        def say(self, text: str) -> None:
            said.append(text)
            monkeypatch.setattr(module, "append", honest)

        def numbers(self, progress: Any) -> None:
            if progress.batches == 2:
                consumer.stop.set()

    consumer = Consumer(logs, [], source(logs))
    monkeypatch.setattr(consumer.stop, "wait", lambda seconds: False)
    assert (
        run(consumer, display=Say(), every=0).errors == 1
        and "no space left" in said[0]
        and "Trying again" in said[0]
    )
    assert_log_complete(logs, 1)


def test_asked_to_stop_it_finishes_the_batch_in_hand(logs: Logs, consumers: Any) -> None:
    "SIGTERM: exit status 0, log and state in step, and no file half done."
    inbox = source(logs).inbox
    for n in range(30):
        world.drop(inbox, n)
    crowd = consumers()
    pid = crowd.start()
    while not any("pay" in f for f in files(logs, "done")):
        assert not crowd.ended(pid), crowd.errors.read_text()
    assert crowd.end(pid) == 0
    taken = {
        row["event_id"]
        for f in files(logs, "done")
        if "pay" in f
        for row in map(json.loads, (inbox / "done" / f).read_text().splitlines())
        if row["amount"] >= 0
    }
    assert set(scan(logs[Pay]).collect()["event_id"]) == taken and 0 < len(files(logs, "done")) < 60
    assert_state_equals_bulk_load(logs)
