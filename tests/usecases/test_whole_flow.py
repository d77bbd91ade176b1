"The whole flow by the command line, for the use cases that are not the kit's first: parity holds."

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import polars as pl
import pytest
import tiny_usecase

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pipeline"))

from command import Kit  # noqa: E402

pytestmark = pytest.mark.pipeline
FORCED = ["-p", "override_gates=a small run, for a test"]
SAME = dict(different=0, by_feature={}, scores_different=0)


@pytest.fixture(scope="module")
def hotel(tmp_path_factory, hotel_file) -> Kit:
    "Bookings of the city hotel, and three hundred of them decided."
    folder = tmp_path_factory.mktemp("hotel")
    source = folder / "hotel_bookings.parquet"
    half = (pl.col("hotel") == "City Hotel") & (pl.col("booking_date") < pl.datetime(2017, 2, 1))
    pl.read_parquet(hotel_file).filter(half).write_parquet(source)
    kit = Kit(folder)
    kit.env["MLKIT_USECASE"] = "hotel"
    kit("run", "--source", str(source), "-p", "trials=1", "-p", "limit=300", *FORCED)
    return kit


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Kit:
    "Every ticket of the test period decided; the use case lies in a project of its own."
    folder = tmp_path_factory.mktemp("tiny")
    source = tiny_usecase.write(folder)
    package = folder / "project" / "shop"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(tiny_usecase.__file__, package / "tickets.py")
    kit = Kit(folder)
    kit.env["MLKIT_USECASE"] = "shop.tickets"
    kit.env["PYTHONPATH"] = os.pathsep.join([str(package.parent), kit.env.get("PYTHONPATH", "")])
    kit("run", "--source", source, "-p", "trials=1", *FORCED)
    return kit


def test_hotel_is_served_as_it_was_trained(hotel):
    found = hotel.summary
    assert found["parity"] == dict(compared=300, **SAME)
    assert set(found["decisions"]["routes"]) == {"accept", "deposit", "human"}
    assert found["decisions"]["degraded"] == 0 and found["decisions"]["routes"]["deposit"] > 0


def test_hotel_has_a_workspace_of_its_own(hotel):
    folder = hotel.home / "data" / "hotel" / "hotel_bookings"
    log = pl.read_delta(str(folder / "log" / "booking"))
    assert log["event_id"].n_unique() == log.height > 40_000
    assert not (hotel.home / "data" / "fraud").exists()


def test_tiny_is_served_as_it_was_trained(tiny):
    found = tiny.summary
    assert found["parity"] == dict(compared=found["parity"]["compared"], **SAME)
    assert found["parity"]["compared"] > 50 and found["decisions"]["degraded"] == 0
    assert set(found["decisions"]["routes"]) == {"answer", "desk"}


def test_tiny_can_be_traced(tiny):
    decision = tiny.summary["example_decision"]
    assert "identical, bit for bit" in tiny("trace", decision)
