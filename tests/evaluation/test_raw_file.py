"""BENCH_raw.jsonl: what is appended is read back, a torn end is cut off, malformed rows are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.raw import RawRow, append_raw, cut_back, json_line, read_raw


def row(number: int, outputs: list[str] | None = None) -> RawRow:
    outputs = ["one", "two"] if outputs is None else outputs
    return RawRow(number, f"question {number}", "7", outputs, [3] * len(outputs), ["stop"] * len(outputs))


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "aime24_raw.jsonl"
    append_raw(path, [row(0), row(1, ["line\nbreak\u2028 and \u00e9", ""])])
    append_raw(path, [row(2)])
    assert list(read_raw(path)) == [row(0), row(1, ["line\nbreak\u2028 and \u00e9", ""]), row(2)]
    assert path.read_bytes().count(b"\n") == 3


@given(st.text(st.characters(codec=None)))
def test_any_text_survives_a_line_of_json(text: str) -> None:
    line = json_line({"outputs": [text]})
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line.decode("utf-8"))["outputs"] == [text]


@pytest.mark.parametrize("torn", [b"", b'{"id": 5, "ques', b'{"id": 5}'])
@pytest.mark.parametrize(
    ("written", "chunk", "total", "kept"),
    [(5, 2, 9, 4), (4, 2, 9, 4), (1, 2, 9, 0), (0, 2, 9, 0), (9, 2, 9, 9), (8, 2, 9, 8), (5, 1, 9, 5), (3, 4, 3, 3)],
)
def test_cut_back_to_whole_chunks(tmp_path: Path, torn: bytes, written: int, chunk: int, total: int, kept: int) -> None:
    path = tmp_path / "x_raw.jsonl"
    append_raw(path, [row(number) for number in range(written)])
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert cut_back(path, chunk, total) == kept
    assert list(read_raw(path)) == [row(number) for number in range(kept)]
    assert whole.startswith(path.read_bytes())


def test_cut_back_without_a_file(tmp_path: Path) -> None:
    assert cut_back(tmp_path / "x_raw.jsonl", 2, 4) == 0
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_may_have_less_and_more(tmp_path: Path) -> None:
    path = tmp_path / "x_raw.jsonl"
    lines = [
        {"question": "q", "answer": 70, "outputs": ["a"], "prompt": "p", "score": None},
        {"question": "q", "answer": ["1", "2"], "outputs": [], "tokens": "many", "finish_reasons": ["stop"]},
        {"question": "q", "answer": "x", "outputs": ["a", "b"], "id": "z-1", "tokens": [1]},
    ]
    path.write_text("\n\n".join(map(json.dumps, lines)))
    assert list(read_raw(path)) == [
        RawRow(0, "q", "70", ["a"], None, None),
        RawRow(1, "q", "1, 2", [], None, None),
        RawRow("z-1", "q", "x", ["a", "b"], None, None),
    ]


GOOD = '{"question": "q", "answer": "1", "outputs": ["a"], "id": 0}'


@pytest.mark.parametrize(
    ("line", "fragment"),
    [
        ("{", "not valid JSON"),
        ("[1]", "a JSON list instead of an object"),
        ('{"question": "q", "answer": "1"}', "no key 'outputs'"),
        ('{"answer": "1", "outputs": []}', "no key 'question'"),
        ('{"question": "q", "outputs": []}', "no key 'answer'"),
        ('{"question": 3, "answer": "1", "outputs": []}', "'question' must be a string"),
        ('{"question": "q", "answer": true, "outputs": []}', "'answer'"),
        ('{"question": "q", "answer": [], "outputs": []}', "'answer'"),
        ('{"question": "q", "answer": "1", "outputs": "text"}', "'outputs' must be a list of strings"),
        ('{"question": "q", "answer": "1", "outputs": ["a", null]}', "'outputs' must be a list of strings"),
        ('{"question": "q", "answer": "1", "outputs": [], "id": 1.5}', "'id' must be"),
        (GOOD, "id 0 came before"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_malformed_rows_are_named(tmp_path: Path, line: str, fragment: str) -> None:
    path = tmp_path / "aime24_raw.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n")
    with pytest.raises(UserError) as caught:
        list(read_raw(path))
    assert str(caught.value).startswith(f"{path}:3: ")
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "aime24_raw.jsonl"
    path.write_bytes(GOOD.encode() + b"\n\xff\xfe\n")
    with pytest.raises(UserError, match=r"aime24_raw.jsonl:2: not UTF-8"):
        list(read_raw(path))
