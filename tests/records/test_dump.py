from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from s2l_nemo.records.dump import read_rollouts, rollout_table, table_bytes, table_of_bytes, write_rollouts
from s2l_nemo.types import Completion, FinishReason, Group, Prompt, Source
from tests.arrays import ids, lps


def completion(
    sample_id: int,
    source: Source,
    reward: float | None,
    tokens: tuple[int, ...] = (5, 6),
    finish_reason: FinishReason = "stop",
) -> Completion:
    return Completion(7, sample_id, source, ids(tokens), lps([-0.5] * len(tokens)), finish_reason, 3, reward)


GROUP = Group(
    Prompt(7, "1+1=?", "2", (1, 2)),
    (completion(0, Source.EXPLORER, 1.0), completion(1, Source.LEARNER, None, tokens=(9,), finish_reason="length")),
)


def table() -> Any:
    return rollout_table(4, GROUP, [0.5, -0.5], decode=lambda ids: " ".join(map(str, ids)))


def test_rows_name_everything(tmp_path: Path) -> None:
    write_rollouts(tmp_path / "file", [table()])
    first, second = read_rollouts(tmp_path / "file")
    assert dataclasses.asdict(first) == {
        "step": 4,
        "prompt_id": 7,
        "sample_id": 0,
        "source": "explorer",
        "prompt": "1+1=?",
        "response": "5 6",
        "answer": "2",
        "token_ids": [5, 6],
        "logprobs": [-0.5, -0.5],
        "advantage": 0.5,
        "reward": 1.0,
        "extracted": None,
        "grader_error": None,
        "kept": True,
        "finish_reason": "stop",
        "weight_version": 3,
    }
    assert (second.source, second.finish_reason, second.reward, second.advantage) == ("learner", "length", None, -0.5)


def test_advantages_must_match_the_completions() -> None:
    with pytest.raises(ValueError, match="2 completions have 1 advantages"):
        rollout_table(4, GROUP, [0.5], decode=str)


def test_types_and_compression(tmp_path: Path) -> None:
    path = tmp_path / "rollouts" / "step_000004.parquet"
    write_rollouts(path, [table()])
    file = pyarrow.parquet.ParquetFile(path)
    types = {field.name: str(field.type) for field in file.schema_arrow}
    assert (types["token_ids"], types["logprobs"]) == ("list<element: int32>", "list<element: float>")
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert list(path.parent.iterdir()) == [path]


def test_a_table_reaches_another_rank() -> None:
    assert table_of_bytes(table_bytes(table())).equals(table())


@pytest.mark.parametrize(("limit", "row_groups"), [(2**26, [10]), (1, [2] * 5), (table().nbytes * 2, [4, 4, 2])])
def test_many_groups_are_written_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, row_groups: list[int]
) -> None:
    monkeypatch.setattr("s2l_nemo.records.dump.ROW_GROUP_BYTES", limit)
    path = tmp_path / "file"
    write_rollouts(path, (table() for _ in range(5)))
    metadata = pyarrow.parquet.ParquetFile(path).metadata
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == row_groups
    assert [row.sample_id for row in read_rollouts(path)] == [0, 1] * 5


def test_no_rows_keep_the_schema(tmp_path: Path) -> None:
    write_rollouts(tmp_path / "empty.parquet", [])
    assert read_rollouts(tmp_path / "empty.parquet") == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "step_000004.parquet"
    write_rollouts(path, [table()])
    before = read_rollouts(path)

    def tables() -> Iterator[Any]:
        yield table()
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_rollouts(path, tables())
    assert read_rollouts(path) == before
    assert list(tmp_path.iterdir()) == [path]
