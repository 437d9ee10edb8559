"""Kinds of files that hold rows, and what is wrong with damaged ones."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.data import json_file
from s2l_nemo.data.sources import BadRow, read_records
from s2l_nemo.errors import UserError

ROW = {"prompt": "a", "answer": "1"}
GOOD = json.dumps(ROW).encode()


def write(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)


def read(folder: Path, name: str, content: bytes) -> list[tuple[int, object]]:
    return [
        (line, record.reason if isinstance(record, BadRow) else record)
        for line, record in read_records(write(folder, name, content))
    ]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson"])
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\n  "])
def test_an_array_is_numbered_by_its_objects(tmp_path: Path, name: str, before: bytes) -> None:
    pretty = json.dumps([ROW, ROW], indent=2).encode()
    assert read(tmp_path, name, before + pretty) == [(1, ROW), (2, ROW)]
    assert read(tmp_path, name, before + b"[]") == []


def test_damaged_objects_of_an_array_are_bad_rows(tmp_path: Path) -> None:
    items = (b'{"a": 1, "a": 2}', b"3", b'{"a": [{"b": NaN}]}', GOOD)
    assert read(tmp_path, "a.json", b"[" + GOOD + b", " + b",".join(items) + b"]") == [
        (1, ROW),
        (2, "the key 'a' occurs twice; keep one"),
        (3, "a JSON int instead of an object"),
        (4, "NaN is not valid JSON; write null or a number"),
        (5, ROW),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" + GOOD + b",\n" + GOOD, "not valid JSON (Expecting ',' delimiter at line 2 column 31); correct the file"),
        (b"[" + GOOD + b"]\n" + GOOD, "not valid JSON (Extra data at line 2 column 1)"),
        (b'[{"a": "\xff"}]', "not UTF-8 at byte 8"),
        (b'[{"a": "\0"}]', "a NUL byte at byte 9"),
        (b'[{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]", "nested too deeply"),
    ],
)
def test_a_damaged_array_is_one_error(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, "a.json", content)
    assert str(error.value).startswith(f"cannot read prompts from {tmp_path}/a.json: {reason}")


def test_a_large_array_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_file, "MAX_ARRAY_BYTES", 64)
    assert read(tmp_path, "a.json", b"[" + GOOD + b"]") == [(1, ROW)]
    with pytest.raises(UserError, match="write one object a line"):
        read(tmp_path, "a.json", b"[" + GOOD + b", " * 20 + GOOD + b"]")


def test_lists_a_line_are_no_array(tmp_path: Path) -> None:
    found = read(tmp_path, "a.jsonl", b'["a", "1"]\n' + GOOD)
    assert found == [(1, "a JSON list instead of an object"), (2, ROW)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_a_packed_file_is_the_file(tmp_path: Path, name: str) -> None:
    content = b"prompt,answer\na,1\n" if name.endswith("csv") else GOOD + b"\n"
    packed = gzip.compress(content * 1000)
    assert read(tmp_path, f"{name}.gz", packed) == read(tmp_path, name, content * 1000)
    for damaged in (packed[:-9], packed[: len(packed) // 2], b"no gzip", packed[:20] + bytes(20) + packed[40:]):
        with pytest.raises(UserError, match="no gzip file, or a damaged one"):
            read(tmp_path, f"{name}.gz", damaged)


def test_a_table(tmp_path: Path) -> None:
    content = b'prompt;answer\r\n"a\nb";1\r\n\r\n"say ""x"", y";\xc3\xbc\r\n'
    assert read(tmp_path, "t.csv", b"\xef\xbb\xbf" + content) == [
        (2, {"prompt": "a\nb", "answer": "1"}),
        (5, {"prompt": 'say "x", y', "answer": "ü"}),
    ]
    assert read(tmp_path, "t.tsv", b"prompt\tanswer\na, b\t1") == [(2, {"prompt": "a, b", "answer": "1"})]
    assert read(tmp_path, "t.csv", b"prompt,answer\n") == []


def test_damaged_records_of_a_table_are_bad_rows(tmp_path: Path) -> None:
    content = b'prompt,answer\na,1\na,1,2\na\n\xff,1\n"a"x,1\na,2\n"never ends,1\n'
    assert read(tmp_path, "t.csv", content) == [
        (2, {"prompt": "a", "answer": "1"}),
        (3, "3 cells under 2 titles; put quotes around a cell that holds the delimiter"),
        (4, "1 cells under 2 titles; put quotes around a cell that holds the delimiter"),
        (5, "not UTF-8 in the column 'prompt'; convert the file to UTF-8"),
        (6, "not valid CSV (',' expected after '\"')"),
        (7, {"prompt": "a", "answer": "2"}),
        (8, "not valid CSV (unexpected end of data)"),
    ]


@pytest.mark.parametrize("content", [b"", b"\n", b"a,a\n1,2\n", b'"a"b\n'])
def test_a_table_needs_titles(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match=r"t\.csv: .*first line"):
        read(tmp_path, "t.csv", content)


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@given(st.lists(st.tuples(CELLS, CELLS), max_size=6))
def test_tables_hold_any_text(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([("x", "y"), *rows])
    found = read(tmp_path_factory.getbasetemp(), "any.csv", out.getvalue().encode())
    assert [record for _, record in found] == [{"x": x, "y": y} for x, y in rows]
    lines = [line for line, _ in found]
    assert lines == sorted(set(lines))  # each names one record
