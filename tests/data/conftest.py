"""A tokenizer of single characters with a chat template, and a scripted stand-in for reasoning-gym."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tests.character_tokenizer import character_tokenizer


@pytest.fixture(name="tokenizer")
def _tokenizer() -> PreTrainedTokenizerFast:
    return character_tokenizer()


@pytest.fixture
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    return character_tokenizer


class Dataset:
    """Items count upwards from the seed."""

    def __init__(self, size: int, seed: int, modulo: int) -> None:
        self.size, self.seed, self.modulo = size, seed, modulo

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.size:
            raise IndexError(index)
        value = (self.seed + index) % self.modulo
        answer = None if value == 0 else str(value)
        return {"question": f"Say {value}", "answer": answer, "metadata": {"value": value}}

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        if answer == str(entry["metadata"]["value"]):
            return 1.0
        return 0.5 if answer is not None and answer.isdigit() else 0.0


def create_dataset(name: str, *, size: int, seed: int, modulo: int = 1000) -> Dataset:
    if name != "say":
        raise ValueError(f"Dataset '{name}' not registered")
    assert modulo > 0, "modulo must be positive"
    return Dataset(size, seed, modulo)


@pytest.fixture
def fake_reasoning_gym(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("reasoning_gym")
    module.create_dataset = create_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "reasoning_gym", module)
