"""Benchmarks that a run is asked at every validation, each under its own mode, sampling and kind of answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from s2l_nemo.config.schema import AnswerKind, Config, RewardsConfig
from s2l_nemo.config.validation import ValidationSet, validation_sets
from s2l_nemo.data.benchmarks import load_benchmark
from s2l_nemo.data.chat import template_variables
from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.plan import make_plan
from s2l_nemo.evaluation.scoring import benchmark_grader
from s2l_nemo.models.open import Model
from s2l_nemo.trainer.grading import Grading
from s2l_nemo.types import Prompt, SamplingParams


@dataclass(frozen=True)
class SetPrompts:
    """A set as it was read: its problems as prompts, `samples` of each, and how to sample."""

    name: str
    benchmark: str
    answer: AnswerKind
    mode: str
    prompts: list[Prompt]
    samples: int
    params: SamplingParams


@dataclass(frozen=True)
class BenchmarkSet:
    """A set that can be graded."""

    asked: SetPrompts
    grading: Grading


def load_sets(cfg: Config, learner: Model) -> list[SetPrompts]:
    """Reads the benchmarks of `validation.sets`.

    Raises UserError if one is missing or malformed, or a prompt with its response does not fit into the engines.
    """
    return [_load(one, cfg, learner) for one in validation_sets(cfg)]


def graded_sets(
    sets: Sequence[SetPrompts], rewards: RewardsConfig, decode: Callable[[Sequence[int]], str]
) -> list[BenchmarkSet]:
    """The sets with a grader for each kind of answer."""
    gradings: dict[AnswerKind, Grading] = {}
    for one in sets:
        if one.answer not in gradings:
            gradings[one.answer] = Grading(decode, benchmark_grader(one.benchmark, rewards))
    return [BenchmarkSet(one, gradings[one.answer]) for one in sets]


def set_facts(sets: Sequence[SetPrompts]) -> dict[str, object]:
    """What a person sees of them at the start."""
    shown = [
        f"{one.name} ({len(one.prompts)} problems x {one.samples}, {one.mode}, {one.params.max_new_tokens} tokens)"
        for one in sets
    ]
    return {"validation": ", ".join(shown)} if shown else {}


def _load(one: ValidationSet, cfg: Config, learner: Model) -> SetPrompts:
    options = one.options
    benchmark = load_benchmark(
        one.benchmark, Path(cfg.validation.data), cfg.rewards.answer, options.limit, proofs=options.proofs
    )
    plan = make_plan(
        benchmark,
        learner,
        mode=options.mode,
        asking=options,
        variables=template_variables(cfg.data.chat_template_kwargs),
        k=options.k or cfg.validation.samples,
        room=cfg.rollout.max_prompt_length + cfg.rollout.max_response_length,
    )
    if options.max_tokens is not None and plan.params.max_new_tokens < options.max_tokens:
        raise UserError(
            f"{one.key}.max_tokens={options.max_tokens}: the longest prompt of {one.benchmark} leaves "
            f"{plan.params.max_new_tokens} tokens of rollout.max_prompt_length + rollout.max_response_length; lower "
            "it, or raise one of these"
        )
    prompts = [
        Prompt(problem.problem_id, problem.question, problem.gold, tokens)
        for problem, tokens in zip(benchmark.problems, plan.prompts, strict=True)
    ]
    return SetPrompts(one.name, one.benchmark, benchmark.answer, options.mode.value, prompts, plan.k, plan.params)
