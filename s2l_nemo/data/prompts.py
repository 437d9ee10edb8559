"""Makes prompts of the rows of a task, a file or a hub data set: applies the chat template and the length limit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_nemo.config.mix import DataSource, source_at, training_sources
from s2l_nemo.config.schema import DataConfig, Extract, Task
from s2l_nemo.data import arithmetic, word_problems
from s2l_nemo.data.arithmetic import Split
from s2l_nemo.data.chat import count_unasked, render, uses_template
from s2l_nemo.data.reasoning_gym import ReasoningGymTask
from s2l_nemo.data.rows import Row, Rows, read_rows
from s2l_nemo.data.sources import BadRow
from s2l_nemo.data.token_cache import tokenize
from s2l_nemo.errors import UserError
from s2l_nemo.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class PromptSet:
    """Prompts that fit the length limit, in source order.

    `filtered` is the number of prompts that were too long. `skipped` is the number of malformed rows that
    `data.on_bad_row=skip` left out. `unasked` is the number of prompts that do not ask for an answer in a place,
    neither themselves nor with system message, instruction and chat template (`chat.count_unasked`).
    """

    prompts: list[Prompt]
    filtered: int
    skipped: list[BadRow] = field(default_factory=list)
    unasked: Mapping[Extract, int] = field(default_factory=dict)

    def left_out(self, limit: int) -> str:
        """What is not among the prompts and why, in words that follow their number. `limit` is in tokens."""
        text = f", {self.filtered} over {limit} tokens left out" if self.filtered else ""
        if self.skipped:
            worst = "; ".join(f"line {row.line}: {row.reason}" for row in self.skipped[:3])
            text += f", {len(self.skipped)} malformed rows left out ({worst})"
        return text


def load_prompts(
    data: DataConfig,
    tokenizer: PreTrainedTokenizerFast,
    max_prompt_length: int,
    split: Split,
    count: int | None = None,
    read: Rows | None = None,
) -> PromptSet:
    """The first `count` prompts of a split (all by default), without those over `max_prompt_length` tokens.

    `prompt_id` is the row in the source; with several sources it counts the rows of all. If the source is generated,
    "all" means `train_prompts` in either split, and the ids of held-out prompts follow those of training prompts.
    A prompt's text is the question with its choices, its tokens are those of `chat.render`. They come from
    `data.cache_dir` if they are there. `read` is what `read_split` has returned; None: it is called here.

    Raises UserError if the source is missing or malformed, or if no prompt is left.
    """
    read = read or read_split(data, split, count)
    rows = read.rows
    texts = render(rows, tokenizer, data)
    cache = None if data.cache_dir is None else Path(data.cache_dir)
    token_ids = tokenize(texts, tokenizer, has_special_tokens=uses_template(data, tokenizer), cache_dir=cache)
    left = [index for index, ids in enumerate(token_ids) if len(ids) <= max_prompt_length]
    if not left:
        why = f"all {len(rows)} are longer than rollout.max_prompt_length={max_prompt_length} tokens; raise it"
        raise UserError(f"no {split} prompts from {_named(data, split)}: {why}")
    prompts = [Prompt(rows[index].row, rows[index].question, rows[index].answer, token_ids[index]) for index in left]
    return PromptSet(prompts, len(rows) - len(left), read.skipped, count_unasked(texts[index] for index in left))


def read_split(data: DataConfig, split: Split, count: int | None = None) -> Rows:
    """The rows of the first `count` prompts of a split, without a tokenizer.

    Raises UserError if the source is missing or malformed, or has no usable row.
    """
    rows, skipped = _rows(data, split, count)
    if not rows:
        malformed = f"all {len(skipped)} rows are malformed, the first at line " if skipped else ""
        why = f"{malformed}{skipped[0].line}: {skipped[0].reason}" if skipped else "it has none"
        raise UserError(f"no {split} prompts from {_named(data, split)}: {why}")
    return Rows(rows, skipped)


def _named(data: DataConfig, split: Split) -> str:
    return ", ".join(source.path for source in _sources(data, split)) or f"task {data.task.value}"


def _sources(data: DataConfig, split: Split) -> list[DataSource]:
    """The sources of a split; none if prompts are generated. Raises UserError if the other split alone has any."""
    training = training_sources(data)
    held_out = [] if data.valid_path is None else [source_at(data.valid_path, data)]
    sources = training if split == "train" else held_out
    if not sources and (training or held_out):
        raise UserError(f"no {split} prompts: set both data.path and data.valid_path")
    return sources


def _rows(data: DataConfig, split: Split, count: int | None) -> tuple[list[Row], list[BadRow]]:
    """The first `count` questions of a split with their answers, and the malformed rows that were left out.

    Raises UserError if the source is missing or malformed.
    """
    if sources := _sources(data, split):
        return _read(sources, data, count)
    if data.task is Task.reasoning_gym:
        generated = ReasoningGymTask(data.reasoning_gym).rows(split)
    elif data.task is Task.word_problems:
        generated = _word_problem_rows(data, split, count)
    else:
        generated = _arithmetic_rows(data, split, count)
    return [Row(row, question, answer, row + 1) for row, question, answer in islice(generated, count)], []


def _read(sources: Sequence[DataSource], data: DataConfig, count: int | None) -> tuple[list[Row], list[BadRow]]:
    if len(sources) == 1 and sources[0].weight == 1:
        read = read_rows(sources[0], data.on_bad_row, count)
        return read.rows, read.skipped
    rows: list[Row] = []
    skipped: list[BadRow] = []
    for source in sources:
        read = read_rows(source, data.on_bad_row)
        rows += weighted(read.rows, source.weight)
        skipped += [BadRow(bad.line, f"{source.path}: {bad.reason}") for bad in read.skipped]
    return [replace(row, row=number) for number, row in enumerate(rows[:count])], skipped


def weighted(rows: Sequence[Row], weight: float) -> list[Row]:
    """Every row as often as the whole part of `weight` says. Its fraction is that of the rows that come once more.

    Those are spread evenly: 1.5 repeats every other row.
    """
    exact = Fraction(str(weight))
    return [row for index, row in enumerate(rows) for _ in range(int(exact * (index + 1)) - int(exact * index))]


def _arithmetic_rows(data: DataConfig, split: Split, count: int | None) -> Iterator[tuple[int, str, str]]:
    config = data.arithmetic
    total = config.train_prompts if count is None or split == "train" else count
    first = 0 if split == "train" else config.train_prompts
    generated = arithmetic.questions(split, total, config.digits, config.terms, config.seed)
    for row, terms in enumerate(generated, start=first):
        yield row, arithmetic.question_text(terms), arithmetic.answer(terms)


def _word_problem_rows(data: DataConfig, split: Split, count: int | None) -> Iterator[tuple[int, str, str]]:
    config = data.word_problems
    total = config.train_prompts if count is None or split == "train" else count
    first = 0 if split == "train" else config.train_prompts
    generated = word_problems.questions(split, total, config.largest, config.seed, word_problems.OF_SET[config.kinds])
    for row, (question, answer) in enumerate(generated, start=first):
        yield row, question, answer
