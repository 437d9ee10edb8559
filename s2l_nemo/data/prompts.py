"""Prompt sets: rows of a task or a JSONL file, through the chat template and the length filter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_nemo.config.schema import DataConfig, Task
from s2l_nemo.data import arithmetic
from s2l_nemo.data.arithmetic import Split
from s2l_nemo.data.reasoning_gym import ReasoningGymTask
from s2l_nemo.errors import UserError
from s2l_nemo.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Row = tuple[int, str, str]  # row in the data set, question, answer


@dataclass(frozen=True)
class PromptSet:
    """Prompts that fit the limit, in source order, and how many were longer and left out."""

    prompts: list[Prompt]
    filtered: int


def load_prompts(
    data: DataConfig,
    tokenizer: PreTrainedTokenizerFast,
    max_prompt_length: int,
    split: Split,
    count: int | None = None,
) -> PromptSet:
    """The first `count` prompts of a split (all of them by default), less those over `max_prompt_length` tokens.

    `prompt_id` is the row in the source. Where the source is generated, "all" is its `train_prompts`, for either split,
    and held-out ids continue after the training ids.

    Raises UserError where the source is missing or malformed, or no prompt remains.
    """
    rows = list(islice(_rows(data, split, count), count))
    texts = [text for _, text, _ in rows]
    prompts = [
        Prompt(prompt_id, text, answer, tuple(token_ids))
        for (prompt_id, text, answer), token_ids in zip(rows, _encode(texts, data, tokenizer), strict=True)
        if len(token_ids) <= max_prompt_length
    ]
    if not prompts:
        source = (data.path if split == "train" else data.valid_path) or f"task {data.task.value}"
        raise UserError(
            f"no {split} prompts from {source}: it has none"
            if not rows
            else f"no {split} prompts from {source}: all {len(rows)} are longer than rollout.max_prompt_length="
            f"{max_prompt_length} tokens; raise it"
        )
    return PromptSet(prompts, filtered=len(rows) - len(prompts))


def _rows(data: DataConfig, split: Split, count: int | None) -> Iterator[Row]:
    if data.path is not None or data.valid_path is not None:
        path = data.path if split == "train" else data.valid_path
        if path is None:
            raise UserError(f"no {split} prompts: set both data.path and data.valid_path")
        return _jsonl_rows(Path(path), data.prompt_key, data.answer_key)
    if data.task is Task.reasoning_gym:
        return ReasoningGymTask(data.reasoning_gym).rows(split)
    return _arithmetic_rows(data, split, count)


def _arithmetic_rows(data: DataConfig, split: Split, count: int | None) -> Iterator[Row]:
    config = data.arithmetic
    total = config.train_prompts if count is None or split == "train" else count
    first = 0 if split == "train" else config.train_prompts
    generated = arithmetic.questions(split, total, config.digits, config.terms, config.seed)
    for row, terms in enumerate(generated, start=first):
        yield row, arithmetic.question_text(terms), arithmetic.answer(terms)


def _jsonl_rows(path: Path, prompt_key: str, answer_key: str) -> Iterator[Row]:
    try:
        lines = path.open("rb")
    except OSError as error:
        raise UserError(
            f"cannot read prompts from {path}: {error.strerror}; correct data.path or data.valid_path"
        ) from error
    with lines:
        for row, line in enumerate(lines):
            if line.strip():
                yield row, *_parse(line, f"{path}:{row + 1}", prompt_key, answer_key)


def _parse(line: bytes, where: str, prompt_key: str, answer_key: str) -> tuple[str, str]:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 at byte {error.start} of the line; convert the file to UTF-8") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON ({error.msg} at column {error.colno}); one object a line") from error
    if not isinstance(record, dict):
        raise UserError(f"{where}: a JSON {type(record).__name__} instead of an object with {prompt_key!r}")
    for key, name in ((prompt_key, "data.prompt_key"), (answer_key, "data.answer_key")):
        if key not in record:
            raise UserError(f"{where}: no key {key!r}, there are {sorted(record)}; set {name}")
    prompt, answer = record[prompt_key], record[answer_key]
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError(f"{where}: {prompt_key!r} must be a non-empty string, not {prompt!r}")
    if isinstance(answer, bool) or not isinstance(answer, str | int):
        raise UserError(f"{where}: {answer_key!r} must be a string or an integer, not {answer!r}")
    return prompt, str(answer)


def _encode(texts: list[str], data: DataConfig, tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    if not texts:
        return []
    if tokenizer.chat_template is None:  # a base model: the raw text
        if data.system_prompt is not None:
            raise UserError("data.system_prompt needs a tokenizer with a chat template: set it to null")
        return tokenizer(texts)["input_ids"]
    system = [] if data.system_prompt is None else [{"role": "system", "content": data.system_prompt}]
    chats = [[*system, {"role": "user", "content": text}] for text in texts]
    return tokenizer.apply_chat_template(chats, add_generation_prompt=True)
