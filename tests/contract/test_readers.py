"Readers lose no row and guess no type; what two programs would read differently is refused."

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from mlkit.fields import Fixed
from mlkit.files import read_source
from mlkit.formats import decimal
from mlkit.readers import SourceError


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("head", [b"", b"\n", b"\r\n", b"\n\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_a_csv_is_text_whatever_comes_before_its_header(tmp_path, head):
    frame = read_source(written(tmp_path / "f.csv", head + b"id,key,eur\n001,0042,57.160\n"))
    assert frame.rows() == [("001", "0042", "57.160")]
    assert set(frame.dtypes) == {pl.String}


def test_an_empty_line_of_a_single_column_is_a_missing_value(tmp_path):
    frame = read_source(written(tmp_path / "f.csv", b"x\n1\n\n3\n"))
    assert frame["x"].to_list() == ["1", None, "3"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("f.csv", b"a,b,c\n1,2,3\n4,5\n", "Expected 3 columns, got 2"),
        ("f.csv", b"a,b\n1,2,3\n", "Expected 2 columns, got 3"),
        ("f.csv", b'a,b\n1,"2\n', "opened and not closed"),
        ("f.csv", b"a,a\n1,2\n", "'a' is there twice"),
        ("f.jsonl", b'{"a": 1}\n{}\n', "line 2: an object without keys"),
        ("f.jsonl", b'{"a": 1, "a": 2}\n', "line 1: not JSON .*'a' is there twice"),
        ("f.jsonl", b'{"a": NaN}\n', "line 1: not JSON"),
        ("f.jsonl", b'{"a": "\\ud800"}\n', "line 1: not JSON"),
        ("f.jsonl", b"[" * 100_000, "line 1: not JSON .*too deeply"),
    ],
)
def test_what_has_two_meanings_is_refused(tmp_path, name, content, message):
    with pytest.raises(SourceError, match=message):
        read_source(written(tmp_path / name, content))


def test_json_lines_may_begin_with_a_mark_and_change_their_keys(tmp_path):
    lines = b'\xef\xbb\xbf{"a": 1}\n\n' + b'{"a": 2}\n' * 10_001 + b'{"b": 3}\n'
    frame = read_source(written(tmp_path / "f.jsonl", lines))
    assert (frame.height, frame.columns) == (10_003, ["a", "b"])
    assert frame["b"].null_count() == 10_002


@pytest.mark.parametrize(
    "value, cents",
    [(17.13 * 5, 8565), (0.1 + 0.2, 30), (88.4 * 3, 26520), (57.1600009, None), (1.0049, None)],
)
def test_a_format_mends_the_last_bits_and_nothing_else(value, cents):
    frame = pl.DataFrame({"x": [value]}).select(x=decimal("x", 2))
    assert frame.select(Fixed(places=2).parse("x", pl.Float64())).item() == cents
