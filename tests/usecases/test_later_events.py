"Invariant 2, for every use case: later events change no earlier row."

from __future__ import annotations

import polars as pl
import pytest
from helpers import assert_same_bits

from mlkit.frames import offline


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
def test_what_happens_later_changes_no_earlier_row(world, quantile):
    "Rows up to a moment, a day's ties included, need only what lies strictly before it."
    features, requests = world.usecase.features, world.requests
    times = requests["event_time"].sort()
    moment = times[int(quantile * (len(times) - 1))]
    early = requests.filter(pl.col("event_time") <= moment)
    before = {s: f.filter(pl.col("event_time") < moment) for s, f in world.events.items()}
    whole = offline(features, requests, world.events)
    kept = early.select("event_id").join(whole, on="event_id", maintain_order="left")
    alone = offline(features, early, before)
    assert_same_bits(alone.drop("event_id"), kept.drop("event_id"))


def test_events_of_the_same_moment_do_not_see_each_other(world):
    "One request at a time, with the others of its moment in the log or not."
    features, requests = world.usecase.features, world.requests
    busiest = requests["event_time"].value_counts(sort=True)["event_time"][0]
    together = requests.filter(pl.col("event_time") == busiest)
    before = {s: f.filter(pl.col("event_time") < busiest) for s, f in world.events.items()}
    alone = pl.concat([offline(features, r, before) for r in together.iter_slices(1)])
    all_there = offline(features, together, world.events)
    assert_same_bits(all_there.drop("event_id"), alone.drop("event_id"))


def test_labels_of_a_moment_are_not_known_at_it(world):
    "A label that becomes known at the moment of a request is not among its facts."
    usecase = world.usecase
    labels = world.events[usecase.labels.stream]
    request = world.requests.filter(pl.col("event_time").is_in(labels["event_time"].implode()))
    if request.is_empty():
        moved = labels.head(50).with_columns(event_time=pl.lit(world.requests["event_time"][-1]))
        request = world.requests.tail(1)
        labels = pl.concat([labels.tail(-50), moved.cast(labels.schema)])
    request = request.sort("event_time").tail(1)
    earlier = labels.filter(pl.col("event_time") < request["event_time"][0])
    seen = {**world.events, usecase.labels.stream: labels}
    known = {**world.events, usecase.labels.stream: earlier}
    found = offline(usecase.features, request, seen).drop("event_id")
    assert_same_bits(found, offline(usecase.features, request, known).drop("event_id"))
