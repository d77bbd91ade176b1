"Files dropped in a folder: each once into the log, none lost, whatever state they are in."

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import world
from crowd import assert_log_complete, assert_state_equals_bulk_load
from helpers import Pay
from inbox import drain, files, rows, source

from mlkit.etl import Logs, ingest, land
from mlkit.eventlog import scan
from mlkit.sources import FolderSource
from mlkit.usecases import fraud, simulator


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
    assert (again := drain(logs)).events == 0
    assert again.duplicates >= done.events
    assert not files(logs)
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
    assert ingested.quarantined == 1
    assert landed.new == 0
    assert landed.duplicates > 0
    assert files(logs, "done") == ["other name.parquet"]
    assert all(
        scan(logs[s]).collect().sort("seq").equals(before[s.name]) for s in fraud.usecase.streams
    )
    assert logs[fraud.Transaction].quarantine.read().height == 1


def test_names_of_unfinished_files_are_left_alone(logs: Logs) -> None:
    "Hidden ones, `.part` and `.tmp`."
    inbox = source(logs).inbox
    for name in (".a.jsonl", "a.jsonl.part", "a.tmp"):
        (inbox / name).write_text(rows(0))
    assert drain(logs).batches == 0
    assert source(logs).lag().waiting == 0
    assert len(files(logs)) == 3


def test_a_file_that_still_changes_waits(logs: Logs, monkeypatch: Any) -> None:
    "It is taken when it has not changed for `settle` seconds, by the clock."
    waiting, inbox = source(logs, settle=60), source(logs).inbox
    (inbox / "a.jsonl").write_text(rows(0))
    changed = (inbox / "a.jsonl").stat().st_ctime
    monkeypatch.setattr("mlkit.sources.time.time", lambda: changed + 59)
    assert waiting.poll() == []
    assert waiting.lag().unsettled == waiting.lag().waiting == 1
    monkeypatch.setattr("mlkit.sources.time.time", lambda: changed + 61)
    assert waiting.lag().unsettled == 0
    assert len(waiting.poll()) == 1


def test_a_file_that_grows_after_it_was_read_is_read_again(logs: Logs) -> None:
    """Its producer paused longer than `settle`: what it wrote later is not lost in `done/`, and
    what landed before is recognised."""
    path, text = source(logs).inbox / "a.jsonl", rows(0).splitlines(keepends=True)
    path.write_text("".join(text[:5]))
    folder = source(logs)
    [batch] = folder.poll()
    land(logs, batch)
    with open(path, "a") as writer:
        writer.writelines(text[5:])
    folder.done(batch)
    assert files(logs) == ["a.jsonl"]
    assert drain(logs).duplicates >= 5
    assert files(logs, "done") == ["a.jsonl"]
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
        assert folder.poll() == [] == folder.poll()
        assert files(logs) == ["a.jsonl"]
        assert folder.notices == ["a.jsonl stays in the inbox: somebody is still writing it"]
        writer.writelines(text[5:])
    assert drain(logs).events == len(world.pay_ids(1))


def test_a_claimed_file_is_left_to_its_consumer(logs: Logs) -> None:
    "While another holds the lock it is passed over; when that one is gone, it is taken."
    inbox = source(logs).inbox
    world.drop(inbox, 0)
    first, second = source(logs), source(logs)
    [mine], [theirs] = first.poll(), second.poll()
    assert mine.handle.path != theirs.handle.path
    assert second.poll() == []
    mine.handle.file.close()
    assert [b.handle.path for b in second.poll()] == [mine.handle.path]


def test_names_in_done_are_never_overwritten(logs: Logs) -> None:
    inbox = source(logs).inbox
    for n in range(3):
        (inbox / "daily.jsonl").write_text(rows(n))
        drain(logs)
    assert files(logs, "done") == ["daily-1.jsonl", "daily-2.jsonl", "daily.jsonl"]
    assert {(inbox / "done" / f).read_text() for f in files(logs, "done")} == {
        rows(n) for n in range(3)
    }
