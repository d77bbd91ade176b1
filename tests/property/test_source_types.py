"""What is in the log or in quarantine, taken together, is what the source said, exactly.

Every type of a source with values at its edges, for every field, written by every program at hand;
the right answer is worked out here from whole numbers and fractions, without Polars.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlkit.entries import decode
from mlkit.errors import UserError
from mlkit.etl import Logs, ingest, land
from mlkit.eventlog import scan
from mlkit.events import Stream
from mlkit.fields import Category, Field, Fixed, Flag, Key, Text, Time
from mlkit.formats import SourceFormat

UTC = timezone.utc
FIELDS: dict[str, Field] = dict(
    key=Key(optional=True),
    text=Text(optional=True, longest=40),
    cents=Fixed(places=2, low=-1e12, high=1e12, optional=True),
    micros=Fixed(places=6, low=-1e6, high=1e6, optional=True),
    flag=Flag(optional=True),
    word=Category(values=("1", "a", "é"), optional=True),
    time=Time(optional=True),
)
STREAMS = {name: type(f"Of{name}", (Stream,), {"x": field}) for name, field in FIELDS.items()}
REFUSED = "refused"  # the value is in quarantine


# The truth


def _of_text(field: Field, value: str) -> Any:
    plain = value.strip()
    if isinstance(field, Key):
        canonical = value.removeprefix("-").isdecimal() and value == str(int(value))
        return _of_integer(field, int(value)) if canonical and value.isascii() else REFUSED
    if isinstance(field, Fixed):
        if not plain.isascii() or any(c not in "0123456789+-.eE" for c in plain) or not plain:
            return REFUSED
        try:
            return _of_fraction(field, Fraction(plain))
        except ValueError:
            return REFUSED
    if isinstance(field, Flag):
        words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        return words.get(plain.lower(), REFUSED)
    if isinstance(field, Category):
        return value if value in field.values else REFUSED
    if isinstance(field, Time):
        return {"2025-03-01T10:00:00Z": datetime(2025, 3, 1, 10, tzinfo=UTC)}.get(value, REFUSED)
    return value if 0 < len(value.encode()) <= 40 else REFUSED


def _of_fraction(field: Fixed, value: Fraction) -> Any:
    units = value * field.factor
    low, high = field.bounds
    return int(units) if units.denominator == 1 and low <= units <= high else REFUSED


def _of_integer(field: Field, value: int) -> Any:
    if isinstance(field, Key):
        return value if -(2**63) <= value < 2**63 else REFUSED
    if isinstance(field, Fixed):
        return _of_fraction(field, Fraction(value))
    if isinstance(field, Flag):
        return bool(value) if value in (0, 1) else REFUSED
    return _of_text(field, str(value))


def _of_float(field: Field, value: float, short: bool) -> Any:
    if value != value or value in (float("inf"), float("-inf")):
        return REFUSED
    if isinstance(field, Key):
        whole = value == int(value) and abs(value) < (2**24 if short else 2**53)
        return int(value) if whole else REFUSED
    if isinstance(field, Flag):
        return {0.0: False, 1.0: True}.get(value, REFUSED)
    assert isinstance(field, Fixed)
    units = round(Fraction(value) * field.factor)
    shared = [n for n in (units - 1, units, units + 1) if _float(n, field.factor, short) == value]
    return _of_fraction(field, Fraction(units, field.factor)) if shared == [units] else REFUSED


def _float(units: int, factor: int, short: bool) -> float:
    "The float nearest to a decimal."
    nearest = units / factor  # of whole numbers, Python's division is correctly rounded
    return struct.unpack("f", struct.pack("f", nearest))[0] if short else nearest


def truth(field: Field, kind: str, value: Any) -> Any:
    "What must be stored of a value, or that it must be refused."
    if value is None:
        return None
    if kind == "text":
        return _of_text(field, value)
    if kind == "integer":
        return _of_integer(field, int(value))
    if kind == "decimal":
        if isinstance(field, Key):
            return _of_integer(field, int(value)) if value == int(value) else REFUSED
        assert isinstance(field, Fixed)
        return _of_fraction(field, Fraction(value))
    if kind == "moment":  # as nanoseconds
        micro, rest = divmod(value, 1000)
        if rest or not 0 <= micro < 4_102_444_800_000_000:
            return REFUSED
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micro)
    return value if kind == "flag" else _of_float(field, value, kind == "short")


# The sources

DAY, NOON = 1_740_787_200, 1_740_830_400  # seconds
D = Decimal
SOURCES: dict[str, tuple[str, Any, list[Any]]] = {  # kind, Arrow type, values
    "int8": ("integer", pa.int8(), [0, 1, -128, 127, None]),
    "int32": ("integer", pa.int32(), [0, 42, -(2**31)]),
    "int64": ("integer", pa.int64(), [1, 2**53 + 1, 2**62, -(2**63), 2**63 - 1]),
    "uint64": ("integer", pa.uint64(), [1, 2**63, 2**64 - 1]),
    "float64": (
        "float",
        pa.float64(),
        [57.16, 57.1600009, 0.1 + 0.2, 5.0, 2.0**53, 2.0**53 - 1, 1e300, 1e-7, -0.0, 1.0, None],
    ),
    "not finite": ("float", pa.float64(), [float("nan"), float("inf"), float("-inf")]),
    "float32": ("short", pa.float32(), [0.5, 57.15999984741211, 16777216.0, 16777215.0, 1e6]),
    "decimal(38,0)": ("integer", pa.decimal128(38, 0), [D(1), D(10**25), D(-(2**63))]),
    "decimal(20,2)": ("decimal", pa.decimal128(20, 2), [D("57.16"), D("5.00"), D("100.00")]),
    "decimal(30,10)": ("decimal", pa.decimal128(30, 10), [D("57.16"), D("57.1600009"), D("7")]),
    "text": (
        "text",
        pa.string(),
        ["42", "0042", "+42", " 42", "5.0", "57.16", "57.1600009", "5.716e1"]
        + [
            "57.160000000000000001",
            "20250101000000000001",
            "true",
            "No",
            "a",
            "é",
            "",
            "2025-03-01T10:00:00Z",
            "1_000",
            "١",
        ]
        + ["NaN", "inf", "null", "0x10", "1,5", "x" * 41, "\x00", "\x1b[31m", "[/x]", None],
    ),
    "large text": ("text", pa.large_string(), ["42", "a"]),
    "dictionary of text": ("text", pa.dictionary(pa.int32(), pa.string()), ["42", "a", "42"]),
    "flag": ("flag", pa.bool_(), [True, False, None]),
    "seconds": ("moment", pa.timestamp("s", "UTC"), [DAY, NOON, 0]),
    "milliseconds": ("moment", pa.timestamp("ms", "Asia/Kolkata"), [DAY * 1000, NOON * 1000 + 1]),
    "microseconds": ("moment", pa.timestamp("us"), [DAY * 10**6 + 1, 0, 5 * 10**15]),
    "nanoseconds": ("moment", pa.timestamp("ns", "UTC"), [NOON * 10**9, NOON * 10**9 + 1]),
    "offset": ("moment", pa.timestamp("us", "+05:30"), [DAY * 10**6, NOON * 10**6]),
    "date": ("date", pa.date32(), [date(2025, 3, 1)]),
    "time of day": ("clock", pa.time64("us"), [time(10)]),
    "duration": ("duration", pa.duration("us"), [timedelta(1)]),
    "binary": ("binary", pa.binary(), [b"42"]),
    "list": ("list", pa.list_(pa.string()), [["a"]]),
    "struct": ("struct", pa.struct({"v": pa.int64()}), [{"v": 1}]),
    "map": ("map", pa.map_(pa.string(), pa.int64()), [[("a", 1)]]),
    "nothing": ("text", pa.null(), [None, None]),
}
TAKEN = dict(
    key={"integer", "float", "short", "decimal", "text"},
    text={"integer", "text"},
    cents={"integer", "float", "short", "decimal", "text"},
    flag={"integer", "float", "short", "text", "flag"},
    time={"text", "moment"},
)
TAKEN |= dict(micros=TAKEN["cents"], word=TAKEN["text"])
UNITS = dict(s=10**9, ms=10**6, us=1000, ns=1)


def plain(name: str) -> list[Any]:
    "A source's values as `truth` takes them: moments in nanoseconds."
    kind, dtype, values = SOURCES[name]
    return [v * UNITS[dtype.unit] for v in values] if kind == "moment" else values


def table(name: str) -> pa.Table:
    _, dtype, values = SOURCES[name]
    times = pa.array([datetime(2025, 3, 1, tzinfo=UTC)] * len(values), pa.timestamp("us", "UTC"))
    ids = pa.array([f"e{i}" for i in range(len(values))])
    return pa.table(dict(event_id=ids, event_time=times, x=pa.array(values, dtype)))


def by_polars(made: pa.Table, path: Path) -> None:
    pl.DataFrame(made).write_parquet(path)


def by_duckdb(made: pa.Table, path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    duckdb.from_arrow(made).write_parquet(str(path))


def by_pandas(made: pa.Table, path: Path) -> None:
    made.to_pandas().to_parquet(path)


WRITERS: dict[str, Callable[[pa.Table, Path], None]] = dict(
    pyarrow=pq.write_table, polars=by_polars, duckdb=by_duckdb, pandas=by_pandas
)
INGESTED = tuple[dict[str, Any], dict[str, dict[str, Any]]]  # by id: stored; in quarantine


def taken_in(path: Path, field: str, logs: Logs) -> INGESTED:
    "What ingesting a file leaves."
    stream = STREAMS[field]
    own = SourceFormat("own", stream, {name: name for name in stream.fields})
    ingest(path, [own], logs)
    stored = scan(logs[stream]).collect()
    refused = [json.loads(row) for row in logs[stream].quarantine.read()["row"]]
    good = dict(zip(stored["event_id"], stored["x"]))
    return good, {row["event_id"]: row for row in refused}


def held_against_truth(found: INGESTED, field: str, name: str) -> None:
    kind = SOURCES[name][0]
    expected = {f"e{i}": truth(FIELDS[field], kind, v) for i, v in enumerate(plain(name))}
    stored, refused = found
    assert stored == {i: v for i, v in expected.items() if v != REFUSED}
    assert set(refused) == {i for i, v in expected.items() if v == REFUSED}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("name", SOURCES)
def test_every_type_of_parquet_is_taken_exactly_or_refused(name, field, tmp_path, logs):
    kind = SOURCES[name][0]
    pq.write_table(table(name), tmp_path / "file.parquet")
    if kind in TAKEN[field] or name == "nothing":
        held_against_truth(taken_in(tmp_path / "file.parquet", field, logs), field, name)
        return
    with pytest.raises(UserError, match="x: a column of type|x is given as a date"):
        taken_in(tmp_path / "file.parquet", field, logs)
    assert logs[STREAMS[field]].version() == -1


@pytest.mark.parametrize("writer", ["polars", "duckdb", "pandas"])
@pytest.mark.parametrize("name", SOURCES)
def test_no_program_that_wrote_a_file_changes_a_value(name, writer, tmp_path):
    "Other programs write other types; what is stored is the same, or it is not stored."
    path = tmp_path / "file.parquet"
    try:
        WRITERS[writer](table(name), path)
    except Exception as e:
        pytest.skip(f"{writer} does not write this: {type(e).__name__}")
    for field in FIELDS:
        if SOURCES[name][0] not in TAKEN[field]:
            continue
        try:
            stored, refused = taken_in(path, field, Logs(tmp_path / field))
        except UserError:
            continue
        for i, value in enumerate(plain(name)):
            if f"e{i}" in stored:
                lost = writer == "pandas" and value is not None and value != value
                expected = None if lost else truth(FIELDS[field], SOURCES[name][0], value)
                assert stored[f"e{i}"] == expected, (field, value)
        assert len(stored) + len(refused) == len(plain(name))


def quarantined_as_it_was(found: INGESTED, values: list[Any]) -> None:
    for i, value in enumerate(values):
        if f"e{i}" in found[1]:
            assert found[1][f"e{i}"]["x"] == value


@pytest.mark.parametrize("field", FIELDS)
def test_text_of_a_csv(field, tmp_path, logs):
    values = [v for v in plain("text") if v != "\x00"]  # a file with it is no text
    rows = [("" if v is None else '"' + v.replace('"', '""') + '"') for v in values]
    lines = [f"e{i},2025-03-01T00:00:00Z,{row}" for i, row in enumerate(rows)]
    (tmp_path / "file.csv").write_text("\n".join(["event_id,event_time,x", *lines]))
    found = taken_in(tmp_path / "file.csv", field, logs)
    expected = {f"e{i}": truth(FIELDS[field], "text", v) for i, v in enumerate(values)}
    assert found[0] == {i: v for i, v in expected.items() if v != REFUSED}
    quarantined_as_it_was(found, values)


LITERALS = ["1", "0", "42", "-7", "5.0", "57.16", "57.160", "57.1600009", "1e2", "1E400", "-0"]
LITERALS += ["20250101000000000001", "9007199254740993", "true", "false", "[1]", '{"a": 1}']


def of_json(field: Field, literal: str) -> Any:
    "A number as its text, where the field takes numbers; a flag where it takes flags."
    taken = {"Key": "-digits.eE", "Fixed": "-digits.eE", "Flag": "-digits"}.get(
        type(field).__name__, "-digits" if isinstance(field, (Text, Category)) else ""
    )
    if literal in ("true", "false"):
        return literal == "true" if isinstance(field, Flag) else REFUSED
    if literal[0] in "[{" or not taken:
        return REFUSED
    if "eE" not in taken and (literal == "-0" or not literal.lstrip("-").isdigit()):
        return REFUSED
    return _of_text(field, literal)


def of_literals(field: str) -> dict[str, Any]:
    texts = {f"e{i}": of_json(FIELDS[field], v) for i, v in enumerate(LITERALS)}
    given = [v for v in plain("text") if v is not None]
    return texts | {f"t{i}": truth(FIELDS[field], "text", v) for i, v in enumerate(given)}


def objects() -> list[str]:
    "JSON objects with every literal, and with every text as a string."
    named = {f"e{i}": literal for i, literal in enumerate(LITERALS)}
    named |= {
        f"t{i}": json.dumps(v) for i, v in enumerate(v for v in plain("text") if v is not None)
    }
    at = '"event_time": "2025-03-01T00:00:00Z"'
    return [f'{{"event_id": "{i}", {at}, "x": {literal}}}' for i, literal in named.items()]


@pytest.mark.parametrize("field", FIELDS)
def test_values_of_json_lines(field, tmp_path, logs):
    (tmp_path / "file.jsonl").write_text("\n".join(objects()))
    found = taken_in(tmp_path / "file.jsonl", field, logs)
    expected = of_literals(field)
    assert found[0] == {i: v for i, v in expected.items() if v != REFUSED}
    quarantined_as_it_was(found, LITERALS)


@pytest.mark.parametrize("field", FIELDS)
def test_an_entry_of_redis_is_read_as_a_line_of_json(field, logs):
    stream = STREAMS[field]
    entries = [
        (b"%d-0" % i, {b"stream": stream.name.encode(), b"event": line.encode()})
        for i, line in enumerate(objects())
    ]
    land(logs, decode("key", entries, {stream.name: stream}))
    stored = scan(logs[stream]).collect()
    expected = {i: v for i, v in of_literals(field).items() if v != REFUSED}
    assert dict(zip(stored["event_id"], stored["x"])) == expected
