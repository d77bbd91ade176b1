"What cannot be read as events is put aside with the reason, and holds up nothing."

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import world
from crowd import assert_log_complete
from helpers import Pay
from inbox import drain, files, rows, source

from mlkit.etl import Logs, land
from mlkit.eventlog import scan


@pytest.mark.parametrize(
    "name, content, why",
    [
        ("cut.jsonl", b'{"event_id": "a", "event_time": "2025', "line 1: not JSON"),
        ("list.jsonl", b"[1]\n", "not a JSON object"),
        ("empty.csv", b"", "is empty"),
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
    assert drain(logs).events > 0
    assert not files(logs)
    assert (inbox / "rejected" / name).read_bytes() == content
    assert why in (inbox / "rejected" / f"{name}.reason.txt").read_text()
    (inbox / name).write_bytes(content + b" ")
    drain(logs)
    assert len(files(logs, "rejected")) == 4
    assert (inbox / "rejected" / name).read_bytes() == content
    assert_log_complete(logs, 1)


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
    assert source(logs).poll() == []
    assert files(logs) == ["a.jsonl"]
    assert files(logs, "rejected") == []
    monkeypatch.undo()
    assert drain(logs).events == len(world.pay_ids(1))


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
    assert folder.poll() == []
    assert files(logs) == ["a.jsonl"]
    assert files(logs, "done") == ["b.jsonl"]
    assert folder.notices == ["a.jsonl stays in the inbox: it cannot be read (Permission denied)"]


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
    assert set(scan(logs[Pay]).collect()["event_id"]) == world.pay_ids(2) | {"c1"}
    assert not files(logs, "rejected")
