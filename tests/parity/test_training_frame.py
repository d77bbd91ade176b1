"""What a model learns from, is judged on and is served are the same numbers."""

from datetime import timedelta

import polars as pl

from mlkit.datasets import Data
from mlkit.formats import to_events
from mlkit.frames import offline
from mlkit.parity import compare
from mlkit.usecases.fraud import SIMULATOR, Label, Transaction, usecase
from mlkit.usecases.simulator import simulate


def test_training_validation_and_test_frames_hold_the_very_features():
    events, _ = to_events(SIMULATOR, simulate(customers=150, terminals=300, days=80))
    events = {s: e.with_columns(seq=pl.int_range(pl.len())) for s, e in events.items()}
    features = offline(usecase.features, events[Transaction], events)
    cut = (events[Transaction]["event_time"].min() + timedelta(days=70)).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    data = Data(
        usecase.labels,
        usecase.plan,
        usecase.entity,
        events[Transaction],
        events[Label],
        features,
        cut,
    )
    made = [data.training_frame(), data.test_frame()]
    for fold in data.folds:
        made += [fold.train, fold.test]
    names = usecase.features.names
    for frame in made:
        assert frame.height > 100
        assert compare(frame.select("event_id", *names), features, names)["different"] == 0
        assert frame["amount"].dtype == pl.Float64
