"Invariant 3 by name: the names of batches are what they were, and each leads back to its input."

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import polars as pl
import pytest
from log_writer import Pay, batch

from mlkit.errors import UserError
from mlkit.etl import Batch, BatchName, Logs, file_batch, ingest, land
from mlkit.eventlog import append, fingerprint, scan
from mlkit.events import check
from mlkit.follower import tail
from mlkit.formats import SourceFormat

UTC = timezone.utc
CONTENT = "0123456789abcdef" * 2
CUT = datetime(2025, 3, 8, tzinfo=UTC)
OWN = SourceFormat("own", Pay, {name: name for name in Pay.fields})

# the texts as they stand in logs that were written before there was a `BatchName`
NAMES = {
    f"{CONTENT}/pay/..": BatchName.file(CONTENT).of(Pay),
    f"{CONTENT}/pay/..{CUT}": BatchName.file(CONTENT, until=CUT).of(Pay),
    f"{CONTENT}/pay/{CUT}..": BatchName.file(CONTENT, since=CUT).of(Pay),
    f"{CONTENT}/contract": BatchName(CONTENT, "file", fault="contract"),
    f"{CONTENT}/stream/0011223344556677": BatchName(CONTENT, "replay", "0011223344556677"),
    "redis/a/b/1-0..2-7/fb41/pay": BatchName.redis("a/b", "1-0", "2-7", "fb41").of(Pay),
    "redis/a/b/1-0..2-7/fb41/unread": BatchName("a/b", "redis", "1-0..2-7/fb41", fault="unread"),
    f"review/d-1/False/{CUT.isoformat()}": BatchName.review("d-1", False, CUT).of(Pay),
    "march": BatchName("march").of(Pay),
}


@pytest.mark.parametrize("text", NAMES)
def test_names_are_made_and_read_as_ever(text):
    name = NAMES[text]
    assert str(name) == text
    read = BatchName.parse(text)
    assert (read.source, read.kind, read.part, read.stream, read.fault) == (
        name.source,
        name.kind,
        name.part,
        name.stream,
        name.fault,
    )
    assert str(read) == text


def test_names_of_refused_rows():
    "Quarantine knows the input, not the period: a row is refused once, whatever was asked for."
    assert BatchName.file(CONTENT, until=CUT).refused("contract") == f"{CONTENT}/contract"
    assert BatchName.redis("k", "1-0", "2-0", "f").refused("fields") == "redis/k/1-0..2-0/f/fields"


def test_last_entry_of_a_redis_batch():
    assert BatchName.parse("redis/k/1-0..25-7/fb41/pay").last_entry == (25, 7)


def test_a_log_of_before_recognises_the_same_file(logs: Logs, tmp_path):
    "Appended under the name that an older version composed; ingested now, it is a repeat."
    path = tmp_path / "pay.parquet"
    batch(0).write_parquet(path)
    good, bad = check(Pay, batch(0))
    content = file_batch(path, [OWN]).name.source
    logs[Pay].quarantine.put(bad, f"{content}/contract")
    append(logs[Pay], good, f"{content}/pay/..")
    done = ingest(path, [OWN], logs)
    assert done.appended == {"pay": 0} and done.duplicates == good.height
    assert logs[Pay].quarantine.read().height == bad.height


def test_a_batch_of_several_streams_is_taken_once(logs: Logs):
    first = land(logs, Batch.checked("b", {Pay: batch(0)}))
    again = land(logs, Batch.checked("b", {Pay: batch(0)}))
    assert first.new == first.events[Pay].height > 0
    assert (again.new, again.duplicates) == (0, first.new)
    assert again.quarantined == first.quarantined == 2


def test_an_empty_batch_is_no_batch(logs: Logs):
    landed = land(logs, Batch.checked("b", {Pay: batch(0).clear()}))
    assert landed.new == landed.files == 0 and landed.events[Pay].schema == logs[Pay].schema
    assert logs[Pay].version() == -1


NAIVE = datetime(2025, 3, 1)
MISTAKES = {
    "naive until": (lambda logs: scan(logs[Pay], until=NAIVE), "no offset"),
    "naive since": (lambda logs: scan(logs[Pay], since=NAIVE), "no offset"),
    "naive fingerprint": (lambda logs: fingerprint(logs[Pay], NAIVE), "no offset"),
    "rows without a field": (lambda logs: append(logs[Pay], batch(0).drop("who"), "b"), "lack who"),
    "a name for a stream": (lambda logs: logs["pay"], "stream's class"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_in_a_sentence(mistake, logs: Logs):
    call, message = MISTAKES[mistake]
    land(logs, Batch.checked("b", {Pay: batch(0)}))
    with pytest.raises(UserError, match=message):
        call(logs)


def test_an_offset_is_no_other_moment(logs: Logs):
    "A cut in another zone cuts at the same events, days included."
    land(logs, Batch.checked("b", {Pay: batch(0)}))
    moments = scan(logs[Pay]).collect()["event_time"].sort()
    for cut in moments[::5]:
        east = cut.astimezone(timezone(timedelta(hours=11)))
        expected = moments.filter(moments < cut)
        assert scan(logs[Pay], until=east).collect()["event_time"].sort().equals(expected)


def test_tail_of_an_empty_log(logs: Logs):
    assert tail(logs[Pay], -1).is_empty()
    assert isinstance(tail(logs[Pay], -1), pl.DataFrame)
