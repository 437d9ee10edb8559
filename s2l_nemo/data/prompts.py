"""Makes prompts of the rows of a task, a file or a hub data set: applies the chat template and the length limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_nemo.config.schema import DataConfig, Task
from s2l_nemo.data import arithmetic
from s2l_nemo.data.arithmetic import Split
from s2l_nemo.data.reasoning_gym import ReasoningGymTask
from s2l_nemo.data.rows import read_rows
from s2l_nemo.data.sources import BadRow
from s2l_nemo.data.token_cache import tokenize
from s2l_nemo.errors import UserError
from s2l_nemo.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NumberedQuestion = tuple[int, str, str]  # row in the data set, question, answer


@dataclass(frozen=True)
class PromptSet:
    """Prompts that fit the length limit, in source order.

    `filtered` is the number of prompts that were too long. `skipped` is the number of malformed rows that
    `data.on_bad_row=skip` left out.
    """

    prompts: list[Prompt]
    filtered: int
    skipped: list[BadRow] = field(default_factory=list)


def load_prompts(
    data: DataConfig,
    tokenizer: PreTrainedTokenizerFast,
    max_prompt_length: int,
    split: Split,
    count: int | None = None,
) -> PromptSet:
    """The first `count` prompts of a split (all by default), without those over `max_prompt_length` tokens.

    `prompt_id` is the row in the source. If the source is generated, "all" means `train_prompts` in either split, and
    the ids of held-out prompts follow those of training prompts. Tokens come from `data.cache_dir` if they are there.

    Raises UserError if the source is missing or malformed, or if no prompt is left.
    """
    rows, skipped = _rows(data, split, count)
    texts = [text for _, text, _ in rows]
    cache = None if data.cache_dir is None else Path(data.cache_dir)
    token_ids = tokenize(texts, tokenizer, data.format, data.system_prompt, cache)
    prompts = [
        Prompt(prompt_id, text, answer, ids)
        for (prompt_id, text, answer), ids in zip(rows, token_ids, strict=True)
        if len(ids) <= max_prompt_length
    ]
    if not prompts:
        source = (data.path if split == "train" else data.valid_path) or f"task {data.task.value}"
        raise UserError(f"no {split} prompts from {source}: {_why_none(len(rows), skipped, max_prompt_length)}")
    return PromptSet(prompts, len(rows) - len(prompts), skipped)


def _why_none(rows: int, skipped: list[BadRow], max_prompt_length: int) -> str:
    if rows:
        return f"all {rows} are longer than rollout.max_prompt_length={max_prompt_length} tokens; raise it"
    if skipped:
        return f"all {len(skipped)} rows are malformed, the first at line {skipped[0].line}: {skipped[0].reason}"
    return "it has none"


def _rows(data: DataConfig, split: Split, count: int | None) -> tuple[list[NumberedQuestion], list[BadRow]]:
    if data.path is not None or data.valid_path is not None:
        path = data.path if split == "train" else data.valid_path
        if path is None:
            raise UserError(f"no {split} prompts: set both data.path and data.valid_path")
        read = read_rows(path, data.prompt_key, data.answer_key, data.on_bad_row, count)
        return [(row.row, row.question, row.answer) for row in read.rows], read.skipped
    if data.task is Task.reasoning_gym:
        return list(islice(ReasoningGymTask(data.reasoning_gym).rows(split), count)), []
    return list(islice(_arithmetic_rows(data, split, count), count)), []


def _arithmetic_rows(data: DataConfig, split: Split, count: int | None) -> Iterator[NumberedQuestion]:
    config = data.arithmetic
    total = config.train_prompts if count is None or split == "train" else count
    first = 0 if split == "train" else config.train_prompts
    generated = arithmetic.questions(split, total, config.digits, config.terms, config.seed)
    for row, terms in enumerate(generated, start=first):
        yield row, arithmetic.question_text(terms), arithmetic.answer(terms)
