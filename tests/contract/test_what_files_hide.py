"""What a file does not show at first: texts stored once that stand everywhere, damage, names
by the thousand, text that looks like numbers. Each is refused, quarantined, or read as it is."""

from __future__ import annotations

import resource
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import parquet

from mlkit import eventlog
from mlkit.columns import as_text
from mlkit.errors import ContractError, listed, repeated
from mlkit.etl import Logs, file_batch, ingest
from mlkit.eventlog import scan
from mlkit.events import Stream
from mlkit.fields import Fixed, Key
from mlkit.files import read_source
from mlkit.formats import SourceFormat, number, row_number
from mlkit.readers import SourceError, read_parquet
from mlkit.usecases.hotel import HOTEL_BOOKINGS

NOON = datetime(2025, 3, 1, 12)


class Sale(Stream):
    who = Key("who buys")
    amount = Fixed("what it costs")


def sales(high: float = 1000.0) -> SourceFormat:
    stream = type("Sale", (Stream,), dict(who=Key(), amount=Fixed(high=high)))
    return SourceFormat("sales", stream, {name: name for name in stream.fields})


def columns(rows: int, **others: Any) -> dict[str, Any]:
    ids = [f"s{i}" for i in range(rows)]
    of_all = dict(event_id=ids, event_time=[NOON] * rows, who=[1] * rows, amount=[1.0] * rows)
    return of_all | others


def repeated_text(rows: int, size: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * size]))


# %% Memory


@pytest.mark.parametrize("options", [{}, dict(use_deprecated_int96_timestamps=True)])
@pytest.mark.parametrize("store_schema", [True, False])
def test_a_text_that_is_stored_once(tmp_path: Path, store_schema: bool, options: Any) -> None:
    "Twenty thousand times a megabyte, in some 50 kB."
    path = tmp_path / "small.parquet"
    table = pa.table(columns(20_000, event_id=repeated_text(20_000, 1_000_000)))
    parquet.write_table(table, path, store_schema=store_schema, **options)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SourceError, match="would take about 20,000 MB"):
        read_source(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert path.stat().st_size < 200_000 and grown < 500_000  # kB


def test_lines_that_have_no_keys_in_common(tmp_path: Path) -> None:
    path = tmp_path / "wide.jsonl"
    path.write_text("".join(f'{{"k{i}": 1}}\n' for i in range(20_000)))
    with pytest.raises(SourceError, match="10,000 different keys, and few in common"):
        read_source(path)


def test_a_sparse_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.jsonl"
    path.write_text("".join(f'{{"id": {i}, "k{i % 50}": 1}}\n' for i in range(20_000)))
    assert read_source(path).shape == (20_000, 51)


def test_names_by_the_hundred_thousand(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(100_000)]
    assert repeated(names) is None and repeated([*names, "c7"]) == "c7"
    path = tmp_path / "wide.csv"
    path.write_text(",".join([*names, "c7"]) + "\n")
    with pytest.raises(SourceError, match="'c7' is there twice"):
        read_source(path)
    message = sales().misfit(names)
    assert sum(map(len, message)) < 1000 and "and 99,980 more" in message[1]
    assert len(listed(["x" * 10**6])) < 200


# %% Damage


def test_a_page_that_does_not_fit_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "damaged.parquet"
    table = pa.table(columns(1, amount=[57.16]))
    flat = dict(use_dictionary=False, compression="NONE", write_statistics=False)
    parquet.write_table(table, path, write_page_checksum=True, **flat)
    assert file_batch(path, [sales()]).refused
    content, value = path.read_bytes(), np.float64(57.16).tobytes()
    at = content.index(value)
    path.write_bytes(content[:at] + np.float64(957.16).tobytes() + content[at + 8 :])
    with pytest.raises(SourceError, match="CRC|checksum"):
        read_source(path)


@pytest.mark.parametrize("zone, old", [(None, True), ("+01:00", False), ("+01:00", True)])
def test_text_that_is_none(tmp_path: Path, zone: str | None, old: bool) -> None:
    "Arrow would take it, and the log could not be read again."
    offsets = pa.py_buffer(np.array([0, 2], np.int32).tobytes())
    broken = pa.StringArray.from_buffers(1, offsets, pa.py_buffer(b"\xff\xfe"))
    moments = pa.array([NOON], pa.timestamp("us", zone))
    path = tmp_path / "bytes.parquet"
    table = pa.table(columns(1, event_id=broken, event_time=moments))
    parquet.write_table(table, path, use_deprecated_int96_timestamps=old)
    with pytest.raises(SourceError, match="(?i)utf-?8"):
        read_source(path)


# %% Dates and moments


def test_dates_of_either_width_are_dates(tmp_path: Path) -> None:
    day = [date(2025, 3, 1)]
    table = pa.table(dict(wide=pa.array(day, pa.date64()), narrow=pa.array(day, pa.date32())))
    parquet.write_table(table, tmp_path / "dates.parquet")
    frame = read_parquet(tmp_path / "dates.parquet")
    assert frame.dtypes == [pl.Date, pl.Date] and frame.row(0) == (day[0], day[0])


@pytest.mark.parametrize("zone", ["UTC+01:00", "+05:30", "Z"])
def test_zones_that_polars_does_not_know(tmp_path: Path, zone: str) -> None:
    moments = pa.array([NOON, None], pa.timestamp("us", zone))
    parquet.write_table(pa.table(dict(at=moments, text=["a", None])), tmp_path / "zone.parquet")
    frame = read_parquet(tmp_path / "zone.parquet")
    assert frame["at"].dt.replace_time_zone(None).to_list() == [NOON, None]


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_a_moment_that_no_calendar_shows_is_one_row(tmp_path: Path, unit: str) -> None:
    last = 2**53 if unit == "s" else 2**63 - 1
    noon = int((NOON - datetime(1970, 1, 1)).total_seconds()) * dict(s=1, ms=10**3, us=10**6)[unit]
    path = tmp_path / "far.parquet"
    moments = pa.array([noon, last], pa.timestamp(unit))
    parquet.write_table(pa.table(columns(2, event_time=moments)), path)
    batch = file_batch(path, [sales()])
    assert [rows.height for rows in batch.events.values()] == [1]
    (refused,) = batch.refused.values()
    assert refused["event_time"].to_list()[0].startswith(("9", "+")) and refused.height == 1


def test_times_and_lengths_as_text_lose_nothing() -> None:
    lengths = pl.Series([timedelta(seconds=1.5)]).cast(pl.Duration("us"))
    times = pl.Series([86_399_999_999_999]).cast(pl.Time)
    shown = as_text(pl.DataFrame(dict(time=times, length=lengths)))
    assert shown.row(0) == ("23:59:59.999999999", "1500000 us")


NESTED_MOMENTS = pa.struct([("at", pa.timestamp("ns"))])


@pytest.mark.parametrize("rest, taken", [(123_456_000, True), (123_456_789, False)])
def test_old_moments_inside_of_others_lose_nothing(tmp_path: Path, rest: int, taken: bool) -> None:
    "Ninety-six bits of a moment within a struct: to the microsecond, or not at all."
    inner = pa.array([dict(at=1_740_830_400_000_000_000 + rest)], NESTED_MOMENTS)
    path = tmp_path / "spark.parquet"
    parquet.write_table(pa.table(dict(inner=inner)), path, use_deprecated_int96_timestamps=True)
    if taken:
        assert read_parquet(path)["inner"].struct.field("at")[0].microsecond == 123_456
        return
    with pytest.raises(SourceError, match="nested ones, with parts of a microsecond"):
        read_parquet(path)


# %% What Polars and Arrow see in other ways


def test_an_array_with_a_missing_one_is_no_damage(tmp_path: Path) -> None:
    "Polars writes it, and Arrow cannot put it together; the checksums beside it are still checked."
    pairs = pl.Series([None, [1, 2]], dtype=pl.Array(pl.Int64, 2))
    pl.DataFrame(dict(pair=pairs, who=[1, 2])).write_parquet(tmp_path / "array.parquet")
    assert read_source(tmp_path / "array.parquet")["pair"].to_list()[0] is None


@pytest.mark.parametrize("old", [True, False])
def test_text_is_text_however_a_file_keeps_it(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "sales.parquet"
    buyers = pa.array(["7", "8"]).dictionary_encode() if old else pa.array(["7", "8"])
    table = pa.table(columns(2, who=buyers))
    parquet.write_table(table, path, use_deprecated_int96_timestamps=old)
    named = {c: c for c in columns(0) if c != "who"}
    who = pl.col("who").str.replace("7", "9").cast(pl.Int64)
    batch = file_batch(path, [SourceFormat("sales", Sale, named, compute=dict(who=who))])
    assert batch.events[Sale]["who"].to_list() == [9, 8]


def test_names_that_are_patterns_are_names(tmp_path: Path) -> None:
    pl.DataFrame({"^d.*$": [date(2025, 3, 1)], "dx": [1]}).write_parquet(tmp_path / "a.parquet")
    assert read_source(tmp_path / "a.parquet").row(0) == (date(2025, 3, 1), 1)
    row = columns(1, event_time=["2025-03-01T12:00:00Z"])
    (tmp_path / "a.jsonl").write_bytes(pl.DataFrame(row | {"*": [1]}).write_ndjson().encode())
    fmt = SourceFormat("sales", Sale, {n: n for n in columns(0)}, ignore=("*",))
    assert file_batch(tmp_path / "a.jsonl", [fmt]).events[Sale].height == 1


def test_a_row_of_many_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text(f"note\n{'x' * 3_000_000}\n{'x' * 100}\n")
    assert read_source(path).height == 2
    path.write_text(f"note\n{'x' * 30_000_000}\n")
    with pytest.raises(SourceError, match="a row is longer than 8 MB"):
        read_source(path)


def test_json_a_thousand_deep(tmp_path: Path) -> None:
    path = tmp_path / "deep.jsonl"
    path.write_text('{"a": 1}\n{"a": ' + "[" * 600 + "]" * 600 + "}\n")
    with pytest.raises(SourceError, match=r"line 2: not JSON \(nested too deeply\)"):
        read_source(path)


# %% Text that looks like numbers


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_sum_is_one_in_every_kind_of_file(tmp_path: Path, ending: str) -> None:
    frame = pl.DataFrame(dict(when=["2025-03-01T12:00:00Z"], who=[7], net=[10.0], vat=[2.0]))
    path = tmp_path / f"sales.{ending}"
    write = dict(csv=frame.write_csv, jsonl=frame.write_ndjson, parquet=frame.write_parquet)
    write[ending](path)

    def taken(total: pl.Expr) -> list[int]:
        compute = dict(event_id=row_number(), amount=total)
        fmt = SourceFormat("sales", Sale, {"when": "event_time", "who": "who"}, compute=compute)
        return file_batch(path, [fmt]).events[Sale]["amount"].to_list()

    assert taken(number("net") + number("vat")) == [1200]
    if ending == "parquet":
        assert taken(pl.col("net") + pl.col("vat")) == [1200]
        return
    comma = [pl.col(c).str.replace(",", ".") for c in ("net", "vat")]
    sums = [pl.col("net") + pl.col("vat"), comma[0] + comma[1]]
    for total in (*sums, pl.max_horizontal("net", "vat")):
        with pytest.raises(ContractError, match=r"is of text.*make numbers .* number\('…'\)"):
            taken(total)


def test_bookings_are_the_same_as_csv(tmp_path: Path) -> None:
    named = {c: ["1"] for c in (*HOTEL_BOOKINGS.inputs, *HOTEL_BOOKINGS.ignore)}
    named |= dict(booking_date=["2025-03-01T00:00:00Z"], label_date=["2025-04-01T00:00:00Z"])
    named |= dict(stays_in_weekend_nights=["2"], stays_in_week_nights=["5"], adr=["10.5"])
    pl.DataFrame(named).write_csv(tmp_path / "bookings.csv")
    batch = file_batch(tmp_path / "bookings.csv", [HOTEL_BOOKINGS])
    seen = pl.concat([*batch.events.values(), *batch.refused.values()], how="diagonal_relaxed")
    assert seen["price"].drop_nulls().to_list() in ([7350], ["73.5"])


# %% Two meanings, and a second look


def test_a_file_that_fits_two_formats_is_of_neither(tmp_path: Path) -> None:
    opened, closed = (type(name, (Stream,), dict(who=Key())) for name in ("Opened", "Closed"))
    formats = [SourceFormat(s.name, s, {n: n for n in s.fields}) for s in (opened, closed)]
    (tmp_path / "closed.csv").write_text("event_id,event_time,who\n1,2025-03-01T12:00:00Z,7\n")
    with pytest.raises(ContractError, match="fits several formats, 'closed' and 'opened'"):
        file_batch(tmp_path / "closed.csv", formats)


@pytest.mark.parametrize("claimed", [1, 10_000])
def test_a_contract_that_was_mended(tmp_path: Path, monkeypatch: Any, claimed: int) -> None:
    "The file's refused rows come in, and nothing comes in twice, however large the file is."
    monkeypatch.setattr(eventlog, "_CLAIMED", claimed)
    path, logs = tmp_path / "sales.parquet", Logs(tmp_path / "workspace")
    amounts = [float(i % 3) * 100 for i in range(30)]
    pl.DataFrame(columns(30, amount=amounts)).write_parquet(path)
    for high, there in ((100.0, 20), (1000.0, 30), (1000.0, 30)):
        fmt = sales(high)
        ingest(path, [fmt], logs)
        assert scan(logs[fmt.main]).collect().height == there


def test_what_contradicts_a_known_event_is_kept_as_it_came(tmp_path: Path) -> None:
    logs, fmt = Logs(tmp_path / "workspace"), sales()
    for amount in (1.0, 2.5):
        path = tmp_path / f"{amount}.parquet"
        pl.DataFrame(columns(1, amount=[amount])).write_parquet(path)
        ingest(path, [fmt], logs)
    (row,) = logs[fmt.main].quarantine.read()["row"]
    assert '"amount":"2.5"' in row
