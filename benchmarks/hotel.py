"""What the hotel data say: which columns leak, how late outcomes are, how good the model is.

python benchmarks/hotel.py …/hotel_bookings.parquet [leaks|delays|quality]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from mlkit.datasets import Data, with_features
from mlkit.etl import Logs, ingest
from mlkit.eventlog import scan
from mlkit.frames import offline
from mlkit.metrics import evaluate
from mlkit.models import matrix
from mlkit.recipes import Recipe, fit
from mlkit.splits import labelled
from mlkit.usecases import hotel

# What a booking says of itself, in columns that every measure of leaks takes as given.
FIXED = [
    "hotel",
    "booking_date",
    "arrival_date",
    "stays_in_weekend_nights",
    "stays_in_week_nights",
    "agent",
    "company",
    "market_segment",
    "distribution_channel",
    "customer_type",
    "reserved_room_type",
    "meal",
    "adults",
    "children",
    "babies",
]
HAS = {
    "country is PRT": pl.col("country").eq_missing("PRT"),
    "required_car_parking_spaces > 0": pl.col("required_car_parking_spaces") > 0,
    "assigned_room_type is another": pl.col("assigned_room_type") != pl.col("reserved_room_type"),
    "booking_changes > 0": pl.col("booking_changes") > 0,
    "total_of_special_requests > 0": pl.col("total_of_special_requests") > 0,
    "days_in_waiting_list > 0": pl.col("days_in_waiting_list") > 0,
    "deposit_type is Non Refund": pl.col("deposit_type") == "Non Refund",
    "previous_cancellations > 0": pl.col("previous_cancellations") > 0,
    "previous_bookings_not_canceled > 0": pl.col("previous_bookings_not_canceled") > 0,
    "is_repeated_guest": pl.col("is_repeated_guest") == 1,
    "adr = 0": pl.col("adr") == 0,
    "customer_type is Transient-Party": pl.col("customer_type") == "Transient-Party",
    "meal is HB": pl.col("meal") == "HB",
    "reserved_room_type is A": pl.col("reserved_room_type") == "A",
    "adults = 1": pl.col("adults") == 1,
}


def markdown(frame: pl.DataFrame) -> str:
    "A frame as a table for a notebook."
    rows = [frame.columns, ["---"] * frame.width, *frame.rows()]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)


# %% Leaks


@dataclass(frozen=True)
class Twins:
    "Bookings alike in everything fixed, some of which were cancelled and some not."

    bookings: int
    groups: int
    cancelled: float  # mean share with the mark, over groups
    stayed: float


def twins(raw: pl.DataFrame, mark: pl.Expr) -> Twins:
    "How often twins have a mark; the columns that it reads are left out of what they share."
    shared = [column for column in FIXED if column not in mark.meta.root_names()]
    cancelled = pl.col("is_canceled") == 1
    mixed = raw.filter((cancelled.any() & (~cancelled).any()).over(shared))
    means = dict(gone=mark.filter(cancelled).mean(), here=mark.filter(~cancelled).mean())
    groups = mixed.group_by(shared).agg(**means)
    return Twins(mixed.height, groups.height, groups["gone"].mean(), groups["here"].mean())


def shares_of(raw: pl.DataFrame) -> list[float]:
    "How many bookings have each of the marks."
    marks = [has.mean().alias(name) for name, has in HAS.items()]
    return list(raw.select(marks).row(0))


def leaks(raw: pl.DataFrame) -> pl.DataFrame:
    "For each mark its share among twins, by what became of the booking, and by its life."
    status, life = pl.col("reservation_status"), pl.col("label_date") - pl.col("booking_date")
    online = (pl.col("market_segment") == "Online TA") & (pl.col("lead_time") >= 60)
    gone = raw.filter(online & (status == "Canceled"))
    alike = [twins(raw, has) for has in HAS.values()]
    columns = {
        "twins: cancelled": [t.cancelled for t in alike],
        "twins: stayed": [t.stayed for t in alike],
        "all: cancelled": shares_of(raw.filter(status == "Canceled")),
        "no-show": shares_of(raw.filter(status == "No-Show")),
        "stayed": shares_of(raw.filter(status == "Check-Out")),
        "life: same day": shares_of(gone.filter(life == timedelta(0))),
        "over 60 days": shares_of(gone.filter(life > timedelta(days=60))),
    }
    found = pl.DataFrame({"share with": list(HAS), **columns})
    print(f"{alike[0].bookings:,} twins in {alike[0].groups:,} groups")
    return found.with_columns(pl.col(columns).map_elements(percent, pl.String))


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


# %% Delays


def delays(raw: pl.DataFrame) -> pl.DataFrame:
    "How many outcomes are known some days after the booking."
    inside = pl.col("booking_date").is_between(pl.datetime(2015, 7, 1), pl.datetime(2016, 8, 31))
    seen = raw.filter(inside).with_columns(
        days=(pl.col("label_date") - pl.col("booking_date")).dt.total_days(),
        cancelled=pl.col("is_canceled") == 1,
    )
    rows = []
    for days in (7, 30, 60, 90, 120, 180, 270, 365):
        known = pl.col("days") < days
        row = seen.select(
            pl.lit(days).alias("days"),
            known.mean().alias("known"),
            known.filter("cancelled").mean().alias("of cancellations"),
            known.filter(~pl.col("cancelled")).mean().alias("of stays"),
            pl.col("cancelled").filter(known).mean().alias("cancelled among the known"),
        )
        rows.append(row)
    return pl.concat(rows).with_columns(pl.exclude("days").map_elements(percent, pl.String))


# %% Quality

SETTINGS = dict(
    n_estimators=200,
    learning_rate=0.05,
    max_depth=4,
    min_child_weight=10,
    subsample=0.7,
    colsample_bytree=0.4,
)
FOLDS, WEEKS = 5, timedelta(days=28)  # the last fold ends where the served period begins


def history(path: Path) -> Data:
    "Requests, labels and features of the whole file, cut where the served period begins."
    usecase = hotel.usecase
    with TemporaryDirectory() as folder:
        logs = Logs(folder)
        ingest(path, usecase.formats, logs)
        events = {s: scan(logs[s]).collect() for s in usecase.streams}
    requests, labels = events[hotel.Booking], events[hotel.Outcome]
    rows = offline(usecase.features, requests, events)
    inputs = usecase.features.inputs
    return Data(hotel.LABELS, hotel.PLAN, usecase.entity, requests, labels, rows, hotel.CUT, inputs)


def judged(data: Data, recipe: Recipe, inputs: list[str]) -> dict[str, float]:
    "Learn from what was known at the cut; judge on all of the next four weeks, as we know now."
    model = fit(recipe, data.training_frame(), inputs)
    period = labelled(data.rule, data.requests, data.labels, data.cut, data.cut + WEEKS)
    test = with_features(period, data.features)
    score = pl.Series(model.score(matrix(test, inputs)))
    found = evaluate(test.with_columns(score=score), data.entity)
    return found | dict(rate=found["positives"] / found["rows"])


def quality(path: Path) -> pl.DataFrame:
    "AUC and AP on rolling folds, of all features and of the row-wise ones alone."
    data, plain = history(path), Recipe("xgboost", SETTINGS)
    own = [n for n in data.inputs if n.partition("=")[0] in hotel.Stay.members]
    held = replace(plain, increasing=hotel.usecase.increasing)
    variants = {
        "all features, as the kit trains": (held, data.inputs),
        "all features, unconstrained": (plain, data.inputs),
        "row-wise features alone": (plain, own),
    }
    cuts = [hotel.CUT - k * WEEKS for k in range(FOLDS, 0, -1)]
    table = []
    for name, (recipe, inputs) in variants.items():
        folds = [judged(replace(data, cut=cut), recipe, list(inputs)) for cut in cuts]
        table.append(dict(model=name, AUC=spread(folds, "auc"), AP=spread(folds, "ap")))
    print(f"cancelled in the folds: {spread(folds, 'rate')}")
    return pl.DataFrame(table)


def spread(folds: list[dict[str, float]], metric: str) -> str:
    "Mean and standard deviation over folds."
    values = [fold[metric] for fold in folds]
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}"


def main(path: Path, wanted: list[str]) -> None:
    raw = pl.read_parquet(path)
    tables = dict(
        leaks=lambda: leaks(raw), delays=lambda: delays(raw), quality=lambda: quality(path)
    )
    for name in wanted or tables:
        print(f"\n{name}\n")
        print(markdown(tables[name]()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
