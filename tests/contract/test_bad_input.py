"""What a bad file does: it is refused whole with an error that helps, or its bad rows go to
quarantine; nothing is lost, nothing half-written."""

from __future__ import annotations

import random
from datetime import date
from pathlib import Path

import orjson
import polars as pl
import pytest
from helpers import folder_bytes

from mlkit.errors import ContractError
from mlkit.etl import Logs, ingest
from mlkit.eventlog import scan
from mlkit.events import check
from mlkit.files import SourceError
from mlkit.tables import LogError
from mlkit.usecases import fraud, simulator

FORMATS = fraud.usecase.formats
BAD_FILE = (SourceError, ContractError)


@pytest.fixture(scope="module")
def payments() -> pl.DataFrame:
    "A few dozen simulated payments."
    return simulator.simulate(
        customers=10, terminals=20, days=4, start=date(2025, 1, 1), seed=1
    ).head(40)


@pytest.fixture(scope="module")
def text(payments) -> pl.DataFrame:
    "The same as text, in which anything can be written."
    return pl.read_csv(payments.write_csv().encode(), infer_schema=False)


def put(path: Path, rows: pl.DataFrame) -> Path:
    "Write a frame by the file's ending."
    if path.suffix == ".parquet":
        rows.write_parquet(path)
    elif path.suffix == ".csv":
        rows.write_csv(path)
    else:
        path.write_bytes(
            b"".join(orjson.dumps(r, option=orjson.OPT_NAIVE_UTC) + b"\n" for r in rows.to_dicts())
        )
    return path


def with_cell(rows: pl.DataFrame, at: int, column: str, value: str | None) -> pl.DataFrame:
    "The rows with one cell changed."
    return rows.with_columns(
        pl.when(pl.int_range(pl.len()) == at)
        .then(pl.lit(value, pl.String))
        .otherwise(pl.col(column))
        .alias(column)
    )


def ids(logs: Logs) -> list[str]:
    return scan(logs[fraud.Transaction]).select("event_id").collect()["event_id"].sort().to_list()


def refused(logs: Logs) -> pl.DataFrame:
    return logs[fraud.Transaction].quarantine.read()


def assert_accounts(done, logs: Logs, rows: pl.DataFrame) -> None:
    "Each row of the file is in the log, known already, or in quarantine."
    new = done.appended[fraud.Transaction.name]
    assert done.rows == rows.height
    assert len(ids(logs)) == len(set(ids(logs))) == new
    assert refused(logs).height == done.quarantined
    repeats = rows.height - rows.n_unique("transaction_id")
    assert (
        new
        + refused(logs).height
        + (repeats - refused(logs)["reason"].str.contains("another payload").sum())
        == rows.height
    )


CELLS = {
    "no customer": ("customer_id", None, "customer_id: missing"),
    "customer is a word": ("customer_id", "Smith", "customer_id: not a key"),
    "customer is a fraction": ("customer_id", "1.5", "customer_id: not a key"),
    "no terminal": ("terminal_id", None, "terminal_id: missing"),
    "no id": ("transaction_id", None, "event_id: missing"),
    "id too long": ("transaction_id", "x" * 201, "event_id: longer than 200 bytes"),
    "no amount": ("amount", None, "amount: missing"),
    "negative amount": ("amount", "-0.01", "amount: below 0"),
    "absurd amount": ("amount", "1e300", "amount: not a fixed"),
    "amount above the limit": ("amount", "1000000.01", "amount: above 1e+06"),
    "amount with three decimals": ("amount", "1.005", "amount: not a fixed with 2 decimals"),
    "amount is not a number": ("amount", "NaN", "amount: not a fixed"),
    "amount is infinite": ("amount", "inf", "amount: not a fixed"),
    "no time": ("event_time", None, "event_time: missing"),
    "time of another country": ("event_time", "31.12.2024 10:00", "event_time: not a time"),
    "impossible day": ("event_time", "2025-02-30T10:00:00Z", "event_time: not a time"),
    "time before 1970": ("event_time", "1925-01-01T10:00:00Z", "event_time: outside 1970..2100"),
    "label neither yes nor no": ("is_fraud", "maybe", "is_fraud: not a flag"),
    "label's time unreadable": ("label_time", "soon", "label_time: not a time"),
}


@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("fault", CELLS)
def test_bad_row_goes_to_quarantine(fault, kind, text, logs, tmp_path):
    "With its reason and all it said; the other rows are taken."
    column, value, reason = CELLS[fault]
    rows = with_cell(text, 7, column, value)
    done = ingest(put(tmp_path / f"file{kind}", rows), FORMATS, logs)
    kept = refused(logs)
    assert done.quarantined == kept.height == 1
    assert reason in kept["reason"][0]
    assert done.accepted == rows.height - 1
    said = orjson.loads(kept["row"][0])
    assert said["terminal_id"] == rows["terminal_id"][7]
    assert said.get("event_id") == rows["transaction_id"][7]
    assert len(ids(logs)) == rows.height - 1
    assert (
        scan(logs[fraud.Label]).collect().height
        == rows.height - 1 - rows["label_time"].null_count()
    )
    assert_accounts(done, logs, rows)


def test_several_faults_of_a_row_are_all_named(text, logs, tmp_path):
    rows = with_cell(with_cell(text, 3, "amount", "-5"), 3, "customer_id", "?")
    ingest(put(tmp_path / "file.csv", rows), FORMATS, logs)
    assert {part.split(":")[0] for part in refused(logs)["reason"][0].split("; ")} == {
        "amount",
        "customer_id",
    }


def test_every_row_bad(text, logs, tmp_path):
    "All in quarantine, none in the log; and the same again changes nothing."
    path = put(tmp_path / "file.csv", text.with_columns(amount=pl.lit("free")))
    for _ in range(2):
        done = ingest(path, FORMATS, logs)
        assert (done.accepted, done.quarantined, refused(logs).height, ids(logs)) == (
            0,
            text.height,
            text.height,
            [],
        )


def test_same_row_twice_in_a_file_counts_once(text, logs, tmp_path):
    rows = pl.concat([text, text[5:8]])
    done = ingest(put(tmp_path / "file.csv", rows), FORMATS, logs)
    assert done.appended["transaction"] == text.height
    assert done.quarantined == 0
    assert_accounts(done, logs, rows)


@pytest.mark.parametrize("order", ["within a file", "in a later file"])
def test_same_id_with_another_amount_is_a_conflict(order, text, logs, tmp_path):
    "The first word stays; the other is in quarantine."
    lie = with_cell(text[5:6], 0, "amount", "999.99")
    if order == "within a file":
        ingest(put(tmp_path / "file.csv", pl.concat([text, lie])), FORMATS, logs)
    else:
        ingest(put(tmp_path / "first.csv", text), FORMATS, logs)
        assert ingest(put(tmp_path / "later.csv", lie), FORMATS, logs).quarantined == 1
    stored = (
        scan(logs[fraud.Transaction])
        .filter(pl.col("event_id") == lie["transaction_id"][0])
        .collect()
    )
    assert stored["amount"].to_list() == [round(float(text["amount"][5]) * 100)]
    assert ids(logs) == text["transaction_id"].sort().to_list()
    assert refused(logs)["reason"].to_list() == ["event_id: known with another payload"]
    assert "999.99" in refused(logs)["row"][0]


def test_same_file_again_and_under_another_name(text, logs, tmp_path):
    "Not a byte changes."
    ingest(put(tmp_path / "file.csv", with_cell(text, 2, "amount", "-1")), FORMATS, logs)
    before = folder_bytes(logs.folder)
    (tmp_path / "copy.csv").write_bytes((tmp_path / "file.csv").read_bytes())
    for name in ("file.csv", "copy.csv", "*.csv"):
        assert ingest(tmp_path / name, FORMATS, Logs(logs.folder)).appended == {
            "transaction": 0,
            "label": 0,
        }
        assert folder_bytes(logs.folder) == before


# %% Files that are refused whole


def csv(rows: pl.DataFrame) -> bytes:
    return rows.write_csv().encode()


def parquet(rows: pl.DataFrame, folder: Path) -> bytes:
    return put(folder / "whole.parquet", rows).read_bytes()


FILES = {
    "no such file": ("absent.csv", lambda rows, folder: None, "no such file"),
    "empty": ("file.csv", lambda rows, folder: b"", "empty"),
    "empty parquet": ("file.parquet", lambda rows, folder: b"", "empty"),
    "header only": ("file.csv", lambda rows, folder: csv(rows.clear()), "no rows"),
    "line break only": ("file.csv", lambda rows, folder: b"\n", "file.csv"),
    "blank lines of JSON": ("file.jsonl", lambda rows, folder: b"\n\n", "no rows"),
    "parquet without rows": (
        "file.parquet",
        lambda rows, folder: parquet(rows.clear(), folder),
        "no rows",
    ),
    "column missing": (
        "file.csv",
        lambda rows, folder: csv(rows.drop("amount")),
        "'amount' is missing",
    ),
    "column too many": (
        "file.csv",
        lambda rows, folder: csv(rows.with_columns(colour=pl.lit("red"))),
        "'colour' is unknown",
    ),
    "column too many in one line of JSON": (
        "file.jsonl",
        lambda rows, folder: (
            put(folder / "whole.jsonl", rows).read_bytes() + b'{"colour": "red"}\n'
        ),
        "'colour' is unknown",
    ),
    "column renamed": (
        "file.parquet",
        lambda rows, folder: parquet(rows.rename({"amount": "Amount"}), folder),
        "'Amount' is unknown",
    ),
    "column twice": (
        "file.csv",
        lambda rows, folder: csv(rows).replace(b"customer_id", b"amount", 1),
        "the column 'amount' is there twice",
    ),
    "another table": ("file.csv", lambda rows, folder: b"a,b\n1,2\n", "no known format"),
    "ragged line": (
        "file.csv",
        lambda rows, folder: csv(rows) + b"1,2,3,4,5,6,7,8,9,10,11\n",
        "cannot be read",
    ),
    "not UTF-8": (
        "file.csv",
        lambda rows, folder: csv(rows).replace(b"p0000003", b"p\xe9\xff3"),
        "line 4: not UTF-8",
    ),
    "UTF-16": ("file.csv", lambda rows, folder: rows.write_csv().encode("utf-16"), "UTF-16"),
    "CSV called parquet": (
        "file.parquet",
        lambda rows, folder: csv(rows),
        "not what its name says",
    ),
    "parquet called CSV": ("file.csv", parquet, "not what its name says"),
    "parquet called JSON": ("file.jsonl", parquet, "not what its name says"),
    "of a kind nobody knows": ("file.xlsx", lambda rows, folder: b"PK", "not known"),
    "without an ending": ("file", lambda rows, folder: b"x", "not known"),
    "bad line of JSON": (
        "file.jsonl",
        lambda rows, folder: put(folder / "whole.jsonl", rows).read_bytes() + b'{"amount": \n',
        "line 41",
    ),
    "line of JSON that is no object": ("file.jsonl", lambda rows, folder: b"[1, 2]\n", "line 1"),
    "line of JSON with a broken character": (
        "file.jsonl",
        lambda rows, folder: b'{"transaction_id": "p\xff"}\n',
        "line 1",
    ),
    "CSV called JSON": ("file.jsonl", lambda rows, folder: csv(rows), "line 1"),
    "truncated JSON": (
        "file.jsonl",
        lambda rows, folder: put(folder / "whole.jsonl", rows).read_bytes()[:-20],
        "line 40",
    ),
    "parquet without its end": (
        "file.parquet",
        lambda rows, folder: parquet(rows, folder)[:-5],
        "cannot be read",
    ),
    "half a parquet": (
        "file.parquet",
        lambda rows, folder: parquet(rows, folder)[:1000],
        "cannot be read",
    ),
    "four bytes of parquet": ("file.parquet", lambda rows, folder: b"PAR1", "cannot be read"),
}


@pytest.mark.parametrize("fault", FILES)
def test_bad_file_is_refused_whole(fault, payments, text, logs, tmp_path):
    "The error names the file and the fault; a log with data stays as it was, byte for byte."
    ingest(put(tmp_path / "good.csv", text.head(10)), FORMATS, logs)
    before = folder_bytes(logs.folder)
    (tmp_path / "scratch").mkdir()
    name, make, says = FILES[fault]
    if (content := make(text, tmp_path / "scratch")) is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BAD_FILE) as e:
        ingest(tmp_path / name, FORMATS, logs)
    assert says in str(e.value) and name in str(e.value), str(e.value)
    assert folder_bytes(logs.folder) == before


@pytest.mark.parametrize("bad", ["a.csv", "z.csv"])
def test_one_bad_file_of_several_stops_all(bad, text, logs, tmp_path):
    "Whether it comes first or last."
    put(tmp_path / "m.csv", text)
    (tmp_path / bad).write_bytes(csv(text.drop("amount")))
    with pytest.raises(ContractError, match=bad):
        ingest(tmp_path / "*.csv", FORMATS, logs)
    assert logs[fraud.Transaction].version() == -1
    assert not list(logs.folder.rglob("*.parquet"))


@pytest.mark.parametrize("source, says", [(".", "folder"), ("*.csv", "no file matches")])
def test_source_that_is_no_file(source, says, logs, tmp_path):
    with pytest.raises(SourceError, match=says):
        ingest(tmp_path / source, FORMATS, logs)


def test_damaged_parquet_is_refused_or_read_right(text, logs, tmp_path):
    """Bytes changed anywhere: an error that names the file, or rows that all are accounted for;
    never another kind of failure."""
    whole, draw = parquet(text, tmp_path), random.Random(3)
    for n in range(60):
        damaged = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):
            damaged[draw.randrange(4, len(whole))] ^= 1 << draw.randrange(8)
        path = tmp_path / f"damaged {n}.parquet"
        path.write_bytes(
            damaged[: draw.choice([len(whole), len(whole), draw.randrange(12, len(whole))])]
        )
        store = Logs(tmp_path / f"workspace {n}")
        try:
            done = ingest(path, FORMATS, store)
        except BAD_FILE as e:
            assert path.name in str(e)
            assert store[fraud.Transaction].version() == -1
        else:
            assert (
                done.rows
                == done.accepted
                + refused(store).filter(pl.col("batch_id").str.ends_with("contract")).height
            )


def test_folder_that_cannot_be_written(text, tmp_path):
    "A workspace below a regular file: `LogError` saying where, and the file is untouched."
    (tmp_path / "occupied").write_text("not a folder")
    source = put(tmp_path / "file.csv", text)
    with pytest.raises(LogError, match="occupied"):
        ingest(source, FORMATS, Logs(tmp_path / "occupied" / "workspace"))
    assert (tmp_path / "occupied").read_text() == "not a folder"


def test_quarantine_that_cannot_be_written_stops_the_file(text, logs, tmp_path):
    "Rows that cannot be kept are not dropped: the ingest fails, and succeeds once there is room."
    source = put(tmp_path / "file.csv", with_cell(text, 2, "amount", "-1"))
    logs.folder.mkdir(parents=True)
    (logs.folder / "quarantine").write_text("not a folder")
    with pytest.raises(LogError, match="quarantine"):
        ingest(source, FORMATS, logs)
    assert ids(logs) == []
    (logs.folder / "quarantine").unlink()
    assert_accounts(ingest(source, FORMATS, logs), logs, text)


def test_label_of_a_payment_keeps_the_contract_too(text, logs, tmp_path):
    "Events derived from a row are of their own stream's contract: what landed could land again."
    ingest(
        put(tmp_path / "file.csv", with_cell(text, 2, "transaction_id", "x" * 195)), FORMATS, logs
    )
    labels = scan(logs[fraud.Label]).select(*fraud.Label.fields).collect()
    assert check(fraud.Label, labels)[1].is_empty()
