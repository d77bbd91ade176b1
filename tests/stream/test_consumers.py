"Consumers that die, meet, wait or are asked to stop: each batch once, log and state in step."

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest
import world
from crowd import assert_log_complete, assert_state_equals_bulk_load
from helpers import Outcome, Pay
from inbox import drain, files, source

from mlkit.etl import Logs
from mlkit.eventlog import scan
from mlkit.stream import Consumer, Display, run
from mlkit.tables import LogError
from mlkit.tidy import _locked


@pytest.mark.parametrize("moment", ["log", "state", "done"])
def test_a_consumer_that_dies_between_the_steps(logs: Logs, consumers: Any, moment: str) -> None:
    """Before the log has the batch, before the state has it, before the source knows: the next
    consumer leaves no trace of it."""
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
    """Started together on a full folder, with compaction every few files: together they take
    every file once."""
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
    """A consumer that finds another merging leaves it at that; the rows stay what they were,
    once each."""
    inbox = source(logs).inbox
    world.drop(inbox, 0)
    run(Consumer(logs, [], source(logs)), once=True)
    for n in range(1, 4):
        world.drop(inbox, n)
    consumer = Consumer(logs, [], source(logs), compact_after=1)
    with _locked(logs[Pay].uri, "merge", fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
        assert alone
        run(consumer, once=True)
    assert len(logs[Outcome].table().file_uris()) < len(logs[Pay].table().file_uris())
    assert consumer.stats.compactions > 0
    assert_log_complete(logs, 4)


def test_a_full_disk_is_waited_out(logs: Logs, monkeypatch: Any) -> None:
    """The batch in hand is kept and lands when there is room again; with `once` the error is the
    caller's."""
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
    assert run(consumer, display=Say(), every=0).errors == 1
    assert "no space left" in said[0]
    assert "Trying again" in said[0]
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
    assert set(scan(logs[Pay]).collect()["event_id"]) == taken
    assert 0 < len(files(logs, "done")) < 60
    assert_state_equals_bulk_load(logs)


def test_a_stream_leaves_few_files(logs: Logs, monkeypatch: Any) -> None:
    "However many batches came: what was merged goes, and the last ones are fewer than a merge."
    import mlkit.tidy as module

    monkeypatch.setattr(module, "_KEEP_HOURS", 0)
    inbox = source(logs).inbox
    for n in range(30):
        world.drop(inbox, n)
    run(Consumer(logs, [], source(logs), compact_after=8), once=True)
    days = scan(logs[Pay]).collect()["event_date"].n_unique()
    root = Path(logs[Pay].uri)
    assert len([p for p in root.rglob("*.parquet") if "_delta_log" not in p.parts]) < days + 2 * 8
    assert_log_complete(logs, 30)
