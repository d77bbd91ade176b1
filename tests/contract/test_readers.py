"Readers lose no row and guess no type; what two programs would read differently is refused."

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlkit import readers
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


VALUES = ["1", "-7", "0", "-0", "57.160", "1e2", "1E+400", "20250101000000000001", "true", "null"]
VALUES += ['"a"', '""', '"é😀"', '"O\'B, c: {d}"', '"0042"', '" a "', '"null"', '"true"', "false"]
CODED = ['"a\\"b"', '"\\u00e9"', '"\\\\"', '"a\\n"', '{"a": 1}', "[1]", '[{"b": [1.50]}]', "[]"]
WRONG = [
    "01",
    "1.",
    ".5",
    "+1",
    "NaN",
    "tru",
    '"a\tb"',
    '"a',
    "'a'",
    "1 2",
    "",
    "-",
    '"\\ud800"',
    "0x1",
]
KEYS = ['"a"', '"b"', '"a.b"', '"^a$"', '"(x|y)*"', '"é"', '""', '"a b"', '"\\u0061"', '"$1"']
SPACES = st.sampled_from(["", " ", "  ", "\t"])


@st.composite
def json_lines(draw: Any) -> str:
    "Lines that are alike, or nearly so."
    keys = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=4, unique=draw(st.booleans())))
    odd = draw(st.none() | st.sampled_from(CODED + WRONG))
    usual = VALUES if odd is None else [*VALUES, *[odd] * len(VALUES)]
    lines = []
    for _ in range(draw(st.integers(1, 4))):
        pairs = [
            f"{draw(SPACES)}{key}{draw(SPACES)}:{draw(SPACES)}{draw(st.sampled_from(usual))}"
            for key in keys
        ]
        line = f"{draw(SPACES)}{{{f'{draw(SPACES)},'.join(pairs)}{draw(SPACES)}}}{draw(SPACES)}"
        lines.append(line + draw(st.sampled_from(["\n", "\r\n", "\n"])))
    lines += draw(st.sampled_from([[], [], [], ["\n"], ["{}\n"], ["[]\n"], ['{"a": 1}'], ["{"]]))
    return "".join(lines)


def as_read(path: Path) -> Any:
    "The values, kinds and nulls of a file, or why it is refused."
    try:
        frame = readers.read_jsonl(path)
    except SourceError as e:
        return str(e)
    return frame.schema, frame.rows()


def check_as_parsed(path: Path, text: str, monkeypatch: Any) -> None:
    fast = as_read(written(path, text.encode()))
    with monkeypatch.context() as patch:
        patch.setattr(readers, "_alike", lambda lines: None)
        assert as_read(path) == fast


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(json_lines())
def test_lines_that_are_alike_are_read_as_the_parser_reads_them(tmp_path, monkeypatch, text):
    check_as_parsed(tmp_path / "f.jsonl", text, monkeypatch)


@pytest.mark.parametrize("value", VALUES + CODED + WRONG)
def test_a_value_unlike_the_one_above_is_read_as_the_parser_reads_it(tmp_path, monkeypatch, value):
    for text in (
        f'{{"a": 1}}\n{{"a": {value}}}\n',
        f'{{"a": 1, "b": 2}}\n{{"a": {value}, "b": 2}}\n',
    ):
        check_as_parsed(tmp_path / "f.jsonl", text, monkeypatch)


def test_most_lines_are_not_parsed(tmp_path, monkeypatch):
    "Nor is one of ten thousand the slowness of the others."
    monkeypatch.setattr(readers, "_LINES", 2)
    monkeypatch.setattr(readers, "json_frame", lambda rows: pytest.fail("parsed"))
    lines = [f'{{"id": "p{i}", "eur": {i}.50, "who": {i}, "late": null}}\n' for i in range(5)]
    frame = readers.read_jsonl(written(tmp_path / "f.jsonl", "".join(lines).encode()))
    assert frame["eur"].struct.field("text").to_list() == [f"{i}.50" for i in range(5)]
    assert frame["late"].null_count() == 5


def test_a_table_with_many_named_nulls_is_read(tmp_path):
    row = "{" + ", ".join(f'"k{i}": {"1" if i < 2 else "null"}' for i in range(300)) + "}\n"
    assert read_source(written(tmp_path / "f.jsonl", (row * 20_000).encode())).shape == (
        20_000,
        300,
    )


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
