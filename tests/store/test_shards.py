"""Parquet shards: every value comes back, and whatever is wrong with a file is one line that names it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from s2l_nemo.errors import UserError
from s2l_nemo.store.facts import StoreFacts
from s2l_nemo.store.shards import Rollout, Shard, read_keys, read_notes, read_shard, write_shard
from tests.arrays import ids, lps
from tests.store.stores import LIMIT, PROMPTS, STOP, facts_of, rollout

IDS = {prompt.prompt_id for prompt in PROMPTS}
ROLLOUTS = [rollout(prompt_id, n) for prompt_id in (5, 3) for n in (3, 0, 1, 2)]


def write(folder: Path, rollouts: list[Rollout] = ROLLOUTS, facts: StoreFacts | None = None) -> Path:
    path = folder / "one.parquet"
    write_shard(path, Shard.of(rollouts), facts or facts_of(), "vllm")
    return path


def refusal(path: Path, facts: StoreFacts | None = None) -> str:
    with pytest.raises(UserError) as caught:
        read_shard(path, facts or facts_of(), IDS)
    message = str(caught.value)
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def test_a_shard_comes_back_in_order(tmp_path: Path) -> None:
    shard = read_shard(write(tmp_path), facts_of(), IDS)
    assert shard.prompt_id_R.tolist() == [3] * 4 + [5] * 4
    assert shard.sample_R.tolist() == [0, 1, 2, 3] * 2
    assert shard.digest() == Shard.of(ROLLOUTS).digest()
    assert shard.length_R.tolist() == [4, 6, 2, 4, 6, 2, 4, 6]
    assert shard.tokens_N[:10].tolist() == [3, 20, 40, STOP, 3, 21, 40, 41, 42, 43]
    assert shard.logprobs_N is not None
    assert shard.logprobs_N[:5].tolist() == [-0.125, -0.25, -0.375, -0.5, -1.125]
    assert shard.stopped_R.tolist() == [True, False, True, True, False, True, True, False]
    assert shard.reward_R.tolist() == [0, 1, 0, 1] * 2
    assert shard.answer_R == [None, "1", "2", "3"] * 2
    assert shard.grader_error_R == [None, None, "too slow", None] * 2
    assert shard.seed_R.tolist() == [300, 301, 302, 303, 500, 501, 502, 503]


def test_keys_and_notes(tmp_path: Path) -> None:
    path = write(tmp_path)
    prompt_R, sample_R = read_keys(path, facts_of())
    assert (prompt_R.tolist(), sample_R.tolist()) == ([3] * 4 + [5] * 4, [0, 1, 2, 3] * 2)
    notes = read_notes(path, facts_of())
    assert (notes.engine, notes.answers[:2], notes.grader_errors[2]) == ("vllm", [None, "1"], "too slow")


def test_without_log_probs_and_seeds(tmp_path: Path) -> None:
    facts = facts_of(has_logprobs=False, seed=None)
    path = write(tmp_path, [replace(one, logprobs=None, seed=None) for one in ROLLOUTS], facts)
    shard = read_shard(path, facts, IDS)
    assert shard.logprobs_N is None
    assert {*shard.seed_R.tolist()} == {-1}
    table = parquet.read_table(path)
    assert table["logprobs"].null_count == table["seed"].null_count == 8


@pytest.mark.parametrize(
    ("changed", "fragment"),
    [
        ({"prompt_id": 4}, "prompt 4 is not in the store's prompts"),
        ({"sample": -1}, "sample -1 is negative"),
        ({"token_ids": ids([50]), "logprobs": lps([0])}, "token id 50 is outside of the vocabulary of 50"),
        ({"token_ids": ids([-1]), "logprobs": lps([0])}, "token id -1 is outside"),
        ({"token_ids": ids([]), "logprobs": lps([])}, "a rollout has 0 tokens, not 1 to 6"),
        ({"token_ids": ids([1] * 7), "logprobs": lps([0] * 7)}, "a rollout has 7 tokens, not 1 to 6"),
        ({"logprobs": lps([0, np.nan, 0, 0])}, "a log-prob is not finite"),
        ({"logprobs": lps([0, -np.inf, 0, 0])}, "a log-prob is not finite"),
        ({"reward": np.inf}, "a reward is not finite"),
        ({"finish_reason": "length"}, "a finish reason does not fit the last token"),
    ],
)
def test_what_no_sampler_writes_is_refused(tmp_path: Path, changed: dict[str, Any], fragment: str) -> None:
    assert fragment in refusal(write(tmp_path, [replace(rollout(3, 0), **changed), rollout(5, 0)]))


def test_a_store_without_log_probs_takes_no_shard_with_them(tmp_path: Path) -> None:
    assert "has_logprobs is False against True" in refusal(write(tmp_path), facts_of(has_logprobs=False))


@pytest.mark.parametrize(
    ("changed", "fragment"),
    [
        (
            {"tokenizer_hash": "c" * 64},
            "belongs to another store: tokenizer_hash is " + "b" * 64 + " against " + "c" * 64,
        ),
        ({"seed": 8}, "seed is 7 against 8"),
        ({"weight_hash": "d"}, "weight_hash is "),
    ],
)
def test_a_shard_of_another_store_is_refused(tmp_path: Path, changed: dict[str, Any], fragment: str) -> None:
    path = write(tmp_path, ROLLOUTS, facts_of(**changed))
    assert fragment in refusal(path)
    with pytest.raises(UserError, match="belongs to another store"):
        read_keys(path, facts_of())


def rewritten(path: Path, **columns: Any) -> None:
    """Other columns under the metadata of the shard."""
    table = parquet.read_table(path)
    for name, values in columns.items():
        place = table.column_names.index(name) if name in table.column_names else None
        if values is None:
            table = table.remove_column(place)
        elif place is None:
            table = table.append_column(name, values)
        else:
            table = table.set_column(place, name, values)
    parquet.write_table(table, path)


@pytest.mark.parametrize(
    ("columns", "fragment"),
    [
        ({"prompt_id": pa.array([3] * 8, pa.int32())}, "column prompt_id is int64 against int32"),
        ({"seed": None}, "column seed is int64 against absent"),
        ({"more": pa.array([1] * 8)}, "column more is absent against int64"),
        ({"reward": pa.array([None] * 8, pa.float32())}, "8 rollouts have no reward"),
        ({"reward": pa.array([0.5] * 8, pa.float32())}, "its content is not what was written"),
        ({"finish_reason": pa.array(["why"] * 8)}, "unknown finish reason 'why'"),
        ({"logprobs": pa.array([[0.0]] * 8, pa.list_(pa.float32()))}, "row 0 has 4 tokens and 1 log-probs"),
        ({"logprobs": pa.array([None] * 8, pa.list_(pa.float32()))}, "what store.json says of log-probs"),
        ({"token_ids": pa.array([[None]] * 8, pa.list_(pa.int32()))}, "token_ids holds nulls"),
        ({"answer": pa.array(["other"] * 8)}, "its content is not what was written"),
    ],
)
def test_columns_that_are_not_a_shards_are_refused(tmp_path: Path, columns: dict[str, Any], fragment: str) -> None:
    path = write(tmp_path)
    rewritten(path, **columns)
    assert fragment in refusal(path)


def test_what_is_no_shard_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    path.write_bytes(b"{}")
    assert "cannot be read as parquet" in refusal(path)
    parquet.write_table(pa.table({"prompt": ["a"]}), path)
    assert "is no shard of a store" in refusal(path)
    parquet.write_table(parquet.read_table(write(tmp_path)).slice(0, 0), path)
    assert "its content is not what was written" in refusal(path)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, str]:
    path = write(tmp_path_factory.mktemp("flips"))
    return path, path.read_bytes(), read_shard(path, facts_of(), IDS).digest()


@given(data=st.data())
@settings(max_examples=300)
def test_a_damaged_file_is_refused_or_reads_the_same(content: tuple[Path, bytes, str], data: st.DataObject) -> None:
    path, whole, digest = content
    damaged = bytearray(whole)
    if data.draw(st.booleans(), "flip"):
        for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=3), "places"):
            damaged[place] ^= data.draw(st.integers(1, 255), "bits")
    else:
        del damaged[data.draw(st.integers(0, len(whole) - 1), "length") :]
    path.write_bytes(damaged)
    try:
        found = read_shard(path, facts_of(), IDS).digest()
    except UserError as error:
        found = str(error)
    assert found == digest or (found.startswith(str(path)) and "\n" not in found)


def test_the_longest_rollout_may_end_by_itself(tmp_path: Path) -> None:
    tokens = ids([1] * (LIMIT - 1) + [STOP])
    path = write(tmp_path, [replace(rollout(3, 0), token_ids=tokens, logprobs=lps([0] * LIMIT), finish_reason="stop")])
    assert read_shard(path, facts_of(), IDS).stopped_R.tolist() == [True]
