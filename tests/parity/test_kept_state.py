"An online state on the disk: loaded, replaced, opened by others, written as it always was."

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from helpers import (
    DAWN,
    FEATURES,
    Outcome,
    Pay,
    ask,
    assert_same_bits,
    empty_state,
    numbered,
    online_frame,
    pays,
    view,
)

from mlkit import chunks, nodes
from mlkit.eventlog import append, scan
from mlkit.features import FeatureSet
from mlkit.follower import follow
from mlkit.frames import offline
from mlkit.lmdbstate import LmdbStore, load_lmdb
from mlkit.online import StateError, apply, state_folder
from mlkit.requests import Online


def features_of(**members: Any) -> FeatureSet:
    return FeatureSet(Pay, [view(members)])


COUNT = features_of(n=Pay.count(over=["7d"]))
BOTH = features_of(n=Pay.count(over=["7d"]), total=Pay.sum("amount", over=["7d"]))


def test_loading_a_moment_of_more_events_than_a_chunk(logs, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 3)
    monkeypatch.setattr(nodes, "FAN", 2)
    hours = [0, 0, 1, *[2] * 8, 3, 3, 3, 4, *[5] * 4, 6]
    times = [DAWN + timedelta(hours=h) for h in hours]
    moments = pl.Series(times, dtype=Pay.schema()["event_time"])
    rows = pays(len(hours)).with_columns(event_time=moments)
    append(logs[Pay], rows, "all")
    load_lmdb(FEATURES, tmp_path / "state", logs)
    history = {Pay: scan(logs[Pay]).collect(), Outcome: pl.DataFrame(schema=Outcome.schema())}
    expected = offline(FEATURES, rows, history).drop("event_id")
    with LmdbStore(FEATURES, tmp_path / "state") as store:
        assert_same_bits(online_frame(FEATURES, rows, store), expected)


def test_loading_before_a_moment(logs, tmp_path):
    "Strictly before it; from the position on, following the log brings the rest."
    rows = pays(30)[[*range(0, 30, 2), *range(1, 30, 2)]]  # every second one late
    append(logs[Pay], rows, "all")
    until, hour = rows["event_time"].sort()[20], timedelta(hours=1)
    position = load_lmdb(BOTH, tmp_path / "state", logs, until=until)
    left = scan(logs[Pay]).filter(pl.col("event_time") >= until).collect()["seq"].min()
    assert position["seq"] == {"pay": left - 1}
    assert position["watermark"] == (until - hour).isoformat()
    request = rows.row(29, named=True) | dict(event_time=until + hour)
    with LmdbStore(BOTH, tmp_path / "state", write=True) as store:
        assert ask(Online(BOTH), store, request)["who_n_7d"] == 21
        follow(store, logs)
        expected = offline(BOTH, rows, {Pay: rows}).drop("event_id")
        assert_same_bits(online_frame(BOTH, rows, store), expected)


def test_a_reader_goes_on_in_the_state_that_replaced_its_own(logs, tmp_path):
    rows = pays(20)
    append(logs[Pay], rows[:10], "first")
    load_lmdb(COUNT, tmp_path / "state", logs)
    with LmdbStore(COUNT, tmp_path / "state") as store:
        assert online_frame(COUNT, rows[-1:], store)["who_n_7d"].to_list() == [11]
        append(logs[Pay], rows[10:19], "second")
        load_lmdb(COUNT, tmp_path / "state", logs)
        assert online_frame(COUNT, rows[-1:], store)["who_n_7d"].to_list() == [20]


def records_of(store: LmdbStore) -> dict[str, list[int]]:
    "The chunks of a state with one entity: the end of the key, and the numbers."
    found = {}
    with store.env.begin() as txn:
        for key, value in txn.cursor():
            if key[4:5] == b"\x00" and len(key) == 4 + 1 + 8 + 8:
                found[key[4:].hex()] = np.frombuffer(value, np.int64).tolist()
    return found


def test_a_record_is_what_it_was():
    "Code that reads or writes a record in another way must give `layout` another number."
    features = features_of(
        total=Pay.sum("amount", over=["7d"]),
        spread=Pay.std("amount", over=["7d"]),
        least=Pay.min("amount", over=["7d"]),
        places=Pay.distinct("place", over=["7d"]),
    )
    rows = pays(3, amount=lambda i: [5, -7, 2**33][i], place=lambda i: "aba"[i])
    with empty_state(features) as store:
        apply(store, Pay, numbered(rows))
        records = records_of(store)
    hour, t = 3_600_000_000, int(DAWN.timestamp()) * 1_000_000
    head = [3, 0, 0, 0, 0, 0, 0, 0]  # events, those before, totals before
    times = [t, t + hour, t + 2 * hour]
    seqs = [0, 1, 2]
    newest = [0, 1, 2]  # of each place, as a running total
    totals = [5, -2, 2**33 - 2]
    squares = [25, 74, 74, 0, 0, 4]  # low halves, high halves
    amounts = [5, -7, 2**33]
    previous = [-(2**63), -(2**63), t]  # time of the same place's event before
    parts = [head, times, seqs, newest, totals, squares, amounts, previous]
    key = "00" + (1 + 2**63).to_bytes(8, "big").hex() + (t + 2**63).to_bytes(8, "big").hex()
    assert records == {key: [n for part in parts for n in part]}
    assert features.layout == 3


LOADING = """
import sys
from mlkit.etl import Logs
from mlkit.lmdbstate import load_lmdb
from helpers import FEATURES
for _ in range(int(sys.argv[3])):
    load_lmdb(FEATURES, sys.argv[2], Logs(sys.argv[1]))
"""


def test_a_state_that_is_being_replaced_can_be_opened(logs, tmp_path):
    "By another process, over and over: whoever opens the state finds one, whole."
    state = tmp_path / "state"
    append(logs[Pay], pays(3), "all")
    load_lmdb(FEATURES, state, logs)
    command = [sys.executable, "-c", LOADING, str(logs.folder), str(state), "40"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    loading = subprocess.Popen(command, env=environment)
    opened = 0
    while loading.poll() is None:
        with LmdbStore(FEATURES, state) as store, store.reader() as reader:
            assert reader.position()["seq"] == {"pay": 2}
        opened += 1
    assert loading.returncode == 0
    assert opened > 0
    os.rename(state, tmp_path / "elsewhere")
    with pytest.raises(StateError, match="no online state"):
        LmdbStore(FEATURES, state)


def test_state_of_other_features_is_refused(logs, tmp_path):
    append(logs[Pay], pays(3), "all")
    load_lmdb(COUNT, tmp_path / "state", logs)
    with pytest.raises(StateError, match="holds the features"):
        LmdbStore(BOTH, tmp_path / "state")


def test_two_feature_sets_live_at_once(logs, tmp_path):
    "Each has its own state, and both follow the same log."
    rows, sets = pays(40, who=lambda i: i % 3, amount=lambda i: 100 * i), (COUNT, BOTH)
    folders = [state_folder(tmp_path, features) for features in sets]
    assert len(set(folders)) == 2
    one, two = [LmdbStore(f, p, write=True, create=True) for f, p in zip(sets, folders)]
    with one, two:
        for part in rows.iter_slices(9):
            append(logs[Pay], part, part["event_id"][0])
            follow(one, logs)
            follow(two, logs)
        history = {Pay: scan(logs[Pay]).collect()}
        for store in (one, two):
            expected = offline(store.features, rows, history).drop("event_id")
            assert_same_bits(online_frame(store.features, rows, store), expected)
