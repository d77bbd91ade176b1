"""The first cut is the latest whose test period has mature labels; events of a period come once."""

from datetime import datetime, timedelta, timezone

import polars as pl
import pytest

from mlkit.display import cut_line
from mlkit.files import SourceError
from mlkit.period import Cut, choose_cut, first_cut, moment_text, source_events
from mlkit.splits import Plan
from mlkit.usecase import load_usecase

FRAUD = load_usecase("fraud")
START = datetime(2025, 1, 1, tzinfo=timezone.utc)
PLAN = Plan(train=14, wait=3, test=7, folds=2, step=7)


def times(days: float) -> pl.Series:
    "Requests an hour apart."
    end = START + timedelta(days=days)
    return pl.datetime_range(START, end, "1h", closed="left", eager=True)


@pytest.mark.parametrize("days", [28, 40, 40.5, 365])
def test_the_cut_is_the_latest_with_mature_labels(days):
    cut, end = first_cut(times(days), PLAN), times(days).max()
    mature = timedelta(days=PLAN.test + PLAN.wait)
    assert cut + mature <= end < cut + mature + timedelta(days=1)
    assert PLAN.train_start(cut) >= START


def test_too_little_data_is_said_in_days():
    with pytest.raises(SourceError, match="needs more than 27 days"):
        first_cut(times(25), PLAN)


def test_the_given_cut_goes_before_the_use_cases(tmp_path):
    given = choose_cut(FRAUD, tmp_path, "simulator", "2025-03-01")
    assert given == Cut(datetime(2025, 3, 1, tzinfo=timezone.utc), "given")
    declared = choose_cut(FRAUD, tmp_path, "simulator", "")
    assert declared == Cut(FRAUD.cuts["simulator"], "the use case's")


def test_a_cut_with_an_offset_is_the_moment_it_names(tmp_path):
    cut = choose_cut(FRAUD, tmp_path, "simulator", "2025-03-01T02:00:00+02:00")
    assert cut.at == datetime(2025, 3, 1, tzinfo=timezone.utc)
    for wrong in ("soon", "0001-01-01T00:00:00+02:00"):
        with pytest.raises(SourceError, match="write a day or a moment"):
            choose_cut(FRAUD, tmp_path, "simulator", wrong)


@pytest.mark.parametrize(
    "given, shown",
    [
        ("2025-03-01", "2025-03-01"),
        ("2025-03-01T12:00:00+00:00", "2025-03-01 12:00"),
        ("2025-03-01T00:00:00+02:00", "2025-02-28 22:00"),
        ("2025-03-01T00:00:00+05:30", "2025-02-28 18:30"),
        ("2025-03-01T05:30:00+05:30", "2025-03-01"),
        ("2025-03-01T12:00:01Z", "2025-03-01 12:00:01"),
        ("2025-03-01T00:00:00.000001Z", "2025-03-01 00:00:00.000001"),
    ],
)
def test_a_cut_is_shown_as_the_moment_it_is(tmp_path, given, shown):
    cut = choose_cut(FRAUD, tmp_path, "simulator", given)
    assert moment_text(cut.at) == moment_text(given) == shown
    assert f"cut: {shown}, given" in cut_line(cut)


def test_events_of_a_period_come_once_from_all_files(tmp_path):
    for name in ("a", "b"):
        FRAUD.simulator(tmp_path / f"{name}.parquet", customers=5, terminals=10, days=4)
    day = START + timedelta(days=1)
    both = source_events(FRAUD, tmp_path / "*.parquet", day, day + timedelta(days=1))
    one = source_events(FRAUD, tmp_path / "a.parquet")
    requests = both[FRAUD.request]
    assert requests["event_id"].is_unique().all() and 0 < requests.height
    inside = one[FRAUD.request].filter(pl.col("event_time").dt.date() == day.date())
    assert requests.equals(inside)
