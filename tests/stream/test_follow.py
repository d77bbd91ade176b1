"""The online state is a function of a prefix of the log, whoever appended it, in whatever turns
it was followed."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
import world as events_of
from crowd import assert_state_equals_bulk_load
from helpers import FEATURES, Pay, as_frame, ask, assert_same_bits, worlds
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit import follower as follower_module
from mlkit.etl import Logs
from mlkit.eventlog import append, compact, scan
from mlkit.events import check
from mlkit.features import FeatureSet, FeatureView
from mlkit.follower import Follower, follow, tail
from mlkit.lmdbstate import LmdbStore, load_lmdb
from mlkit.online import StateError, state_folder
from mlkit.requests import Online
from mlkit.stores import ensure_store
from mlkit.tables import LogError


def pays(n: int) -> pl.DataFrame:
    return check(
        Pay,
        pl.DataFrame(
            [row for s, row in events_of.batch(n) if s == "pay" and row["amount"] >= 0]
        ).unique("event_id", keep="first"),
    )[0]


def filled(logs: Logs, batches: int) -> Logs:
    "The log of so many batches of payments."
    for n in range(batches):
        append(logs[Pay], pays(n), f"batch {n}")
    return logs


def test_tail_opens_only_the_files_it_needs(logs: Logs) -> None:
    "What comes after a seq, from few files, before compaction and after it."
    filled(logs, 12)
    whole = scan(logs[Pay]).collect().sort("seq")
    for merged in (False, True):
        if merged:
            assert compact(logs[Pay]) > 0
        for after in (-1, 0, 57, whole.height - 2, whole.height - 1, whole.height + 5):
            for most in (1, 16, 10_000):
                assert tail(logs[Pay], after, most).equals(whole[after + 1 : after + 1 + most])
        files = logs[Pay].table().file_uris(file_pruning_predicate=f"seq > {whole.height - 3}")
        assert 0 < len(files) < len(logs[Pay].table().file_uris())


@pytest.mark.parametrize("name", ["with space", "Zürich", "a#b", "100%"])
def test_tail_in_a_folder_of_any_name(name: str, tmp_path: Any) -> None:
    logs = filled(Logs(tmp_path / name), 2)
    assert tail(logs[Pay], -1).equals(scan(logs[Pay]).collect().sort("seq"))
    assert tail(logs[Pay], 3).height == scan(logs[Pay]).collect().height - 4


def test_gap_in_the_log_is_an_error(logs: Logs) -> None:
    "A log from which a file was lost is not followed past the gap."
    filled(logs, 2)
    table = logs[Pay].table()
    table.alter.set_table_properties({"delta.appendOnly": "false"})
    table.delete("seq = 5")
    with pytest.raises(LogError, match="without a gap"):
        tail(logs[Pay], 2)


@settings(max_examples=25)
@given(
    worlds(most=30),
    st.lists(st.sampled_from(["mine", "lost", "theirs", "compact"]), min_size=16, max_size=16),
    st.randoms(use_true_random=False),
)
def test_any_turns_of_appending_and_following(
    tmp_path_factory: Any, world: dict, turns: list[str], random: Any
) -> None:
    """Batches by two writers, of which one tells its follower what it appended and the other
    dies before it can; compaction; a reload: the state is that of a bulk load."""
    logs = Logs(tmp_path_factory.mktemp("turns") / "workspace")
    other = Logs(logs.folder)
    parts = [
        (s, part)
        for s, frame in world.items()
        for part in frame.sample(fraction=1, shuffle=True, seed=1).iter_slices(4)
    ]
    random.shuffle(parts)
    with ensure_store(FEATURES, logs.folder, logs) as store:
        follower = Follower(store, logs)
        for n, ((stream, part), turn) in enumerate(zip(parts, turns)):
            landed = append((other if turn == "theirs" else logs)[stream], part, f"batch {n}")
            if turn == "mine":
                follower.catch_up({stream: landed.events})
            if turn == "compact":
                compact(logs[stream])
                follower.catch_up()
        follower.catch_up()
        assert n == len(parts) - 1
        position = follower.position()
        requests = world[Pay].to_dicts()
        got = as_frame([ask(Online(FEATURES), store, r) for r in requests])
    assert load_lmdb(FEATURES, logs.folder / "bulk", logs)["seq"] == position
    with LmdbStore(FEATURES, logs.folder / "bulk") as bulk:
        assert_same_bits(got, as_frame([ask(Online(FEATURES), bulk, r) for r in requests]))


def test_fresh_rows_are_used_only_where_they_continue_the_state(
    logs: Logs, monkeypatch: Any
) -> None:
    """Rows that continue the position are not read again; rows beyond a hole are not applied
    without what is missing."""
    with ensure_store(FEATURES, logs.folder, logs) as store:
        follower, first, read = Follower(store, logs), append(logs[Pay], pays(0), "a"), []
        with monkeypatch.context() as patch:
            patch.setattr(
                follower_module,
                "tail",
                lambda log, *_, **__: read.append(log.stream) or pl.DataFrame(),
            )
            assert follower.catch_up({Pay: first.events})["pay"] == first.new
            assert read == []
        append(logs[Pay], pays(1), "b")
        last = append(logs[Pay], pays(2), "c")
        follower.catch_up({Pay: last.events})
        assert follower.position()["pay"] == scan(logs[Pay]).collect()["seq"].max()
    assert_state_equals_bulk_load(logs)


def test_a_state_that_was_replaced_goes_on_from_its_own_position(logs: Logs) -> None:
    """A bulk load of an earlier moment in place of the followed state: the next follower brings
    it up to the log."""
    filled(logs, 3)
    ensure_store(FEATURES, logs.folder, logs).close()
    filled(logs, 6)
    with ensure_store(FEATURES, logs.folder, logs) as store:
        assert follow(store, logs)["pay"] > 0
        assert follow(store, logs)["pay"] == 0
    assert_state_equals_bulk_load(logs)


def test_two_feature_sets_follow_one_log(logs: Logs) -> None:
    "As during a release: each has its own state, and each is that of a bulk load."

    class Brief(FeatureView, key="who"):
        n = Pay.count(over=["1h"])

    brief, folders = FeatureSet(Pay, [Brief]), {}
    for n in range(4):
        filled(logs, n + 1)
        for features in (FEATURES, brief)[: 1 + n % 2]:  # the second one only every other time
            folders[features] = state_folder(logs.folder, features)
            with ensure_store(features, logs.folder, logs) as store:
                follow(store, logs)
    requests = scan(logs[Pay]).select(list(Pay.fields)).collect().to_dicts()
    for features, folder in folders.items():
        load_lmdb(features, logs.folder / "bulk", logs)
        with (
            LmdbStore(features, folder) as followed,
            LmdbStore(features, logs.folder / "bulk") as bulk,
        ):
            assert_same_bits(
                *(
                    as_frame([ask(Online(features), s, r) for r in requests], features)
                    for s in (followed, bulk)
                )
            )
    assert len(folders) == 2


def test_two_followers_of_one_state_take_turns(logs: Logs, consumers: Any) -> None:
    """Two processes that only follow, while this one appends: one answer, and both end when
    asked to."""
    crowd = consumers(follow_only=True)
    pids = [crowd.start(), crowd.start()]
    filled(logs, 8)
    state, end = state_folder(logs.folder, FEATURES), scan(logs[Pay]).collect()["seq"].max()

    def reached() -> int:
        try:
            store = LmdbStore(FEATURES, state)
        except StateError:
            return -1
        with store, store.reader() as r:
            return r.position().get("seq", {}).get("pay", -1)

    while reached() < end:
        assert not any(crowd.ended(pid) for pid in pids), crowd.errors.read_text()
    assert [crowd.end(pid) for pid in pids] == [0, 0]
    assert_state_equals_bulk_load(logs)


def test_a_state_of_another_log_is_not_followed(logs: Logs, tmp_path: Any) -> None:
    "It is ahead of this one: what comes here would never reach it."
    other, state = filled(Logs(tmp_path / "other"), 3), state_folder(logs.folder, FEATURES)
    filled(logs, 1)
    load_lmdb(FEATURES, state, other)
    with LmdbStore(FEATURES, state, write=True) as store:
        with pytest.raises(StateError, match="not of this log"):
            follow(store, logs)
        with pytest.raises(StateError, match="not of this log"):
            Follower(store, logs).catch_up({Pay: append(logs[Pay], pays(1), "more").events})
    load_lmdb(FEATURES, state, logs)
    with LmdbStore(FEATURES, state, write=True) as store:
        assert follow(store, logs) == {"pay": 0, "outcome": 0}
