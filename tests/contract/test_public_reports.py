"What others have reported of programs like this one: taken as it was written, or refused."

from __future__ import annotations

import csv
import io
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from mlkit.columns import JSONError, parse_json
from mlkit.errors import ContractError
from mlkit.etl import Batch, Logs, file_batch, ingest, land
from mlkit.eventlog import compact, fingerprint, scan
from mlkit.events import Stream
from mlkit.fields import Fixed, Key, Text, Time
from mlkit.formats import SourceFormat
from mlkit.readers import SourceError, read_csv


class Note(Stream):
    who = Key("whose it is")
    text = Text("what it says", optional=True)
    seen = Time("when it was read", optional=True)


NOTES = SourceFormat("notes", Note, {name: name for name in Note.fields}, lenient=True)
NOON = "2025-03-01T12:00:00Z"
HEAD = "event_id,event_time,who,text\n"


def written(path: Path, content: bytes) -> list[Any]:
    "The texts that the log holds of a file."
    path.write_bytes(content)
    logs = Logs(path.parent / "workspace")
    ingest(path, [NOTES], logs)
    return scan(logs[Note]).sort("event_id").collect()["text"].to_list()


# %% CSV


@pytest.mark.parametrize(
    "report, cell, line, why",
    [
        ("pola-rs/polars#22312", '"Lorem" ipsum', 3, "goes on behind its closing"),
        ("pola-rs/polars#22816", '"" aaaa "', 3, "goes on behind its closing"),
        ("pola-rs/polars#15022", r'"a \" mark"', 3, "goes on behind its closing"),
        ("apple/turicreate#1692", '"d', 3, "opened and not closed"),
    ],
)
def test_quotation_marks_that_programs_read_differently_are_refused(
    report: str, cell: str, line: int, why: str, tmp_path: Path
) -> None:
    rows = f'{HEAD}a,{NOON},1,"two\nlines"\nb,{NOON},1,{cell}\nc,{NOON},1,x\n'.encode()
    with pytest.raises(SourceError, match=why) as e:
        written(tmp_path / "notes.csv", rows)
    assert f"line {line + 1}" in str(e.value)


def test_a_mark_inside_a_value_is_a_mark(tmp_path: Path) -> None:
    "pola-rs/polars#1528, pola-rs/polars#21519: the rows behind one are neither merged nor lost."
    rows = f'{HEAD}a,{NOON},1,O"Brian\nb,{NOON},1,abc"\nc,{NOON},1,D"Shawn\n'
    assert written(tmp_path / "notes.csv", rows.encode()) == ['O"Brian', 'abc"', 'D"Shawn']


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return tmp_path_factory.mktemp("csv")


@given(cells=st.text(alphabet='ab,"\n', max_size=30))
def test_a_csv_is_read_as_others_read_it_or_refused(cells: str, folder: Path) -> None:
    "Compared with a reader that was written independently."
    path = folder / "any.csv"
    path.write_text(f"x,y\n{cells}\n", newline="")
    try:
        found = read_csv(path).rows()
    except (SourceError, pa.ArrowInvalid):
        return
    expected = list(csv.reader(io.StringIO(path.read_text()), strict=True))[1:]
    assert [tuple(v or "" for v in row) for row in found] == [tuple(r) for r in expected if r]


# %% JSON lines


def test_a_mark_of_the_byte_order_is_no_value(tmp_path: Path) -> None:
    "pola-rs/polars#15301: many programs begin UTF-8 with one."
    row = json.dumps(dict(event_id="a", event_time=NOON, who=1, text="\ufeffx"))
    assert written(tmp_path / "notes.jsonl", b"\xef\xbb\xbf" + row.encode()) == ["\ufeffx"]
    rows = HEAD + f"a,{NOON},1,\ufeffx\n"
    assert written(tmp_path / "notes.csv", b"\xef\xbb\xbf" + rows.encode()) == ["\ufeffx"]


@pytest.mark.parametrize("number", ["12.5", "12.50", "125e-1", "0.30000000000000004", "1e22"])
def test_a_number_of_a_request_is_the_one_that_was_sent(number: str) -> None:
    assert parse_json(number.encode()) == float(number)


@pytest.mark.parametrize(
    "number", ["12.500000000000000001", "0.1000000000000000055511", "1e-400", f"1e-{10**20}"]
)
def test_a_number_that_no_float_is_written_as_is_refused(number: str) -> None:
    "feast-dev/feast#4031 has it of what comes out; a file's row with it goes to quarantine."
    with pytest.raises(JSONError, match="more digits than a float holds"):
        parse_json(number.encode())


# %% Parquet

FAR = [datetime(9999, 12, 31, 23, 59, 59, 999999), datetime(2609, 6, 1), datetime(1440, 1, 1)]
NEAR = datetime(2024, 6, 1, 12, 0, 0, 1)
FINE = 1_717_243_200_000_000_001  # nanoseconds


def int96(path: Path, seen: pa.Array, store_schema: bool) -> Batch:
    "A file such as Spark writes, read."
    n = len(seen)
    columns = dict(event_id=[str(i) for i in range(n)], event_time=[NOON] * n, who=[1] * n)
    table = pa.table(columns | dict(seen=seen))
    parquet.write_table(
        table, path, use_deprecated_int96_timestamps=True, store_schema=store_schema
    )
    return file_batch(path, [NOTES])


@pytest.mark.parametrize("store_schema", [True, False])
@pytest.mark.parametrize("zone", [None, "UTC", "+05:30", "Asia/Kolkata"])
def test_moments_of_any_year(zone: str | None, store_schema: bool, tmp_path: Path) -> None:
    "pola-rs/polars#29184, apache/datafusion#1359: what is refused is what was written."
    seen = pa.array([*FAR, NEAR, None], pa.timestamp("us", zone))
    batch = int96(tmp_path / "spark.parquet", seen, store_schema)
    good, bad = batch.events[Note], batch.refused[Note]
    assert good["seen"].to_list() == [NEAR.replace(tzinfo=timezone.utc), None]
    assert set(bad["reason"]) == {"seen: outside 1970..2100"}
    years = [text[:4] for text in bad["seen"]]
    assert years in (["9999", "2609", "1440"], ["+10000", "2609", "1440"])


def test_moments_finer_than_a_microsecond_are_not_cut(tmp_path: Path) -> None:
    "NVIDIA/cudf#9393, in the same old type."
    batch = int96(tmp_path / "fine.parquet", pa.array([FINE, FINE - 1], pa.timestamp("ns")), False)
    assert batch.refused[Note]["seen"].to_list() == ["2024-06-01 12:00:00.000000001"]
    assert batch.events[Note].height == 1


def test_moments_that_no_type_holds_are_refused(tmp_path: Path, monkeypatch: Any) -> None:
    "The file is put together of two: no writer at hand makes such a one."
    read = parquet.read_table
    far, fine = tmp_path / "far.parquet", tmp_path / "fine.parquet"
    int96(far, pa.array([FAR[0]], pa.timestamp("us")), False)
    int96(fine, pa.array([FINE], pa.timestamp("ns")), False)

    def both(path: Path, **options: Any) -> pa.Table:
        return pa.concat_tables([read(far, **options), read(fine, **options)])

    monkeypatch.setattr(parquet, "read_table", both)
    with pytest.raises(SourceError, match="no type holds these"):
        file_batch(fine, [NOTES])


def test_columns_of_one_name(tmp_path: Path) -> None:
    "pola-rs/polars#27393, apache/datafusion#24381: neither of them is the one that is meant."
    values = [pa.array(["a"]), pa.array([NOON]), pa.array([1]), pa.array([2])]
    table = pa.Table.from_arrays(values, names=["event_id", "event_time", "who", "who"])
    parquet.write_table(table, tmp_path / "joined.parquet")
    with pytest.raises(SourceError, match="the column 'who' is there twice; name them apart"):
        file_batch(tmp_path / "joined.parquet", [NOTES])


@pytest.mark.parametrize("unit", [1, 1000, 1_000_000, 0.5])
def test_a_number_is_no_moment(unit: float, tmp_path: Path) -> None:
    "airbnb/chronon#794, feast-dev/feast#3733: seconds and milliseconds are not told apart."
    row = dict(event_id="a", event_time=1_740_819_600 * unit, who=1)
    pl.DataFrame([row]).write_parquet(tmp_path / "notes.parquet")
    with pytest.raises(ContractError, match="it takes text, moment"):
        file_batch(tmp_path / "notes.parquet", [NOTES])
    (tmp_path / "notes.jsonl").write_text(json.dumps(row))
    batch = file_batch(tmp_path / "notes.jsonl", [NOTES])
    assert batch.refused[Note]["reason"].to_list() == ["event_time: not a time"]


# %% Places


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("folder", ["~", "file:", "s3:", "who=9", "a%20b"])
def test_a_path_is_that_of_the_file(
    folder: str, ending: str, tmp_path: Path, monkeypatch: Any
) -> None:
    "apache/arrow#12675, delta-io/delta-rs#433: readers take some names for other places."
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for number, place in enumerate(["home", f"./{folder}"]):
        Path(place).mkdir()
        rows = pl.DataFrame([dict(event_id=place, event_time=NOON, who=number)])
        write = dict(parquet=rows.write_parquet, csv=rows.write_csv, jsonl=rows.write_ndjson)
        with open(f"{place}/notes.{ending}", "wb") as f:
            write[ending](f)
    batch = file_batch(Path(folder, f"notes.{ending}"), [NOTES])
    assert batch.events[Note]["event_id"].to_list() == [f"./{folder}"]
    assert batch.events[Note]["who"].to_list() == [1]


# %% Delta tables


def test_a_stream_of_more_fields_than_a_table_keeps_figures_of(tmp_path: Path) -> None:
    "delta-io/delta-rs#2709, delta-io/delta-rs#1342: by default those of the first 32 columns."
    fields = {f"f{i}": Fixed("", optional=True) for i in range(40)}
    wide: Any = type("Wide", (Stream,), fields)
    logs = Logs(tmp_path)
    prints = []
    for n in range(3):
        row = dict(event_id=str(n), event_time=NOON, f39=n)
        land(logs, Batch.checked(f"batch {n}", {wide: pl.DataFrame([row])}))
        prints.append(fingerprint(logs[wide]))
    assert prints == ["1:0", "2:1", "3:2"]
    compact(logs[wide])
    assert fingerprint(logs[wide]) == prints[-1]
    assert scan(logs[wide]).collect()["f39"].sort().to_list() == [0, 100, 200]
