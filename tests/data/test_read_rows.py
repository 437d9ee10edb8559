from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.config.mix import DataSource
from s2l_nemo.config.schema import OnBadRow
from s2l_nemo.data import opened
from s2l_nemo.data.rows import Row, gold_text, read_rows
from s2l_nemo.data.sources import is_hub_name, read_records
from s2l_nemo.errors import UserError

GOOD = b'{"prompt": "a", "answer": "1"}'
DEEP = b'{"prompt": "a", "answer": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"

FAULTS = [
    (b"{}\0" + GOOD, "a NUL byte at byte 3 of the line"),
    (b'{"prompt": "a\0", "answer": "1"}', "a NUL byte at byte 14 of the line"),
    (b'{"prompt": "a\\u0000", "answer": "1"}', "'prompt' holds a NUL character"),
    (b'{"prompt": "a", "answer": "1\\u0000"}', "'answer' holds a NUL character"),
    (b'{"prompt": "\xe9", "answer": "1"}', "not UTF-8 at byte 12"),
    (b'{"prompt": "a\\ud83d", "answer": "1"}', "'prompt' holds half of a surrogate pair at character 2"),
    (b'{"prompt": "a", "answer": "\\udc00"}', "'answer' holds half of a surrogate pair at character 1"),
    (b'{"prompt": "a" "answer": "1"}', "not valid JSON (Expecting ',' delimiter at column 16)"),
    (DEEP, "nested too deeply"),
    (b'{"prompt": "a", "answer": NaN}', "NaN is not valid JSON"),
    (b'{"prompt": "a", "answer": -Infinity}', "-Infinity is not valid JSON"),
    (b'{"prompt": "a", "answer": ' + b"9" * 5000 + b"}", "Exceeds the limit (4300 digits)"),
    (b'{"prompt": "a", "answer": 1e999}', "'answer' must be a string or an integer, not inf"),
    (b'{"prompt": "a", "answer": "1", "answer": "2"}', "the key 'answer' occurs twice"),
    (b'{"prompt": "a"}', "no key 'answer', there are ['prompt']; set data.answer_key"),
    (b'{"answer": "1"}', "no key 'prompt', there are ['answer']; set data.prompt_key"),
    (b'{"prompt": "", "answer": "1"}', "'prompt' must be a non-empty string, not ''"),
    (b'{"prompt": {"a": 1}, "answer": "1"}', "'prompt' must be a non-empty string, not {'a': 1}"),
    (b'{"prompt": "a", "answer": ""}', "'answer' is empty"),
    (b'{"prompt": "a", "answer": []}', "'answer' must be a string or an integer, not []"),
    (b'{"prompt": "a", "answer": [["1"]]}', "'answer' must be a string or an integer, not [['1']]"),
    (b'{"prompt": "a", "answer": {"x": 1}}', "'answer' must be a string or an integer"),
    (b'{"prompt": [], "answer": "1"}', "'prompt' must be a non-empty string, not []"),
    (
        b'{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "1"}], "answer": "1"}',
        "'prompt' must be one user message, after a system message or none, not 'user, assistant'",
    ),
    (b'{"prompt": [{"role": "user", "content": null}], "answer": "1"}', "'prompt' must be a non-empty string"),
    (b'"a"', "a JSON str instead of an object"),
]


def source(path: Path | str, prompt: str = "prompt", answer: str = "answer", system: str | None = None) -> DataSource:
    return DataSource(str(path), prompt, answer, system)


def read(path: Path, on_bad_row: OnBadRow = OnBadRow.error, **keys: str) -> list[tuple[int, str, str, int]]:
    rows = read_rows(source(path, **keys), on_bad_row).rows
    return [(row.row, row.question, row.answer, row.line) for row in rows]


@pytest.mark.parametrize(("fault", "reason"), FAULTS, ids=[reason[:40] for _, reason in FAULTS])
@pytest.mark.parametrize("position", [0, 1])
def test_r24_a_fault_is_an_error_with_its_line_or_is_skipped_and_counted(
    tmp_path: Path, fault: bytes, reason: str, position: int
) -> None:
    path = tmp_path / "p.jsonl"
    lines = [GOOD, GOOD]
    lines.insert(position, fault)
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(UserError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}:{position + 1}: {reason}")
    assert "\n" not in str(error.value)
    rows = read_rows(source(path), OnBadRow.skip)
    assert [row.row for row in rows.rows] == [row for row in range(3) if row != position]
    (skipped,) = rows.skipped
    assert skipped.line == position + 1
    assert skipped.reason.startswith(reason)


@given(st.binary(max_size=80))
def test_any_bytes_give_rows_or_bad_rows_and_every_row_is_text(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(GOOD + b"\n" + content + b"\n" + GOOD)
    rows = read_rows(source(path), OnBadRow.skip)
    lines = (GOOD + b"\n" + content + b"\n" + GOOD).split(b"\n")
    assert len(rows.rows) + len(rows.skipped) == sum(bool(line.strip()) for line in lines)
    assert all((row.question + row.answer).encode() for row in rows.rows)


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "MAX_LINE_BYTES", 64)
    path = tmp_path / "p.jsonl"
    exact = GOOD.replace(b'"a"', b'"' + b"a" * (65 - len(GOOD)) + b'"')  # with its line break one byte over the limit
    path.write_bytes(GOOD + b"\n" + b"x" * 64 * 7 + b"\n" + exact + b"\n" + GOOD + b"\n" + b"y" * 300)
    rows = read_rows(source(path), OnBadRow.skip)
    assert [row.line for row in rows.rows] == [1, 4]
    assert [bad.line for bad in rows.skipped] == [2, 3, 5]
    assert all(bad.reason.startswith("longer than") for bad in rows.skipped)


def test_only_as_many_rows_as_asked_for_are_read(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"{\n" + GOOD + b"\n" + GOOD + b"\n{")
    rows = read_rows(source(path), OnBadRow.skip, limit=2)
    assert rows.rows == [Row(1, "a", "1", 2), Row(2, "a", "1", 3)]
    assert [bad.line for bad in rows.skipped] == [1]


def test_dotted_keys_and_chats(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    record = {"prompt": [{"role": "user", "content": "a"}], "reward_model": {"ground_truth": 34}, "x.y": "literal"}
    path.write_text(json.dumps(record))
    assert read(path, answer="reward_model.ground_truth") == [(0, "a", "34", 1)]
    assert read(path, answer="x.y") == [(0, "a", "literal", 1)]
    with pytest.raises(
        UserError, match=r"no key 'reward_model\.truth', there are \['prompt', 'reward_model', 'x\.y'\]"
    ):
        read(path, answer="reward_model.truth")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1/2", "1/2"),
        (" x ", " x "),
        (0, "0"),
        (-12, "-12"),
        (10**30, "1" + "0" * 30),
        (0.5, "0.5"),
        (3.0, "3"),
        (1e-7, "0.0000001"),
        (["2"], "2"),
        (["2", 3], "2, 3"),
    ],
)
def test_gold_answers_as_text(value: object, text: str) -> None:
    assert gold_text(value) == text


@pytest.mark.parametrize("value", [True, None, math.nan, math.inf, {}, [], [[]], [None], ["1", False], b"1"])
def test_what_is_no_gold_answer(value: object) -> None:
    with pytest.raises(ValueError):
        gold_text(value)


def dapo_like(count: int) -> pa.Table:
    return pa.table(
        {
            "prompt": [[{"role": "user", "content": f"q{i}"}] for i in range(count)],
            "reward_model": [{"ground_truth": str(i), "style": "rule"} for i in range(count)],
            "other": ["x"] * count,
        }
    )


def test_parquet_gives_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(dapo_like(3000), path, row_group_size=700)
    rows = read(path, answer="reward_model.ground_truth")
    assert rows == [(i, f"q{i}", str(i), i + 1) for i in range(3000)]
    assert next(iter(read_records(str(path), ["reward_model.ground_truth"])))[1] == {
        "reward_model": {"ground_truth": "0", "style": "rule"}
    }
    with pytest.raises(
        UserError, match=r"p\.parquet:1: no key 'answer', there are \['other', 'prompt', 'reward_model'\]"
    ):
        read(path)


def test_bad_text_in_parquet_is_found_in_its_row(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    texts = pa.array([b"a", b"\xff", b"b", None], pa.binary())
    broken = pa.StringArray.from_buffers(4, texts.buffers()[1], texts.buffers()[2], texts.buffers()[0])
    pq.write_table(pa.table({"prompt": broken, "answer": ["1", "2", "3", "4"]}), path)
    with pytest.raises(UserError, match=r"p\.parquet:2: not UTF-8 at byte 0"):
        read(path)
    rows = read_rows(source(path), OnBadRow.skip)
    assert [row.row for row in rows.rows] == [0, 2]
    assert [bad.line for bad in rows.skipped] == [2, 4]


def test_a_parquet_column_whose_name_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"prompt": ["a"], "answer": ["1"]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"answer", b"\xff" * 6))
    with pytest.raises(UserError, match=r"p\.parquet: no parquet file, or a damaged one"):
        read(path)


def test_files_that_cannot_be_read_at_all(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(dapo_like(3000), path)
    content = path.read_bytes()
    for damaged in (b"", GOOD, content[:-5], content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"p\.parquet: no parquet file, or a damaged one"):
            read(path)
    with pytest.raises(UserError, match=r"cannot read prompts from .*no\.parquet: .*; correct the path"):
        read(tmp_path / "no.parquet")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(UserError, match=r"Is a directory; correct the path"):
        read(tmp_path / "folder.jsonl")
    with pytest.raises(UserError, match=r"prompts\.txt: it ends neither in \.parquet nor in \.jsonl"):
        read(tmp_path / "prompts.txt")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BytedTsinghua-SIA/DAPO-Math-17k", True),
        ("data/train.jsonl", False),
        ("data/train.jsonl.gz", False),
        ("data/train.csv", False),
        ("train", False),
        ("/data/train", False),
    ],
)
def test_names_of_the_hub(name: str, expected: bool) -> None:
    assert is_hub_name(name) is expected


def test_files_are_read_without_the_hub_library(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_bytes(GOOD)
    code = f"""
import sys
from s2l_nemo.config.mix import DataSource
from s2l_nemo.config.schema import OnBadRow
from s2l_nemo.data.rows import read_rows
assert read_rows(DataSource({str(tmp_path / "p.jsonl")!r}, "prompt", "answer", None), OnBadRow.error).rows
assert not {{"datasets", "huggingface_hub", "torch", "transformers", "pyarrow"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[2])
