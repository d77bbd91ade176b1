"Invariant 1, for every use case: what the online state answers is the offline frame, bit for bit."

from __future__ import annotations

import polars as pl
from helpers import as_frame, ask, assert_same_bits, empty_state

from mlkit.frames import offline
from mlkit.online import apply
from mlkit.requests import Online


def arrivals(events: dict, seed: int = 1, batch: int = 97) -> list[tuple]:
    "Everything in batches whose order has nothing to do with time; `seq` is that of arrival."
    found = []
    for stream, frame in events.items():
        shuffled = frame.sample(fraction=1, shuffle=True, seed=seed).drop("seq")
        arrived = shuffled.with_columns(seq=pl.int_range(pl.len(), dtype=pl.Int64))
        found += [(i, stream, part) for i, part in enumerate(arrived.iter_slices(batch))]
    return [(stream, part) for _, stream, part in sorted(found, key=lambda f: f[0])]


def test_online_answers_are_the_offline_frame(world):
    "In a state that has everything, later events included, that arrived in any order."
    usecase, requests = world.usecase, world.requests
    asked = requests.sample(min(1500, requests.height), seed=2)
    with empty_state(usecase.features) as store:
        for stream, part in arrivals(world.events):
            apply(store, stream, part)
        online = Online(usecase.features)
        answers = [
            ask(online, store, r) for r in asked.select(*usecase.request.schema()).to_dicts()
        ]
    expected = offline(usecase.features, asked, world.events)
    assert_same_bits(as_frame(answers, usecase.features), expected.drop("event_id"))
    values = expected.drop("event_id")
    assert all(values[n].n_unique() > 1 for n in values.columns), "a feature that says nothing"


def test_the_order_of_rows_and_of_arrival_changes_nothing(world):
    usecase = world.usecase
    shuffled = {s: f.sample(fraction=1, shuffle=True, seed=3) for s, f in world.events.items()}
    plain = offline(usecase.features, world.requests, world.events)
    other = offline(usecase.features, shuffled[usecase.request], shuffled)
    both = world.requests.select("event_id").join(other, on="event_id", maintain_order="left")
    assert_same_bits(both.drop("event_id"), plain.drop("event_id"))
