"A feature of any type comes out of the decision log as it went in, and a changed one is found."

from __future__ import annotations

from pathlib import Path

import orjson
import polars as pl
from helpers import FEATURES, Pay, worlds
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.features import FeatureSet, FeatureView
from mlkit.frames import offline
from mlkit.parity import compare, served_features


class Narrow(FeatureView):
    "Whole numbers of every width, and the two kinds of floats."

    tiny = pl.col("event_time").dt.hour().cast(pl.Int8)
    short = pl.col("event_time").dt.hour().cast(pl.Int16)
    word = pl.col("event_time").dt.minute().cast(pl.UInt16)
    wide = pl.col("event_time").dt.year().cast(pl.UInt64)
    single = pl.col("amount").cast(pl.Float32)
    never = pl.when(pl.col("amount") < 0).then(pl.col("amount"))
    hue = pl.col("shade").cast(pl.Enum(["red", "green", "blue"]))
    known = pl.col("shade").is_not_null()


EVERY = FeatureSet(Pay, [*FEATURES.views, Narrow])


def kept(folder: Path, frame: pl.DataFrame) -> list[str]:
    "A decision log as the service writes it; returns the ids."
    lines = []
    for i, row in enumerate(frame.iter_rows(named=True)):
        request = dict(event_id=row.pop("event_id"))
        lines.append(dict(decision_id=f"d{i}", request=request, ms=1.0, values=row))
    folder.mkdir(exist_ok=True)
    (folder / "1.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return [line["decision_id"] for line in lines]


@settings(max_examples=30)
@given(world=worlds())
def test_every_type_comes_back(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("decisions")
    frame = offline(EVERY, world[Pay], world)
    served = served_features(folder, kept(folder, frame), EVERY)
    assert served.select(frame.columns).schema == frame.schema
    found = compare(served, frame, EVERY.names)
    assert found == dict(compared=frame.height, different=0, by_feature={})


def other(value: object, dtype: pl.DataType) -> object:
    "A value of the same type that differs as little as can be."
    if dtype == pl.Enum:
        return next(w for w in dtype.categories if w != value)
    if dtype == pl.Boolean:
        return value is not True
    if value is None:
        return 1
    return value + (1 if dtype.is_integer() else 2.0**-20 * max(abs(value), 1.0))


@settings(max_examples=30)
@given(world=worlds(), data=st.data())
def test_a_changed_value_of_any_type_is_found(world, data):
    frame = offline(EVERY, world[Pay], world)
    name = data.draw(st.sampled_from(EVERY.names))
    i = data.draw(st.integers(0, frame.height - 1))
    values = frame[name].to_list()
    values[i] = other(values[i], frame.schema[name])
    changed = frame.with_columns(pl.Series(name, values, dtype=frame.schema[name]))
    found = compare(changed, frame, EVERY.names)
    assert (found["different"], found["by_feature"]) == (1, {name: 1})


def test_a_zero_of_another_sign_differs_and_a_request_nobody_knows_does():
    one = pl.DataFrame(dict(event_id=["a"], x=[0.0]))
    assert compare(one, one.with_columns(x=pl.Series([-0.0])), ["x"])["different"] == 1
    assert compare(one, one.clear(), [])["different"] == 1
    assert compare(one.clear(), one, ["x"])["compared"] == 0


def test_degraded_decisions_have_nothing_to_compare(tmp_path):
    line = dict(decision_id="d", request=dict(event_id="p"), ms=1.0, values={})
    (tmp_path / "1.jsonl").write_bytes(orjson.dumps(line) + b"\n")
    assert served_features(tmp_path, ["d"], EVERY).height == 0
