"The three use cases, each with a small piece of its real or generated history."

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from mlkit.etl import Logs, ingest
from mlkit.eventlog import scan
from mlkit.events import Stream
from mlkit.usecase import UseCase

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import tiny_usecase  # noqa: E402

from mlkit.usecases import fraud, hotel  # noqa: E402


@dataclass(frozen=True)
class World:
    "A use case and its history, as the log has it."

    usecase: UseCase
    source: str
    events: dict[type[Stream], pl.DataFrame]  # stored, with `seq`

    @property
    def requests(self) -> pl.DataFrame:
        return self.events[self.usecase.request]


def ingested(usecase: UseCase, source: Path | str, folder: Path) -> World:
    "The history that a source file gives."
    logs = Logs(folder / "workspace")
    ingest(source, usecase.formats, logs)
    return World(usecase, str(source), {s: scan(logs[s]).collect() for s in usecase.streams})


@pytest.fixture(scope="session")
def hotel_file() -> Path:
    "119,390 real bookings; see the use case's notebook for source and licence."
    path = ROOT.parent / "shared" / "data" / "hotel_bookings.parquet"
    if not path.exists():
        pytest.skip(f"needs {path.name} in shared/data beside the repository")
    return path


@pytest.fixture(scope="session")
def fraud_world(tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("fraud")
    source = fraud.simulate(folder / "payments.parquet", customers=30, terminals=30, days=40)
    return ingested(fraud.usecase, source, folder)


@pytest.fixture(scope="session")
def hotel_world(tmp_path_factory, hotel_file) -> World:
    "The bookings of nine months that a few agents and companies made, and every tenth other."
    folder = tmp_path_factory.mktemp("hotel")
    months = pl.col("booking_date").is_between(pl.datetime(2016, 3, 1), pl.datetime(2016, 11, 30))
    some = pl.col("agent").is_in([6, 14, 240]) | pl.col("company").is_in([40, 223])
    chosen = months & (some | (pl.col("booking_id") % 40 == 0))
    source = folder / "bookings.parquet"
    pl.read_parquet(hotel_file).filter(chosen).write_parquet(source)
    return ingested(hotel.usecase, source, folder)


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("tiny")
    return ingested(tiny_usecase.usecase, tiny_usecase.write(folder), folder)


@pytest.fixture(params=["fraud", "hotel", "tiny"])
def world(request) -> World:
    return request.getfixturevalue(f"{request.param}_world")
