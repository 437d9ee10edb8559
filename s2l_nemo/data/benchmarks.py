r"""Reads benchmark files, one problem a line, and makes prompts of the problems.

A problem is `{"question", "answer"}`, or one of multiple choice
`{"question", "choices": {"label": [...], "text": [...]}, "answerKey"}`; other fields are allowed. If a question of
multiple choice lists its choices itself, its `answer` is the letter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from s2l_nemo.config.schema import AnswerKind
from s2l_nemo.data.choices import LETTER, find_choices
from s2l_nemo.data.normalize import strip_wrapper
from s2l_nemo.data.rows import answer_of, lookup, question_of
from s2l_nemo.data.sources import BadRow, Record, read_records
from s2l_nemo.errors import UserError
from s2l_nemo.hub.files import listed_file

INSTRUCTIONS = {
    AnswerKind.math: r"Please reason step by step, and put your final answer within \boxed{}.",
    AnswerKind.choice: r"Please reason step by step, and put the letter of your final answer within \boxed{}.",
    AnswerKind.exact: r"Please reason step by step, and put your final answer within \boxed{}.",
}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_FIELDS = "the field (tools/prepare_data.py --format benchmark renames it)"


@dataclass(frozen=True)
class Problem:
    """One problem. `prompt` goes into the chat template: the question, its choices if any, and the instruction.

    `problem_id` is its number in the file, from 0.
    """

    problem_id: int
    question: str
    gold: str
    prompt: str


@dataclass(frozen=True)
class Benchmark:
    """A set of problems, how their answers are graded and how many tokens a response may have."""

    name: str
    answer: AnswerKind
    max_tokens: int
    problems: tuple[Problem, ...]
    samples: int = 16  # of each problem
    subset: str | None = None  # which of the file's problems these are; None: all


class BenchmarkKind(NamedTuple):
    """What the answers of a benchmark are, how many tokens a response may have, and how many samples a problem."""

    answer: AnswerKind
    max_tokens: int
    samples: int = 16


# Response tokens and samples as in the paper's released evaluation.
BENCHMARKS: dict[str, BenchmarkKind] = {
    "aime24": BenchmarkKind(AnswerKind.math, 38_912),
    "aime25": BenchmarkKind(AnswerKind.math, 38_912),
    "math500": BenchmarkKind(AnswerKind.math, 32_768),
    "olympiadbench": BenchmarkKind(AnswerKind.math, 32_768),
    "commonsenseqa": BenchmarkKind(AnswerKind.choice, 8_192, 4),
}
_OTHER_MAX_TOKENS = 32_768
PROOF = "TP_"  # what the `source` of OlympiadBench's problems to prove begins with


def benchmark_kind(name: str, other: AnswerKind) -> BenchmarkKind:
    """What a benchmark is. A name that is none of the paper's has the answers that `other` says (`rewards.answer`)."""
    return BENCHMARKS.get(name, BenchmarkKind(other, _OTHER_MAX_TOKENS))


def load_benchmark(
    name: str, folder: Path, other: AnswerKind, limit: int | None = None, *, proofs: bool = True
) -> Benchmark:
    """The first `limit` problems (all by default) of `folder/name.jsonl`, those to prove among them if `proofs`.

    The folder may be a data set of the hub. `other` is as in `benchmark_kind`.

    Raises UserError if the file is missing or empty, or if a problem is malformed. It names the file and the line.
    """
    path = listed_file(folder, f"{name}.jsonl")
    if not _NAME.fullmatch(name) or not path.is_file():
        raise UserError(
            f"no benchmark {name!r}: there is no {path}; known are {', '.join(BENCHMARKS)}, and any file of "
            "question and answer in that folder; make it with tools/prepare_data.py --format benchmark, or set "
            "evaluate.data"
        )
    answer, max_tokens, samples = benchmark_kind(name, other)
    problems: list[Problem] = []
    left_out = total = 0
    for line, record in read_records(str(path)):
        total += 1
        if isinstance(record, BadRow):
            raise UserError(f"{path}:{line}: {record.reason}")
        is_proof = str(record.get("source", "")).startswith(PROOF)
        left_out += is_proof and not proofs
        if (is_proof and not proofs) or len(problems) == limit:
            continue
        try:
            problems.append(make_problem(total - 1, record, answer))
        except ValueError as error:
            raise UserError(f"{path}:{line}: {error}") from error
    if not problems:
        raise UserError(f"{path} has no problems: write one JSON object a line")
    subset = _subset(len(problems), total, left_out)
    return Benchmark(name, answer, max_tokens, tuple(problems), samples, subset)


def _subset(kept: int, total: int, proofs: int) -> str | None:
    """In words, for results: `674 of 1,177, without proofs`."""
    if kept == total:
        return None
    first = ", the first" if kept < total - proofs else ""
    return f"{kept:,} of {total:,}{first}{', without proofs' if proofs else ''}"


def make_problem(problem_id: int, record: Record, answer: AnswerKind) -> Problem:
    """The problem that a record of a benchmark file holds. Raises ValueError if it is malformed."""
    question = question_of(lookup(record, "question", _FIELDS), "question")
    if answer is AnswerKind.choice and {"choices", "answerKey"} & record.keys():
        value = lookup(record, "answerKey", _FIELDS)
        answer_of(value, "answerKey")
        lookup(record, "choices", _FIELDS)
        choices = find_choices(record, value, "answerKey")
        if choices is None:
            raise ValueError("'choices' is empty; correct the row")
        return Problem(
            problem_id, question, choices.gold, f"{question}\n\n{choices.listed()}\n\n{INSTRUCTIONS[answer]}"
        )
    gold = answer_of(lookup(record, "answer", _FIELDS), "answer")
    if answer is AnswerKind.choice and not LETTER.fullmatch(gold.strip().upper()):
        raise ValueError(f"'answer' must be the letter of a choice, not {gold!r}; correct the row, or rewards.answer")
    return Problem(problem_id, question, gold, f"{question}\n\n{INSTRUCTIONS[answer]}")


def benchmark_record(record: Record, prompt_key: str, answer_key: str) -> Record:
    """A record of any data set, in the fields of a benchmark file, without an instruction on how to answer.

    Raises ValueError if it holds no problem.
    """
    question = question_of(lookup(record, prompt_key, "--prompt-key"), prompt_key)
    bare = strip_wrapper(question)
    question = question if bare == question.strip() else bare
    value = lookup(record, answer_key, "--answer-key")
    answer = answer_of(value, answer_key)
    choices = find_choices(record, value, answer_key)
    if choices is None:
        return {"question": question, "answer": answer}
    listed = {"label": list(choices.texts), "text": list(choices.texts.values())}
    return {"question": question, "choices": listed, "answerKey": choices.gold}
