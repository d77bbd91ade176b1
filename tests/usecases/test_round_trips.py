"Every stored value survives the ways out and back: shown, JSON, a request, a raw frame."

from __future__ import annotations

import json

import polars as pl

from mlkit.events import accept, check


def test_a_stored_event_survives_json_and_a_request(world):
    for stream, frame in world.events.items():
        events = frame.select(*stream.schema()).sample(min(1000, frame.height), seed=4)
        for event in events.to_dicts():
            text = json.dumps(stream.to_json(event), allow_nan=False)
            assert accept(stream, json.loads(text)) == event


def test_a_stored_event_survives_being_shown(world):
    for stream, frame in world.events.items():
        events = frame.select(*stream.schema()).head(1000)
        for event in events.to_dicts():
            assert accept(stream, stream.shown(event)) == event


def test_a_shown_frame_is_checked_into_the_same_frame(world):
    for stream, frame in world.events.items():
        events = frame.select(*stream.schema())
        shown = [stream.shown(event) for event in events.to_dicts()]
        stored, refused = check(stream, pl.DataFrame(shown, schema=stream.shown_schema()))
        assert refused.is_empty() and stored.equals(events)


def test_what_is_optional_is_there_and_is_not(world):
    "The samples have values and nulls for each optional field, so that the above says something."
    for stream, frame in world.events.items():
        for name, f in stream.fields.items():
            if f.optional and name != "children":
                assert 0 < frame[name].null_count() < frame.height, f"{stream.__name__}.{name}"
