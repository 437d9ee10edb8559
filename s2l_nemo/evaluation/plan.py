"""What is asked of a model: prompts of a benchmark as tokens, and how to sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from typing_extensions import assert_never

from s2l_nemo.config.asking import Asking, Mode, PromptStyle
from s2l_nemo.config.schema import AnswerKind
from s2l_nemo.data.benchmarks import INSTRUCTIONS, Benchmark, Problem
from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.modes import settings
from s2l_nemo.models.open import Model
from s2l_nemo.types import SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SWITCH = {Mode.nothink: "/no_think", Mode.think: "/think"}  # Qwen3 reads them in the user's turn
RELEASED_CHOICE = "Answer with only the letter (A, B, C, D, or E)."


@dataclass(frozen=True)
class Plan:
    """The benchmark, its prompts as tokens, `k` samples of each, and how to sample."""

    benchmark: Benchmark
    prompts: list[tuple[int, ...]]
    k: int
    params: SamplingParams


def make_plan(
    benchmark: Benchmark,
    model: Model,
    *,
    mode: Mode,
    asking: Asking,
    variables: Mapping[str, Any],
    k: int | None,
    room: int | None = None,
) -> Plan:
    """Prompts go through the chat template, which gets `variables` and `enable_thinking`, the mode's own.

    Without a template they stay as they are.

    `k`: None stands for the benchmark's. A response has at most `asking.max_tokens` (None: the benchmark's), and no
    more than the longest prompt leaves of `room` tokens (None: the model's positions). Raises UserError if that prompt
    leaves none.
    """
    texts = [asked(one, benchmark.answer, asking.prompt, mode) for one in benchmark.problems]
    prompts = encode(texts, model.tokenizer, {**variables, "enable_thinking": mode is Mode.think})
    positions, longest = model.shape.max_positions if room is None else room, max(map(len, prompts))
    if longest >= positions:
        whose = "the model's" if room is None else "the engine's"
        raise UserError(
            f"benchmarks={benchmark.name}: a prompt of {longest} tokens leaves no room for a response in {whose} "
            f"{positions} positions; choose another model or leave the benchmark out"
        )
    limit = min(asking.max_tokens or benchmark.max_tokens, positions - longest)
    how = settings(mode, asking)
    return Plan(benchmark, prompts, k or benchmark.samples, SamplingParams(limit, model.stop_token_ids, **asdict(how)))


def encode(texts: list[str], tokenizer: PreTrainedTokenizerFast, variables: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """Each text as the user's turn, as tokens."""
    if tokenizer.chat_template is None:
        encoded = tokenizer(texts)["input_ids"]
    else:
        chats = [[{"role": "user", "content": text}] for text in texts]
        # a template that does not know a variable ignores it
        encoded = tokenizer.apply_chat_template(chats, add_generation_prompt=True, **variables)
    return [tuple(tokens) for tokens in encoded]


def asked(problem: Problem, answer: AnswerKind, style: PromptStyle, mode: Mode) -> str:
    """The text of a problem, choices included, and what this style adds to it."""
    plain = problem.prompt.removesuffix(INSTRUCTIONS[answer]).rstrip()
    match style:
        case PromptStyle.boxed:
            return problem.prompt
        case PromptStyle.plain:
            return plain
        case PromptStyle.released:
            letter = f"\n{RELEASED_CHOICE}" if answer is AnswerKind.choice else ""
            return f"{plain}{letter} {SWITCH[mode]}"
        case _:
            assert_never(style)
