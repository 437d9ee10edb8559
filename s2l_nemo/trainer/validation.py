"""pass@1 on held-out prompts with the learner's engine. The same seeds every time, so that differences are paired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2l_nemo.algorithm.groups import mixed_requests
from s2l_nemo.files import write_json_atomic
from s2l_nemo.measures.statistics import bootstrap_mean
from s2l_nemo.trainer.rollouts import Rollouts
from s2l_nemo.types import Prompt, SamplingParams

Correct = list[list[float]]  # correct_PK: reward of sample k of problem p


@dataclass(frozen=True)
class Validation:
    """Rewards of one validation, and how many of its checks failed: those samples count as wrong."""

    correct_PK: Correct
    grader_errors: int


def validate(
    rollouts: Rollouts,
    prompts: Sequence[Prompt],
    *,
    samples: int,
    params: SamplingParams,
    run_seed: int,
) -> Validation:
    """Rewards of `samples` completions of every prompt. Collective."""
    # training steps count from 1, so step 0 gives seeds of its own
    _, requests = mixed_requests(prompts, explorer=0, learner=samples, step=0, run_seed=run_seed)
    sampler = rollouts.sampler
    completions = rollouts.sample([], requests, params)
    graded = sampler.exchange(sampler.grade(completions, {prompt.prompt_id: prompt for prompt in prompts}))
    rewards = {(completion.prompt_id, completion.sample_id): completion.reward for completion in graded}
    correct_PK = [[float(rewards[prompt.prompt_id, k] or 0.0) for k in range(samples)] for prompt in prompts]
    return Validation(correct_PK, sum(completion.grader_error is not None for completion in graded))


def validation_metrics(validation: Validation | None) -> dict[str, float | int | None]:
    """pass@1 with its 95 % bootstrap interval over problems; all None at a step without a validation."""
    mean, low, high = (None, None, None) if validation is None else bootstrap_mean(validation.correct_PK)
    return {
        "validation/pass@1": mean,
        "validation/pass@1_low": low,
        "validation/pass@1_high": high,
        "validation/grader_errors": None if validation is None else validation.grader_errors,
    }


def write_validation(folder: Path, step: int, validation: Validation, prompts: Sequence[Prompt]) -> None:
    """One file a validation: the prompts' ids and what each sample was worth."""
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "step": step,
        "prompt_ids": [prompt.prompt_id for prompt in prompts],
        "correct": validation.correct_PK,
        "grader_errors": validation.grader_errors,
    }
    write_json_atomic(folder / f"step_{step:06d}.json", content)
