"Whatever a file is or is called, the next is taken; a failure that is not the file's rejects none."

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import world
from crowd import assert_log_complete
from helpers import Pay
from inbox import drain, files, rows, source

from mlkit.etl import Logs
from mlkit.eventlog import scan
from mlkit.sources import FolderSource, StreamError
from mlkit.stream import Consumer, Display, run

BAD = b"colour\nred\n"
NAMES = {
    "line end": b"a\nb.csv",
    "escape": b"a\x1b[31mb.csv",
    "255 bytes": b"a" * 251 + b".csv",
    "255 bytes of two-byte letters": "ä".encode() * 125 + b"b.csv",
    "percent": b"a%41.csv",
    "brackets": b"a[1].csv",
    "braces": b"{a,b}.csv",
    "star": b"*.csv",
    "not UTF-8": b"a\xff.csv",
    "space": b" .csv",
    "quote": b"a'\"`.csv",
    "markup": b"[red]a[bold].csv",
    "a reason": b"a.csv.reason.txt",
    "a long reason": b"a" * 244 + b".reason.txt",
}


def inbox_of(logs: Logs) -> Path:
    return source(logs).inbox


def put(inbox: Path, name: bytes, content: bytes) -> bytes:
    path = os.path.join(os.fsencode(inbox), name)
    Path(os.fsdecode(path)).write_bytes(content)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_file_of_any_name_is_put_aside(logs: Logs, name: str) -> None:
    "Its content is kept, its reason lies beside it as text, and the good one behind it is taken."
    inbox = inbox_of(logs)
    for content in (BAD, BAD + b"blue\n"):
        put(inbox, NAMES[name], content)
        world.drop(inbox, 0)
        drain(logs)
    assert not files(logs)
    aside = {p.read_bytes(): p for p in (inbox / "rejected").iterdir()}
    assert {BAD, BAD + b"blue\n"} < set(aside)
    for content in (BAD, BAD + b"blue\n"):
        reason = aside[content].with_name(aside[content].name + ".reason.txt")
        assert reason.read_text(encoding="utf-8").removesuffix("\n").isprintable()
    assert_log_complete(logs, 1)


@pytest.mark.parametrize("name", [n for n in NAMES if "reason" not in n])
def test_a_good_file_of_any_name_is_taken(logs: Logs, name: str) -> None:
    "Or, where no reader can be told its name, put aside with that for a reason."
    inbox = inbox_of(logs)
    put(inbox, NAMES[name].replace(b".csv", b".jsonl")[-255:], rows(0).encode())
    drain(logs)
    assert not files(logs)
    if name == "not UTF-8":
        reasons = list((inbox / "rejected").glob("*.reason.txt"))
        assert "not UTF-8; rename" in reasons[0].read_text()
    else:
        assert set(scan(logs[Pay]).collect()["event_id"]) == world.pay_ids(1)


def test_what_is_no_file_stays_and_is_named_once(logs: Logs) -> None:
    "A link to itself, a link to nothing, a pipe, a folder: none is waited for."
    inbox = inbox_of(logs)
    (inbox / "loop.csv").symlink_to(inbox / "loop.csv")
    (inbox / "nowhere.csv").symlink_to(inbox / "gone.csv")
    os.mkfifo(inbox / "pipe.csv")
    (inbox / "folder.csv").mkdir()
    world.drop(inbox, 0)
    folder, told = source(logs), []

    class Say(Display):
        def say(self, text: str) -> None:
            told.append(text)

    consumer = Consumer(logs, [], folder)
    for _ in range(2):
        run(consumer, once=True, display=Say())
    assert_log_complete(logs, 1)
    assert sorted(t.split(" stays")[0] for t in told) == [
        "folder.csv",
        "loop.csv",
        "nowhere.csv",
        "pipe.csv",
    ]
    assert folder.lag().waiting == 0


def test_a_clock_that_was_set_back_holds_up_nothing(logs: Logs) -> None:
    "A file that seems to be from tomorrow is one of today; one of this moment has not settled."
    world.drop(inbox_of(logs), 0)
    folder = source(logs, settle=5.0)
    assert folder.poll() == []
    tomorrow = time.time() - 86_400
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlkit.sources.time.time", lambda: tomorrow)
        [batch] = folder.poll()
    assert batch.entries > 0


def test_a_folder_of_done_files_that_somebody_removed(logs: Logs) -> None:
    folder = source(logs)
    (folder.inbox / "done").rmdir()
    world.drop(folder.inbox, 0)
    run(Consumer(logs, [], folder), once=True)
    assert_log_complete(logs, 1)
    assert len(files(logs, "done")) == 2


def test_a_link_to_a_file_is_taken(logs: Logs, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.jsonl").write_text(rows(0))
    (inbox_of(logs) / "link.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")
    assert drain(logs).events == len(world.pay_ids(1))


def test_a_link_to_what_never_ends_is_put_aside(logs: Logs) -> None:
    "A file of no size may give bytes all the same, or be waited for without end."
    (inbox_of(logs) / "a.csv").symlink_to("/proc/kmsg")
    world.drop(inbox_of(logs), 0)
    assert drain(logs).events > 0
    assert_log_complete(logs, 1)


@pytest.mark.parametrize("ending", ["JSONL", "Jsonl", "NDJSON"])
def test_endings_may_be_written_large(logs: Logs, ending: str) -> None:
    (inbox_of(logs) / f"a.{ending}").write_text(rows(0))
    assert drain(logs).events == len(world.pay_ids(1))


class PanicException(BaseException):
    "As Polars raises it."


FAILURES = [
    ValueError("odd"),
    MemoryError(),
    RecursionError("deep"),
    pl.exceptions.ComputeError("cannot\ncompute"),
    pl.exceptions.InvalidOperationError("no"),
    OSError(errno.EIO, "Input/output error"),
    PanicException("index out of bounds"),
]


@pytest.mark.parametrize(
    "place", ["mlkit.files._check_head", "mlkit.etl.to_events", "mlkit.stream.land"]
)
@pytest.mark.parametrize("failure", FAILURES, ids=lambda e: type(e).__name__)
def test_whatever_a_reader_raises(logs: Logs, monkeypatch: Any, failure: Any, place: str) -> None:
    "Reading, mapping or landing: the file is put aside with the reason, the next one is taken."
    if place.endswith("land") and isinstance(failure, OSError):
        pytest.skip("a disk's failure while landing is not the file's")
    import importlib

    inbox = inbox_of(logs)
    (inbox / "0-first.jsonl").write_text(rows(3))
    world.drop(inbox, 0)
    module, name = place.rsplit(".", 1)
    honest, met = getattr(importlib.import_module(module), name), []

    def fails(*a: Any, **k: Any) -> Any:
        if not met:
            met.append(1)
            raise failure
        return honest(*a, **k)

    monkeypatch.setattr(place, fails)
    drain(logs)
    assert not files(logs)
    reason = (inbox / "rejected" / "0-first.jsonl.reason.txt").read_text()
    assert type(failure).__name__ in reason or str(failure).splitlines()[0] in reason
    assert_log_complete(logs, 1)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.EDQUOT])
@pytest.mark.parametrize("place", ["sources.open", "etl.content_hash", "etl.read_source"])
def test_a_failure_of_the_machine_rejects_no_file(
    logs: Logs, monkeypatch: Any, number: int, place: str
) -> None:
    "It is told, and the same file is taken when it has passed."
    world.drop(inbox_of(logs), 0)

    def fails(*a: Any, **k: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"mlkit.{place}", fails, raising=False)
    folder = source(logs)
    for _ in range(2):
        with pytest.raises((OSError, StreamError), match=os.strerror(number)):
            folder.poll()
    assert not files(logs, "rejected")
    monkeypatch.undo()
    drain(logs)
    assert_log_complete(logs, 1)


def test_a_failure_of_the_machine_as_polars_words_it(logs: Logs, monkeypatch: Any) -> None:
    world.drop(inbox_of(logs), 0)

    def fails(*a: Any) -> None:
        raise pl.exceptions.ComputeError("Too many open files (os error 24)")

    monkeypatch.setattr("mlkit.files._check_head", fails)
    with pytest.raises(StreamError, match="Too many open files"):
        source(logs).poll()
    assert not files(logs, "rejected")


def test_a_disk_that_fills_while_a_file_is_put_aside(logs: Logs, monkeypatch: Any) -> None:
    "Neither the file nor its reason is lost: it is put aside when there is room."
    inbox = inbox_of(logs)
    (inbox / "a.csv").write_bytes(BAD)

    def full(*a: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("mlkit.sources.replace_text", full)
    with pytest.raises(OSError, match="space"):
        source(logs).poll()
    assert files(logs) == ["a.csv"]
    monkeypatch.undo()
    drain(logs)
    assert files(logs, "rejected") == ["a.csv", "a.csv.reason.txt"]


@pytest.mark.parametrize("content", [BAD, rows(0).encode()], ids=["bad", "good"])
def test_a_file_that_may_not_be_moved_holds_up_nobody(
    logs: Logs, monkeypatch: Any, content: bytes
) -> None:
    "It stays, is named once, and is not read again until it is changed."
    inbox, honest = inbox_of(logs), os.replace
    (inbox / "0.jsonl").write_bytes(content)
    world.drop(inbox, 0)

    def guarded(a: Any, b: Any) -> None:
        if Path(a).name == "0.jsonl":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        honest(a, b)

    monkeypatch.setattr("mlkit.sources.os.replace", guarded)
    consumer = Consumer(logs, [], source(logs))
    told: list[str] = []

    class Say(Display):
        def say(self, text: str) -> None:
            told.append(text)

    assert run(consumer, once=True, display=Say()).batches >= 2
    batches = consumer.stats.batches
    assert run(consumer, once=True, display=Say()).batches == batches
    assert files(logs) == ["0.jsonl"]
    assert len([t for t in told if t.startswith("0.jsonl stays")]) == 1
    assert_log_complete(logs, 1)


def test_a_file_that_vanishes_in_between(logs: Logs, monkeypatch: Any) -> None:
    "After it was listed, opened, read or landed."
    import mlkit.sources as module

    inbox, honest = inbox_of(logs), module.file_batch
    world.drop(inbox, 0)
    folder = FolderSource(inbox, [Pay], settle=0)
    (inbox / "00000-outcome.jsonl").unlink()
    [batch] = folder.poll()
    (inbox / "00000-pay.jsonl").unlink()
    folder.done(batch)

    def vanishes(path: Path, formats: list) -> Any:
        path.unlink()
        return honest(path, formats)

    (inbox / "a.jsonl").write_text(rows(0))
    monkeypatch.setattr(module, "file_batch", vanishes)
    assert folder.poll() == []
    assert not files(logs, "rejected") and not files(logs, "done")


def test_a_huge_file_is_put_aside(logs: Logs, monkeypatch: Any) -> None:
    "One of 5 GB, without reading it."
    monkeypatch.setenv("MLKIT_MAX_FILE_MB", "100")
    inbox = inbox_of(logs)
    with open(inbox / "0.jsonl", "w") as f:
        f.write('{"a": 1}\n' * 1000)
        f.truncate(5_000_000_000)
    world.drop(inbox, 0)
    drain(logs)
    assert "MB of memory" in (inbox / "rejected" / "0.jsonl.reason.txt").read_text()
    assert_log_complete(logs, 1)


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("place", ["a", "b"], dtype=pl.Categorical),
        pl.Series("place", [["a"], ["b"]]),
        pl.Series("place", [{"x": 1}, {"x": 2}]),
        pl.Series("place", [b"\xff", b"a"]),
        pl.Series("amount", [[1.0], [2.0]]),
        pl.Series("amount", [None, None]),
        pl.Series("who", [1.5, float("nan")]),
    ],
    ids=lambda s: f"{s.name} {s.dtype}",
)
def test_columns_of_any_type(logs: Logs, column: pl.Series) -> None:
    "What the contract has no meaning for is refused, by file or by row; nothing is left behind."
    inbox = inbox_of(logs)
    frame = pl.DataFrame([world.pay(i) for i in range(100, 102)]).with_columns(column)
    frame.write_parquet(inbox / "0.parquet")
    world.drop(inbox, 0)
    drain(logs)
    assert not files(logs)
    ids = set(scan(logs[Pay]).collect()["event_id"])
    assert world.pay_ids(1) <= ids <= world.pay_ids(1) | {"e100", "e101"}
