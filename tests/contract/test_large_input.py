"What a file takes is told before it is read, and what is told of refused rows stays small."

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from helpers import Pay

from mlkit.errors import ContractError
from mlkit.etl import Batch, Logs, file_batch, ingest, land
from mlkit.events import check
from mlkit.files import SourceError, memory_need, read_source
from mlkit.formats import SourceFormat
from mlkit.quarantine import Quarantine, Reasons
from mlkit.tables import files_of, open_table

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


REFUSED = 600_000
SUMMARY = """
import sys
from pathlib import Path
from mlkit.quarantine import Quarantine

shown = Quarantine(sys.argv[1]).summary()
(peak,) = (line for line in Path("/proc/self/status").open() if line.startswith("VmHWM"))
print(shown.height, int(peak.split()[1]) // 1024)
"""


def refused(folder: Path, reason: pl.Expr) -> Quarantine:
    "A quarantine of many rows."
    number = pl.int_range(REFUSED)
    rows = pl.select(event=pl.format("{} of a stream", number), reason=reason)
    quarantine = Quarantine(folder)
    quarantine.put(rows, "b")
    return quarantine


def summary_of(quarantine: Quarantine) -> tuple[int, int]:
    "How many lines a summary has, and what it took a process of its own: its peak in MB."
    command = [sys.executable, "-c", SUMMARY, quarantine.uri]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines, peak = printed.split()
    return int(lines), int(peak)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_a_reason_for_each_row_takes_no_more_memory_than_a_few_for_all(tmp_path):
    number = pl.int_range(REFUSED)
    few = refused(tmp_path / "few", pl.format("amount: wrong in way {}", number % 5))
    each = refused(tmp_path / "each", pl.format("stream: 'name-{}' is not one of pay", number))
    (lines, usual), (most_lines, peak) = summary_of(few), summary_of(each)
    assert (lines, most_lines) == (5, 10)
    assert peak < usual + 60


def test_common_reasons_are_counted_exactly_among_many_rare_ones(tmp_path):
    "As they are of rows that have just come."
    number = pl.int_range(REFUSED)
    rare = pl.format("field: {}", number)
    common = pl.format("kind: {}", number % 1000)
    quarantine = refused(tmp_path / "q", pl.when(number % 1000 < 8).then(common).otherwise(rare))
    shown = quarantine.summary()
    expected = {f"kind: {i}": REFUSED // 1000 for i in range(8)}
    assert dict(shown.head(8).select("reason", "rows").iter_rows()) == expected
    assert shown["rows"].to_list()[8:] == [1, 1]
    told = Reasons(limit=8)
    told.add(quarantine.read().drop("batch_id", "at"))
    assert (told.counts, told.others) == (expected, REFUSED // 1000 * 992)
    assert json.loads(told.examples["kind: 0"]).keys() == {"row"}


def test_long_reasons_are_cut(tmp_path):
    quarantine = Quarantine(tmp_path)
    quarantine.put(pl.DataFrame(dict(a=["x"], reason=["unknown field: " + "y" * 100_000])), "b")
    assert quarantine.summary()["reason"].str.len_chars().to_list() == [500]


def test_a_quarantine_is_read_in_small_pieces(tmp_path):
    "Also when it was tidied."
    import pyarrow.parquet as pq

    quarantine = refused(tmp_path / "q", pl.lit("amount: below 0"))
    quarantine.put(pl.DataFrame(dict(event=["one more"], reason=["amount: below 0"])), "c")
    for files in (2, 1):
        found = [pq.read_metadata(path) for path in files_of(open_table(quarantine.uri))]
        groups = [m.row_group(i).num_rows for m in found for i in range(m.num_row_groups)]
        assert (len(found), sum(groups)) == (files, REFUSED + 1)
        assert max(groups) <= 1 << 16
        quarantine.tidy()


def test_rows_are_told_all_that_is_wrong_with_them_however_many_there_are():
    "In the order of the fields, each row for itself."
    n = 50_000
    place, amount, kind = (pl.int_range(n) % k for k in (2, 3, 5))
    bad = rows(0, n).with_columns(
        place=pl.when(place > 0).then("place").otherwise(None),
        amount=pl.when(amount > 0).then("amount").otherwise(pl.lit("-1")),
        kind=pl.when(kind > 0).then("kind").otherwise(pl.lit("coin")),
    )
    good, refused_rows = check(Pay, bad)
    expected = []
    for i in range(n):
        wrong = ["place: missing"] * (i % 2 == 0) + ["amount: below 0"] * (i % 3 == 0)
        wrong += ["kind: not one of card, cash"] * (i % 5 == 0)
        expected += ["; ".join(wrong)] if wrong else []
    assert refused_rows["reason"].to_list() == expected
    assert good.height + refused_rows.height == n


def test_summary_of_no_quarantine(tmp_path):
    assert Quarantine(tmp_path / "none").summary().is_empty()
    assert Quarantine(tmp_path / "none").count() == 0
