from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from s2l_nemo.config.schema import DataConfig, PromptFormat
from s2l_nemo.data import token_cache
from s2l_nemo.data.chat import render, uses_template
from s2l_nemo.data.rows import Row
from s2l_nemo.errors import UserError

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]
CHAT, BASE = PromptFormat.chat, PromptFormat.base


def tokenize(
    questions: list[str],
    tokenizer: PreTrainedTokenizerFast,
    form: PromptFormat,
    system_prompt: str | None,
    cache_dir: Path | None,
) -> list[tuple[int, ...]]:
    """The tokens of questions, as `load_prompts` makes them."""
    data = DataConfig(format=form, system_prompt=system_prompt)
    texts = render([Row(0, question, "", 1) for question in questions], tokenizer, data)
    has_special_tokens = uses_template(data, tokenizer)
    return token_cache.tokenize(texts, tokenizer, has_special_tokens=has_special_tokens, cache_dir=cache_dir)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts were tokenised, each time."""
    counts: list[int] = []
    encode = token_cache._encode

    def counted(
        texts: list[str], tokenizer: PreTrainedTokenizerFast, has_special_tokens: bool
    ) -> list[tuple[int, ...]]:
        counts.append(len(texts))
        return encode(texts, tokenizer, has_special_tokens)

    monkeypatch.setattr(token_cache, "_encode", counted)
    return counts


def test_the_second_time_nothing_is_tokenised(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, encoded: list[int]
) -> None:
    questions = ["1+1?", "", "long " * 50]
    plain = tokenize(questions, tokenizer, CHAT, None, None)
    assert [tokenizer.decode(ids) for ids in plain] == [f"u>{question}|a>" for question in questions]
    folder = tmp_path / "new" / "cache"
    assert tokenize(questions, tokenizer, CHAT, None, folder) == plain
    assert tokenize(questions, tokenizer, CHAT, None, folder) == plain
    assert encoded == [3, 3]
    (file,) = folder.iterdir()
    flat = np.load(file, allow_pickle=False)
    assert flat.dtype == np.int32
    assert flat[:3].tolist() == [len(ids) for ids in plain]


def test_whatever_changes_the_tokens_is_another_entry(
    tmp_path: Path, make_tokenizer: MakeTokenizer, encoded: list[int]
) -> None:
    tokenizer = make_tokenizer()
    variants = [
        (["ab", "c"], tokenizer, CHAT, None),
        (["a", "bc"], tokenizer, CHAT, None),
        (["ab", "c"], tokenizer, CHAT, "Be brief."),
        (["ab", "c"], tokenizer, BASE, None),
        (["ab", "c"], make_tokenizer(alphabet="?|~abc>u"), CHAT, None),
        (["ab", "c"], make_tokenizer(chat_template="{{ messages[-1]['content'] }}"), CHAT, None),
    ]
    first = [tokenize(*variant, tmp_path) for variant in variants]
    assert len(encoded) == len(list(tmp_path.iterdir())) == len(variants)
    assert [tokenize(*variant, tmp_path) for variant in variants] == first
    assert first == [tokenize(*variant, None) for variant in variants]
    assert len(encoded) == 2 * len(variants)  # the uncached ones


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "append"])
def test_a_damaged_file_is_made_anew_with_a_note(
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
    encoded: list[int],
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = tokenize(["abc", "d"], tokenizer, CHAT, None, tmp_path)
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    flipped = bytes([*good[:140], good[140] ^ 1, *good[141:]])  # a token
    file.write_bytes({"flip": flipped, "cut": good[:-7], "empty": b"", "append": good + b"x"}[damage])
    with caplog.at_level(logging.WARNING):
        assert tokenize(["abc", "d"], tokenizer, CHAT, None, tmp_path) == expected
    assert f"{file} is damaged and is made anew" in caplog.text
    assert file.read_bytes() == good
    assert encoded == [2, 2]


@given(st.lists(st.text("abc ", max_size=6), min_size=1, max_size=5))
def test_cached_tokens_equal_fresh_ones(tmp_path_factory: pytest.TempPathFactory, questions: list[str]) -> None:
    from tests.character_tokenizer import character_tokenizer

    tokenizer, folder = character_tokenizer(), tmp_path_factory.getbasetemp() / "cache"
    fresh = tokenize(questions, tokenizer, BASE, None, None)
    assert tokenize(questions, tokenizer, BASE, None, folder) == fresh
    assert tokenize(questions, tokenizer, BASE, None, folder) == fresh


def test_base_format_ignores_the_template(tokenizer: PreTrainedTokenizerFast) -> None:
    (ids,) = tokenize(["1+1?"], tokenizer, BASE, None, None)
    assert tokenizer.decode(ids) == "1+1?"
    with pytest.raises(UserError, match=r"data\.system_prompt needs data\.format=chat"):
        tokenize(["1+1?"], tokenizer, BASE, "Be brief.", None)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot use data\.cache_dir=.*file: .*; choose another folder"):
        tokenize(["a"], tokenizer, BASE, None, tmp_path / "file")
