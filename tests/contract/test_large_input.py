"What a file takes is told before it is read, and what is told of refused rows stays small."

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from helpers import Pay

from mlkit.etl import Batch, Logs, file_batch, ingest, land
from mlkit.fields import ContractError
from mlkit.files import SourceError, memory_need, read_source
from mlkit.formats import SourceFormat
from mlkit.quarantine import Quarantine, Reasons

OWN = SourceFormat("own", Pay, {name: name for name in Pay.fields}, lenient=True)
MB = 1_000_000


@pytest.fixture
def bound(monkeypatch):
    "At most 20 MB a file."
    monkeypatch.setenv("MLKIT_MAX_FILE_MB", "20")


def rows(first: int, last: int) -> pl.DataFrame:
    n = last - first
    return pl.DataFrame(
        dict(
            event_id=[f"e{i}" for i in range(first, last)],
            event_time=["2025-03-28T21:00:00Z"] * n,
            who=["1"] * n,
            place=["a"] * n,
            amount=["1.5"] * n,
            online=["true"] * n,
            kind=["card"] * n,
        )
    )


BOMBS = {
    "numbers.parquet": lambda p: pl.select(a=pl.repeat(1, 10 * MB)).write_parquet(p),
    "texts.parquet": lambda p: pl.select(a=pl.repeat("x" * 50, 3 * MB)).write_parquet(p),
    "lists.parquet": lambda p: pl.DataFrame(dict(a=[[1] * (5 * MB)])).write_parquet(p),
    "cells.csv": lambda p: p.write_text("a,b\n" + "1,2\n" * MB),
    "lines.jsonl": lambda p: p.write_text('{"a":1}\n' * MB),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_takes_too_much_is_refused_before_it_is_read(name, tmp_path, bound):
    "The message says how much, what is allowed, and what to do."
    BOMBS[name](tmp_path / name)
    with pytest.raises(SourceError, match=r"about \d+ MB of memory.*may take 20.*max_file_mb"):
        read_source(tmp_path / name)
    assert memory_need(tmp_path / name) > 20 * MB

    "Nothing yet: the bound is on what is told."


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_what_is_told_is_near_what_it_takes(kind, tmp_path):
    "Not less than the frame, and not many times as much."
    frame, path = rows(0, 50_000), tmp_path / f"a.{kind}"
    write = dict(
        csv=frame.write_csv, parquet=frame.write_parquet, jsonl=lambda p: frame.write_ndjson(p)
    )
    write[kind](path)
    frame_size = read_source(path).estimated_size()
    assert frame_size < memory_need(path) < 25 * frame_size


def test_damaged_footers_are_refused(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"\xff" * 100 + b"PAR1")
    with pytest.raises(SourceError, match="cannot be read"):
        read_source(tmp_path / "a.parquet")


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    "What was read is of no content that has a name; it is refused, and can be read later."
    import mlkit.etl as module

    path = tmp_path / "a.csv"
    rows(0, 5).write_csv(path)

    def changes(p: Path) -> pl.DataFrame:
        frame = read_source(p)
        rows(0, 6).write_csv(p)
        return frame

    monkeypatch.setattr(module, "read_source", changes)
    with pytest.raises(SourceError, match="changed while it was read"):
        file_batch(path, [OWN])
    monkeypatch.undo()
    assert file_batch(path, [OWN]).entries == 6


def test_a_file_that_changes_after_it_was_checked(tmp_path, monkeypatch):
    "The files before it are in the log; the same command finishes when it is whole."
    import mlkit.etl as module

    logs, honest = Logs(tmp_path / "w"), module.land
    for n, name in enumerate(["a.csv", "b.csv"]):
        rows(10 * n, 10 * n + 5).write_csv(tmp_path / name)

    def changes(*a):
        rows(10, 17).write_csv(tmp_path / "b.csv")
        return honest(*a)

    monkeypatch.setattr(module, "land", changes)
    with pytest.raises(SourceError, match="b.csv changed after it was checked"):
        ingest(tmp_path / "*.csv", [OWN], logs)
    monkeypatch.undo()
    done = ingest(tmp_path / "*.csv", [OWN], logs)
    assert (done.appended, done.duplicates) == ({"pay": 7}, 5)


def test_files_of_a_source_are_kept_one_at_a_time(tmp_path, monkeypatch):
    import weakref

    import mlkit.etl as module

    alive: list[weakref.ref] = []

    def watched(*a, **k):
        assert sum(r() is not None for r in alive) <= 1
        batch = file_batch(*a, **k)
        alive.append(weakref.ref(batch))
        return batch

    for n in range(4):
        rows(10 * n, 10 * n + 5).write_csv(tmp_path / f"{n}.csv")
    monkeypatch.setattr(module, "file_batch", watched)
    assert ingest(tmp_path / "*.csv", [OWN], Logs(tmp_path / "w")).rows == 20
    assert len(alive) == 8


def loud(low: int, high: int) -> pl.DataFrame:
    return rows(low, high).rename(str.upper)


def test_files_of_a_glob_may_have_several_formats(tmp_path):
    columns = {name.upper(): name for name in Pay.fields}
    other = SourceFormat("loud", Pay, columns, lenient=True)
    rows(0, 5).write_csv(tmp_path / "a.csv")
    loud(5, 9).write_csv(tmp_path / "b.csv")
    done = ingest(tmp_path / "*.csv", [OWN, other], Logs(tmp_path / "w"))
    assert (done.format, done.appended) == ("own, loud", {"pay": 9})


def test_a_glob_with_a_file_of_no_format_is_refused_whole(tmp_path):
    rows(0, 5).write_csv(tmp_path / "a.csv")
    loud(5, 9).write_csv(tmp_path / "b.csv")
    logs = Logs(tmp_path / "w")
    with pytest.raises(ContractError, match="b.csv fits no known format"):
        ingest(tmp_path / "*.csv", [OWN], logs)
    assert logs[Pay].version() == -1


def test_two_files_of_one_content_and_one_name_of_two_contents(tmp_path):
    "Identity is content: a copy is a repeat, another content is another file."
    logs = Logs(tmp_path / "w")
    for name in ("a.csv", "b.csv"):
        rows(0, 5).write_csv(tmp_path / name)
    done = ingest(tmp_path / "*.csv", [OWN], logs)
    assert (done.appended, done.duplicates, done.rows) == ({"pay": 5}, 5, 10)
    rows(5, 9).write_csv(tmp_path / "a.csv")
    assert ingest(tmp_path / "a.csv", [OWN], logs).appended == {"pay": 4}


def test_a_source_with_many_refused_rows(tmp_path):
    "All are kept; what is told is a few lines, also where every row has a reason of its own."
    logs, n = Logs(tmp_path), 200_000
    bad = rows(0, n).with_columns(
        amount=pl.when(pl.int_range(n) % 2 == 0).then(pl.lit("lots")).otherwise(pl.lit("-1"))
    )
    landed = land(logs, Batch.checked("b", {Pay: bad}))
    assert landed.quarantined == logs[Pay].quarantine.count() == n
    assert sorted(landed.reasons.counts.values()) == [n // 2, n // 2]
    example = next(iter(landed.reasons.examples.values()))
    assert json.loads(example)["event_id"] in ("e0", "e1")
    kept = logs[Pay].quarantine.summary()
    assert kept["rows"].to_list() == [n // 2, n // 2]
    assert dict(kept.select("reason", "rows").iter_rows()) == landed.reasons.counts

    apart = Reasons()
    apart.add(bad.with_columns(reason=pl.col("event_id")))
    assert len(apart.counts) == apart.limit
    assert sum(apart.counts.values()) + apart.others == n
    apart.merge(landed.reasons)
    assert sum(apart.counts.values()) + apart.others == 2 * n
    assert len(apart.lines()) == apart.limit + 1


def test_summary_of_no_quarantine(tmp_path):
    assert Quarantine(tmp_path / "none").summary().is_empty()
    assert Quarantine(tmp_path / "none").count() == 0
