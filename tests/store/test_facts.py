"""store.json: what it takes, and how a difference is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.errors import UserError
from s2l_nemo.store.facts import difference, facts_of_json, hash_prompts, read_facts, write_facts
from s2l_nemo.store.prompts import prompt_difference, read_prompts, write_prompts
from s2l_nemo.types import Prompt, SamplingParams
from tests.store.stores import PROMPTS, facts_of


def test_facts_come_back(tmp_path: Path) -> None:
    facts = facts_of(sampling=SamplingParams(5, (2, 9), 0.5, 0.9, 20, 1.5))
    write_facts(tmp_path, facts)
    assert read_facts(tmp_path) == facts
    assert json.loads((tmp_path / "store.json").read_text())["sampling"] == {
        "max_response_length": 5, "stop_token_ids": [2, 9], "temperature": 0.5, "top_p": 0.9, "top_k": 20,
        "presence_penalty": 1.5,
    }  # fmt: skip


def test_path_and_versions_are_no_identity() -> None:
    assert facts_of(model="elsewhere", versions={}).identity() == facts_of().identity()
    assert "sampling.temperature" in facts_of().identity()


@pytest.mark.parametrize(
    ("changed", "fragment"),
    [
        ({"format": 2}, "format 2, this version reads format 1"),
        ({"seed": "7"}, "seed missing, unknown or of a wrong type"),
        ({"seed": True}, "seed missing"),
        ({"prompts": None}, "prompts missing"),
        ({"more": 1}, "more missing, unknown"),
        ({"sampling": {}}, "sampling: max_response_length, presence_penalty, stop_token_ids"),
        ({"sampling": 3}, "sampling missing"),
        ({"has_logprobs": 1}, "has_logprobs missing"),
    ],
)
def test_wrong_facts_are_named(changed: dict[str, Any], fragment: str) -> None:
    with pytest.raises(UserError) as caught:
        facts_of_json({**facts_of().to_json(), **changed}, Path("some/store.json"))
    assert str(caught.value).startswith("some/store.json: ")
    assert fragment in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "store.json").write_bytes(content)
    with pytest.raises(UserError, match=r"store\.json"):
        read_facts(tmp_path)


def test_a_folder_without_facts_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no store of rollouts: it has no store\.json"):
        read_facts(tmp_path)


def test_differences_are_named() -> None:
    assert difference({"a": 1, "b": 2}, {"a": 1, "b": 2}) is None
    assert difference({"a": 1, "b": 2}, {"b": 3, "a": 1}) == "b is 2 against 3"
    assert difference({"a": None}, {}) == "a is None against absent"
    assert difference({}, {"c": 0}) == "c is absent against 0"


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt_id": 4}, {"text": "question 3!"}, {"answer": "30"}, {"token_ids": (3, 21)}, {"token_ids": (3,)},
        {"text": "question", "answer": " 33"},
    ],
)  # fmt: skip
def test_every_part_of_a_prompt_counts(changed: dict[str, Any]) -> None:
    other = [replace(PROMPTS[0], **changed), *PROMPTS[1:]]
    assert hash_prompts(other) != hash_prompts(PROMPTS)
    assert prompt_difference(PROMPTS, other) is not None


def test_the_order_of_prompts_does_not_count() -> None:
    assert hash_prompts(PROMPTS[::-1]) == hash_prompts(PROMPTS)
    assert prompt_difference(PROMPTS, PROMPTS[1:]) is None


def test_the_difference_of_prompts_in_words() -> None:
    new = Prompt(4, "new", "4", (4,))
    assert prompt_difference(PROMPTS, [new]) == "prompt 4 of the run ('new') is not among its 3 prompts"
    assert prompt_difference(PROMPTS, [replace(PROMPTS[1], answer="6")]) == (
        "prompt 5 has answer '6' in the run and '5' in the store"
    )


def test_prompts_come_back_in_order(tmp_path: Path) -> None:
    write_prompts(tmp_path, PROMPTS[::-1])
    assert list(read_prompts(tmp_path, facts_of())) == PROMPTS


def test_other_prompts_than_the_facts_say_are_refused(tmp_path: Path) -> None:
    write_prompts(tmp_path, PROMPTS[1:])
    with pytest.raises(UserError, match=r"prompts\.parquet has other prompts than store\.json says"):
        list(read_prompts(tmp_path, facts_of()))
    (tmp_path / "prompts.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"prompts\.parquet cannot be read"):
        list(read_prompts(tmp_path, facts_of()))
