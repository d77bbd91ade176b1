"""A disk that fills at any write of an ingest: nothing is lost, nothing is there twice, and after
making room the same command leaves what it would have left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from mlkit.etl import Logs, ingest
from mlkit.eventlog import scan
from mlkit.trace import _sources, remember_source
from mlkit.usecases import fraud, simulator

# no file may grow beyond this size, as on a disk that is full in the middle of it
INGEST = """
import resource, sys
from pathlib import Path
from mlkit.errors import UserError
from mlkit.etl import Logs, ingest
from mlkit.files import is_passing
from mlkit.trace import remember_source
from mlkit.usecases import fraud

source, folder, limit = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    done = ingest(source, fraud.usecase.formats, Logs(folder))
    remember_source(folder, dict(hash=done.hash, path=source))
except UserError as e:
    sys.exit(3)
except OSError as e:
    sys.exit(4 if is_passing(e) else 5)
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    "Two files with refused and repeated rows; the log that an ingest of them makes."
    folder = tmp_path_factory.mktemp("sources")
    for n in range(2):
        raw = simulator.simulate(customers=4, terminals=4, days=5, seed=n)
        bad = pl.int_range(pl.len()) % 7 == 3
        raw = raw.with_columns(
            amount=pl.when(bad).then(-1.0).otherwise("amount"),
            transaction_id=pl.format("{}-{}", pl.lit(n), "transaction_id"),
        )
        simulator.write(raw, folder / f"{n}.parquet")
    return folder


def left(folder: Path) -> dict[str, pl.DataFrame]:
    "What is in log and quarantine, without what differs from run to run."
    logs = Logs(folder)
    found = {}
    for stream in fraud.usecase.streams:
        found[stream.name] = scan(logs[stream]).drop("ingested_at").collect().sort("seq")
        found[f"{stream.name} refused"] = logs[stream].quarantine.read().drop("at").sort("row")
    return found


@pytest.fixture(scope="module")
def expected(sources, tmp_path_factory) -> dict[str, pl.DataFrame]:
    folder = tmp_path_factory.mktemp("expected")
    ingest(sources / "*.parquet", fraud.usecase.formats, Logs(folder))
    return left(folder)


def run(source: Path, folder: Path, limit: int) -> int:
    command = [sys.executable, "-c", INGEST, str(source), str(folder), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


SIZES = [0, 1, 60, 400, 900, 1300, 1700, 2100, 2500, 3000, 3600, 4400, 6000]


@pytest.mark.parametrize("limit", SIZES)
def test_a_disk_that_fills_at_any_write(sources, expected, tmp_path, limit):
    "Said as such, twice; then there is room."
    source = sources / "*.parquet"
    ends = {run(source, tmp_path, limit) for _ in range(2)}
    assert ends <= {0, 3, 4}
    done = ingest(source, fraud.usecase.formats, Logs(tmp_path))
    remember_source(tmp_path, dict(hash=done.hash, path=str(source)))
    assert len(_sources(tmp_path)) == 1
    for name, rows in left(tmp_path).items():
        assert rows.equals(expected[name]), name


def test_the_sizes_meet_every_write(sources, tmp_path):
    "The smallest lets nothing be written, the largest everything."
    source = sources / "*.parquet"
    assert run(source, tmp_path / "small", SIZES[0]) in (3, 4)
    assert not list(tmp_path.rglob("*.json"))
    assert run(source, tmp_path / "large", 1 << 20) == 0


def test_the_note_of_a_source_is_whole_or_not_there(tmp_path, monkeypatch):
    "A mark that was cut off would be no JSON, and nothing could be traced any more."
    remember_source(tmp_path, dict(hash="a"))
    kept = (tmp_path / "sources.jsonl").read_bytes()

    def full(*a: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlkit.storage.os.fsync", full)
    with pytest.raises(OSError):
        remember_source(tmp_path, dict(hash="b"))
    assert (tmp_path / "sources.jsonl").read_bytes() == kept
    monkeypatch.undo()
    remember_source(tmp_path, dict(hash="b"))
    lines = (tmp_path / "sources.jsonl").read_text().splitlines()
    assert [json.loads(line)["hash"] for line in lines] == ["a", "b"]
