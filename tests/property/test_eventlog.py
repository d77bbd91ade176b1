"Invariant 3: appended once, whatever is repeated, whoever else writes, and wherever a writer dies."

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import log_writer
import polars as pl
import pytest
from helpers import folder_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from log_writer import DIRTY, Pay, batch, event_ids

from mlkit import eventlog
from mlkit.etl import Batch, Landed, Logs
from mlkit.etl import land as land_batch
from mlkit.eventlog import append, compact, fingerprint, scan
from mlkit.events import check
from mlkit.tables import LogError


def land(logs: Logs, rows: pl.DataFrame, name: str) -> Landed:
    "Land raw payments as a batch."
    return land_batch(logs, Batch.checked(name, {Pay: rows}))


def contents(logs: Logs) -> pl.DataFrame:
    "The log in its own order, without what differs from run to run."
    return scan(logs[Pay]).drop("ingested_at").collect().sort("seq")


def assert_complete(logs: Logs, batches: int) -> None:
    """Every event of the batches exactly once, numbered without a gap; every dirty row in
    quarantine exactly once."""
    rows = contents(logs)
    expected = sorted({e for n in range(batches) for e in event_ids(n)})
    assert sorted(rows["event_id"]) == expected
    assert rows["seq"].to_list() == list(range(len(expected)))
    payload = check(Pay, pl.concat([batch(n) for n in range(batches)]).unique("event_id"))[0].sort(
        "event_id"
    )
    assert rows.select(payload.columns).sort("event_id").equals(payload)
    refused = logs[Pay].quarantine.read()["row"].str.json_path_match("$.event_id")
    assert sorted(refused) == sorted(f"dirty {n}/{i}" for n in range(batches) for i in range(DIRTY))


def good(n: int) -> pl.DataFrame:
    return check(Pay, batch(n))[0]


def test_same_batch_again_changes_nothing(logs):
    "Not a byte of the log or the quarantine, by this writer or another."
    first = land(logs, batch(0), "a")
    before = folder_bytes(logs.folder)
    for again in (logs, Logs(logs.folder)):
        result = land(again, batch(0), "a")
        assert (result.new, result.duplicates) == (0, first.new)
        assert folder_bytes(logs.folder) == before
    assert first.new == len(event_ids(0))


def test_a_large_batch_is_known_by_its_name(logs):
    "Its rows are not read again; a small one is known by its rows, and leaves no name in the log."
    whole = good(0)
    ids = pl.Series("event_id", [f"x{i}" for i in range(10_000)])
    large = pl.concat([whole[:1]] * ids.len()).with_columns(ids)
    assert not append(logs[Pay], large, "large").repeated
    assert append(Logs(logs.folder)[Pay], large, "large").repeated
    append(logs[Pay], whole, "small")
    again = append(logs[Pay], whole, "small")
    assert (again.repeated, again.new, again.duplicates) == (False, 0, whole.height)
    assert logs[Pay].table().transaction_version("small") is None


def test_same_events_under_another_name_are_duplicates(logs):
    "A renamed batch, alone or with new rows in it, adds only what is new, and says what is stored."
    append(logs[Pay], good(0), "a")
    again = append(logs[Pay], good(0), "b")
    assert (again.new, again.duplicates, again.conflicts) == (0, len(event_ids(0)), 0)
    assert again.events.equals(
        scan(logs[Pay])
        .collect()
        .select(again.events.columns)
        .sort("seq")
        .join(again.events.select("event_id"), on="event_id", maintain_order="right")
    )
    more = append(logs[Pay], pl.concat([good(0), good(1)]), "c")
    assert more.new == len(set(event_ids(1)) - set(event_ids(0)))
    assert sorted(more.events["event_id"]) == sorted({*event_ids(0), *event_ids(1)})


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=8))
def test_any_sequence_of_overlapping_batches(tmp_path_factory, arrivals):
    """Repeated, overlapping, out of order, by old and new writers: the log is the union, each
    event as it first came."""
    logs = Logs(tmp_path_factory.mktemp("overlap"))
    folder, first = logs.folder, {}
    for n, anew in arrivals:
        if anew:
            logs = Logs(folder)
        land(logs, batch(n), f"batch {n}")
        for e in sorted(set(event_ids(n)) - set(first), key=lambda e: int(e[1:])):
            first[e] = len(first)
    assert dict(contents(logs).select("event_id", "seq").rows()) == first
    assert logs[Pay].quarantine.read().height == DIRTY * len({n for n, _ in arrivals})


def test_same_id_with_another_payload_is_quarantined(logs):
    "Against the log and within a batch; the first word stays, the other is kept with its reason."
    append(logs[Pay], good(0), "a")
    before = contents(logs)
    lie = good(0).with_columns(
        amount=pl.when(pl.col("event_id") == "e3").then(1).otherwise("amount")
    )
    twice = pl.concat(
        [good(1), good(1).filter(pl.col("event_id") == "e20").with_columns(who=pl.lit(5, pl.Int64))]
    )
    assert (r := append(logs[Pay], lie, "b")).conflicts == 1
    assert r.duplicates == len(event_ids(0)) - 1
    assert contents(logs).equals(before)
    assert append(logs[Pay], twice, "c").conflicts == 1
    kept = logs[Pay].quarantine.read().sort("at")
    assert kept["row"].str.json_path_match("$.event_id").to_list() == ["e3", "e20"]
    assert kept["reason"].str.contains("another payload").all()
    assert contents(logs).filter(pl.col("event_id") == "e20")["who"].item() == 20 % 7


@pytest.mark.parametrize(
    "died", [False, True], ids=["met another writer", "died before the commit"]
)
def test_conflicts_found_at_a_second_attempt_are_kept(logs, monkeypatch, died):
    """What contradicts an event that another writer brought in between is quarantined too,
    though the batch had conflicts before."""
    append(logs[Pay], good(0).head(1), "a")
    mine = (
        good(0).head(3).with_columns(amount=pl.lit(1, pl.Int64))
    )  # the first contradicts the log now, the second will
    honest = eventlog._try_commit

    def meets_another(*arguments):
        monkeypatch.setattr(eventlog, "_try_commit", honest)
        append(Logs(logs.folder)[Pay], good(0)[1:2], "rival")
        if died:
            raise KeyboardInterrupt
        return honest(*arguments)

    monkeypatch.setattr(eventlog, "_try_commit", meets_another)
    if died:
        with pytest.raises(KeyboardInterrupt):
            append(logs[Pay], mine, "b")
    append(logs[Pay], mine, "b")
    assert contents(logs)["event_id"].to_list() == ["e0", "e1", "e2"]
    assert sorted(logs[Pay].quarantine.read()["row"].str.json_path_match("$.event_id")) == [
        "e0",
        "e1",
    ]


@pytest.mark.parametrize("name", ["with space", "Zürich", "a#b", "a+b", "100%"])
def test_folder_of_any_name(name, tmp_path):
    "Log and quarantine can be read again wherever they lie, and nothing is written elsewhere."
    for n in (0, 0, 1):
        land(Logs(tmp_path / name), batch(n), f"batch {n}")
    assert_complete(Logs(tmp_path / name), 2)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a[1]", "a%20b"])
def test_folder_that_can_hold_no_table_is_named(name, tmp_path):
    "Before anything is written to it."
    with pytest.raises(eventlog.LogError, match="rename it"):
        land(Logs(tmp_path / name), batch(0).filter(pl.col("amount") >= 0), "batch")
    assert not (tmp_path / name).exists()


def test_readers_of_a_version_see_it_unchanged(logs):
    "Later appends and compaction change nothing in a version that was read before."
    land(logs, batch(0), "a")
    version, mark = logs[Pay].version(), fingerprint(logs[Pay])
    before = scan(logs[Pay], version=version).collect().sort("seq")
    land(logs, batch(1), "b")
    compact(logs[Pay])
    assert scan(logs[Pay], version=version).collect().sort("seq").equals(before)
    assert fingerprint(logs[Pay]) != mark
    after = contents(logs)
    compact(logs[Pay])
    assert contents(logs).equals(after)
    assert land(logs, batch(1), "c").new == 0


# %% Several processes


class Writer:
    "A process that lands batches; see `log_writer`."

    def __init__(self, folder: Path, first: int, last: int, dies: int | None = None):
        arguments = [log_writer.__file__, folder, first, last, *([dies] if dies else [])]
        self.process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_ready(self) -> None:
        assert self.process.stdout.readline() == "ready\n", self.process.stderr.read()

    def start(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> tuple[int, list[str], str]:
        "Its exit code and what it said."
        out, err = self.process.communicate()
        return self.process.returncode, out.split("\n"), err


def run_together(writers: list[Writer]) -> list[list[str]]:
    "Start all at the same moment; what each of them said."
    for w in writers:
        w.wait_until_ready()
    for w in writers:
        w.start()
    ends = [w.end() for w in writers]
    for code, _, error in ends:
        assert code == 0, error[-600:]
    return [said for _, said, _ in ends]


def test_concurrent_writers_lose_nothing(logs):
    "Three processes, with some batches and many events in common, starting on an empty folder."
    run_together(
        [Writer(logs.folder, 0, 6), Writer(logs.folder, 4, 10), Writer(logs.folder, 8, 12)]
    )
    assert_complete(logs, 12)


BATCHES, KILLS = 4, 10


def test_killed_at_any_step_then_run_again(logs, tmp_path):
    """SIGKILL at random calls inside `land`, between commits of quarantine and log as well; each
    run goes on where the last one died."""
    steps = int(run_together([Writer(tmp_path / "whole", 0, BATCHES)])[0][-2].split()[1])
    draw, ends = random.Random(7), []
    for _ in range(KILLS):
        writer = Writer(logs.folder, 0, BATCHES, dies=draw.randrange(1, steps // 2))
        writer.wait_until_ready()
        writer.start()
        ends.append(writer.end()[0])
    assert set(ends) <= {-signal.SIGKILL, 0}
    assert ends.count(-signal.SIGKILL) > KILLS // 2
    run_together([Writer(logs.folder, 0, BATCHES)])
    assert_complete(logs, BATCHES)


def test_killed_in_the_middle_of_a_write(logs):
    """SIGKILL from outside, while the process goes on writing after the batch that it has just
    reported."""
    for last in (1, 2, 3):
        writer = Writer(logs.folder, 0, 6)
        writer.wait_until_ready()
        writer.start()
        for _ in range(last):
            assert writer.process.stdout.readline()
        writer.process.kill()
        writer.end()
        assert contents(logs)["seq"].to_list() == list(range(contents(logs).height))
    run_together([Writer(logs.folder, 0, 6)])
    assert_complete(logs, 6)


def test_writers_that_give_up_say_so(logs, monkeypatch):
    "An append that always meets others ends in `LogError`, with nothing appended."
    monkeypatch.setattr(eventlog, "_try_commit", lambda *_: None)
    with pytest.raises(LogError, match="other writers"):
        append(logs[Pay], good(0), "a", attempts=2)
    assert logs[Pay].version() == -1
