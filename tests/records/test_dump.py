from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow.parquet
import pytest

from s2l_nemo.records.dump import RolloutRow, read_rollouts, rollout_rows, write_rollouts
from s2l_nemo.types import Completion, FinishReason, Group, Prompt, Source


def completion(
    sample_id: int,
    source: Source,
    reward: float | None,
    tokens: tuple[int, ...] = (5, 6),
    finish_reason: FinishReason = "stop",
) -> Completion:
    return Completion(7, sample_id, source, tokens, (-0.5,) * len(tokens), finish_reason, 3, reward)


GROUP = Group(
    Prompt(7, "1+1=?", "2", (1, 2)),
    (completion(0, Source.EXPLORER, 1.0), completion(1, Source.LEARNER, None, tokens=(9,), finish_reason="length")),
)


def rows() -> list[RolloutRow]:
    return rollout_rows(4, [GROUP], [0.5, -0.5], decode=lambda ids: " ".join(map(str, ids)))


def test_rows_name_everything() -> None:
    first, second = rows()
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
    with pytest.raises(ValueError):
        rollout_rows(4, [GROUP], [0.5], decode=str)


def test_round_trip_types_and_compression(tmp_path: Path) -> None:
    path = tmp_path / "rollouts" / "step_000004.parquet"
    write_rollouts(path, rows())
    assert read_rollouts(path) == rows()
    file = pyarrow.parquet.ParquetFile(path)
    types = {field.name: str(field.type) for field in file.schema_arrow}
    assert (types["token_ids"], types["logprobs"]) == ("list<element: int32>", "list<element: float>")
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert list(path.parent.iterdir()) == [path]


def test_no_rows_keep_the_schema(tmp_path: Path) -> None:
    write_rollouts(tmp_path / "empty.parquet", [])
    assert read_rollouts(tmp_path / "empty.parquet") == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "step_000004.parquet"
    write_rollouts(path, rows())
    with pytest.raises((OverflowError, ValueError)):
        write_rollouts(path, [dataclasses.replace(rows()[0], token_ids=[2**40])])
    assert read_rollouts(path) == rows()
    assert list(tmp_path.iterdir()) == [path]
