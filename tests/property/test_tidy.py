"""Tidying changes nothing that can be read: not the rows, no version, nothing that is known to be
appended; whoever reads, writes or dies meanwhile."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest
import tidier
from deltalake import write_deltalake
from log_writer import Pay, batch
from test_eventlog import assert_complete, contents, land

from mlkit.etl import Logs, tidy_logs
from mlkit.eventlog import scan
from mlkit.tables import LogError, claiming, files_of, open_table
from mlkit.tidy import _locked, _small_files, _versions_file, reading, rows_at, tidy

BATCHES = 12


def filled(logs: Logs, batches: int = BATCHES) -> dict[int, pl.DataFrame]:
    "Land batches; what the log held at each of its versions."
    for n in range(batches):
        land(logs, batch(n), f"batch {n}")
    versions = range(logs[Pay].version() + 1)
    return {v: scan(logs[Pay], version=v).collect().sort("seq") for v in versions}


def data_files(logs: Logs) -> set[str]:
    root = Path(logs[Pay].uri)
    return {str(p) for p in root.rglob("*.parquet") if "_delta_log" not in p.parts}


def commits(logs: Logs) -> list[Path]:
    return sorted(Path(logs[Pay].uri, "_delta_log").glob("*.json"))


def assert_versions(logs: Logs, held: dict[int, pl.DataFrame]) -> None:
    for version, rows in held.items():
        assert scan(logs[Pay], version=version).collect().sort("seq").equals(rows)


def tidied(logs: Logs) -> int:
    "As an hour later, when a checkpoint has been written."
    saved = tidy(logs[Pay].uri, keep_hours=0)
    logs[Pay].table().create_checkpoint()
    tidy(logs[Pay].uri, keep_hours=0)
    return saved


def test_every_version_is_read_as_it_was(logs):
    "Files and commits that made it have gone; its rows have not."
    held = filled(logs)
    first = commits(logs)[0]
    assert tidied(logs) > 0
    assert not first.exists()
    assert len(commits(logs)) < len(held) // 2
    assert data_files(logs) == set(files_of(logs[Pay].table()))
    assert_versions(logs, held)
    more = filled(logs, BATCHES + 5)
    tidied(logs)
    assert_versions(logs, {**more, **held})
    assert_complete(logs, BATCHES + 5)


def test_versions_that_never_were(logs):
    filled(logs, 2)
    tidied(logs)
    for version in (-1, 10_000):
        with pytest.raises(LogError, match="version"):
            scan(logs[Pay], version=version)


def test_what_was_appended_is_known(logs):
    "By this writer and by a new one; refused rows are not kept again either."
    filled(logs)
    before = contents(logs)
    tidied(logs)
    tidy(logs[Pay].quarantine.uri, keep_hours=0)
    for again in (logs, Logs(logs.folder)):
        for n in range(BATCHES):
            assert land(again, batch(n), f"batch {n}").new == 0
    assert contents(logs).equals(before)
    assert_complete(logs, BATCHES)


def test_a_reader_under_way_keeps_its_files(logs):
    "By default for an hour; for as long as it says that it reads."
    filled(logs)
    before, lazy = contents(logs), scan(logs[Pay])
    files = data_files(logs)
    tidy(logs[Pay].uri)
    assert files < data_files(logs)
    assert lazy.drop("ingested_at").collect().sort("seq").equals(before)
    with reading(logs[Pay].uri):
        tidy(logs[Pay].uri, keep_hours=0)
        assert files < data_files(logs)
        assert lazy.drop("ingested_at").collect().sort("seq").equals(before)
    tidy(logs[Pay].uri, keep_hours=0)
    assert not files & data_files(logs)


def test_two_do_not_tidy_at_once(logs):
    filled(logs, 3)
    with _locked(logs[Pay].uri, "merge", fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
        assert alone
        assert tidy(logs[Pay].uri) == 0
    assert tidy(logs[Pay].uri) > 0


def test_no_name_of_a_batch_piles_up(logs):
    "The checkpoint of a streamed log has one transaction, however many batches there were."
    filled(logs)
    logs[Pay].table().create_checkpoint()
    [checkpoint] = Path(logs[Pay].uri, "_delta_log").glob("*.checkpoint.parquet")
    names = pl.read_parquet(checkpoint)["txn"].drop_nulls().struct.field("appId")
    assert names.to_list() == ["seq"]


def test_a_log_of_before(logs):
    "With a name for each batch, and without a retention: tidied like any other."
    held = filled(logs)
    table = logs[Pay].table()
    table.alter.set_table_properties({"delta.logRetentionDuration": "interval 30 days"})
    claims = claiming(**{"old batch": 1})
    empty = logs[Pay].empty
    write_deltalake(open_table(logs[Pay].uri), empty, mode="append", commit_properties=claims)
    tidied(logs)
    assert_versions(logs, held)
    assert logs[Pay].table().transaction_version("old batch") == 1
    configuration = logs[Pay].table().metadata().configuration
    assert configuration["delta.logRetentionDuration"] == "interval 0 hours"


def test_old_files_are_looked_for_now_and_then(logs):
    "Four times an hour, not with every merge: nothing is due sooner."
    filled(logs)
    tidy(logs[Pay].uri)
    noted = _versions_file(logs[Pay].uri).read_bytes()
    filled(logs, BATCHES + 2)
    tidy(logs[Pay].uri)
    assert _versions_file(logs[Pay].uri).read_bytes() == noted
    stamp, past = Path(logs[Pay].uri) / "_removed", time.time() - 901
    os.utime(stamp, (past, past))
    tidy(logs[Pay].uri)
    assert len(_versions_file(logs[Pay].uri).read_bytes()) > len(noted)


def test_only_where_there_is_something_to_tidy(logs):
    filled(logs, 4)
    most = _small_files(logs[Pay].table())
    assert most > 1
    version = logs[Pay].version()
    assert tidy(logs[Pay].uri, more_than=most) == 0
    assert logs[Pay].version() == version
    assert tidy(logs[Pay].uri, more_than=most - 1) > 0
    assert tidy(str(logs.folder / "nothing")) == 0
    assert not (logs.folder / "nothing").exists()


def test_quarantine_is_tidied_too(logs):
    filled(logs, 20)
    before = logs[Pay].quarantine.read().sort("row")
    tidy_logs(logs, [Pay])
    assert len(open_table(logs[Pay].quarantine.uri).file_uris()) == 1
    assert logs[Pay].quarantine.read().sort("row").equals(before)


def test_a_missing_commit_is_not_guessed(logs):
    "No version is noted that could not be read; nothing is removed."
    filled(logs)
    logs[Pay].table().create_checkpoint()
    commits(logs)[3].unlink()
    left = commits(logs)
    with pytest.raises(LogError, match="00000000000000000003.json is missing"):
        tidy(logs[Pay].uri, keep_hours=0)
    assert set(left) <= set(commits(logs))


def test_a_note_that_was_cut_off_is_completed(logs):
    held = filled(logs)
    tidy(logs[Pay].uri, keep_hours=0)
    path = _versions_file(logs[Pay].uri)
    whole = path.read_bytes()
    for length in (0, 5, 8, len(whole) - 3):
        path.write_bytes(whole[:length])
        assert rows_at(logs[Pay].uri, length // 8) is None
        tidy(logs[Pay].uri, keep_hours=0)
        assert path.read_bytes().startswith(whole)
    assert_versions(logs, held)


# %% Several processes, and their deaths


def run(*arguments: object) -> int:
    command = [sys.executable, tidier.__file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def test_two_tidy_and_two_append(logs):
    "At once, each in its own way: every event once, every version as it was."
    held = filled(logs, 4)
    with ThreadPoolExecutor(4) as pool:
        tidying = [pool.submit(run, "loop", logs.folder, 8) for _ in range(2)]

        def write(shift: int) -> None:
            mine = Logs(logs.folder)
            for n in range(4, 24):
                land(mine, batch((n + shift - 4) % 20 + 4), f"batch {(n + shift - 4) % 20 + 4}")

        list(pool.map(write, (0, 10)))
        assert [t.result() for t in tidying] == [0, 0]
    tidied(logs)
    assert_complete(logs, 24)
    assert_versions(logs, held)


@pytest.mark.parametrize("kind", ["steps", "clock"])
def test_killed_at_any_point(logs, kind, tmp_path):
    """Before and after each call, and in the middle of Delta's own work: rows and versions are
    what they were, what is repeated is known, and the next one leaves nothing behind."""
    held = filled(logs)
    logs[Pay].table().create_checkpoint()
    land(logs, batch(BATCHES), f"batch {BATCHES}")
    killed = 0
    steps = [*range(5, 400, 19)] if kind == "steps" else [0] * 20
    for i, n in enumerate(steps):
        copy = Logs(tmp_path / f"copy {i}")
        shutil.copytree(logs.folder, copy.folder)
        killed += run("tidy", copy.folder, n, 0.002 + i * 0.006 if not n else 0) != 0
        assert_versions(copy, held)
        assert land(copy, batch(3), "batch 3").new == 0
        assert tidied(copy) >= 0
        assert_versions(copy, held)
        assert_complete(copy, BATCHES + 1)
        assert data_files(copy) == set(files_of(copy[Pay].table()))
        shutil.rmtree(copy.folder)
    assert killed > len(steps) // 4
