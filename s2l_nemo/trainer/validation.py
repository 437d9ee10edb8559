"""pass@1 on held-out prompts, sampled by the learner's engine.

Every validation of a run uses the same seeds, so that differences between two of them are paired.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from s2l_nemo.algorithm.groups import assemble_groups, explorers_first, requests_of
from s2l_nemo.errors import UserError
from s2l_nemo.files import read_json_object, write_json_atomic
from s2l_nemo.measures.statistics import Interval, bootstrap_mean
from s2l_nemo.trainer.exchange import StepGroups
from s2l_nemo.trainer.grading import Grading, check_graded
from s2l_nemo.trainer.rollouts import Ask, Rollouts
from s2l_nemo.types import Prompt, SamplingParams, Source

Correct = list[list[float]]  # correct_PK: reward of sample k of problem p
SEED_STEP = 0  # training steps count from 1, so validation has seeds of its own


@dataclass(frozen=True)
class Validation:
    """Rewards of one validation, and how many checks failed. The samples of failed checks are worth 0.

    `sets` holds the same of the benchmarks in `validation.sets`. `asked` is what two validations must share to be
    compared: see `asked_of`.
    """

    correct_PK: Correct
    grader_errors: int
    truncated_fraction: float = 0.0  # of the samples
    sets: Mapping[str, Validation] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)
    why_failed: str | None = None  # the reason of the first check that failed


def validate(
    rollouts: Rollouts,
    prompts: Sequence[Prompt],
    *,
    samples: int,
    params: SamplingParams,
    run_seed: int,
    grading: Grading | None = None,
) -> Validation:
    """Samples `samples` completions of every prompt with the learner's present weights, and grades them. Collective.

    `grading`: None stands for the training's. Raises UserError if all checks fail.
    """
    sources = explorers_first(0, samples)
    requests = requests_of(prompts, [sources] * len(prompts), step=SEED_STEP, run_seed=run_seed, drawn={})
    ranks = rollouts.ranks
    replicas = len(set(ranks.replica_of))
    own_prompts, graded = rollouts.graded(
        [Ask(Source.LEARNER, requests[Source.LEARNER], params)],
        prompts,
        lambda tokens_P: [p % replicas for p in range(len(tokens_P))],
        grading=grading,
    )
    planned = {prompt.prompt_id: sources for prompt in prompts}
    own = assemble_groups(own_prompts, graded, sources=planned, learner_version=rollouts.version)
    groups = StepGroups.gather(ranks, prompts, own)
    check_graded("a validation", groups)
    truncated = groups.truncated_PG.double().mean().item()
    return Validation(
        groups.reward_PG.tolist(),
        int(groups.failed_PG.sum().item()),
        truncated,
        asked=asked_of(prompts, samples, params, run_seed),
        why_failed=groups.why_failed,
    )


def asked_of(prompts: Sequence[Prompt], samples: int, params: SamplingParams, run_seed: int) -> dict[str, Any]:
    """`prompts`: SHA-256 of ids, texts, answers and tokens. `sampling`: how many samples each had, and how."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(json.dumps([prompt.prompt_id, prompt.text, prompt.answer, list(prompt.token_ids)]).encode())
    sampling = {**asdict(params), "stop_token_ids": list(params.stop_token_ids)}
    return {"prompts": digest.hexdigest(), "sampling": {"samples": samples, "seed": run_seed, **sampling}}


def validation_metrics(
    validation: Validation | None, samples: Mapping[str, int] | None = None
) -> dict[str, float | int | None]:
    """pass@1 with its 95 % bootstrap interval over problems. All are None at a step without a validation.

    `samples` of a problem by set: each set has pass@k of all its samples too, and the share of answers that were cut.
    """
    metrics = _pass_at_1("validation", validation)
    for name, k in (samples or {}).items():
        found = None if validation is None else validation.sets[name]
        metrics |= _pass_at_1(f"validation/{name}", found)
        right = None if found is None else [any(reward >= 1.0 for reward in row) for row in found.correct_PK]
        if k > 1:
            metrics[f"validation/{name}/pass@{k}"] = None if right is None else sum(right) / len(right)
        metrics[f"validation/{name}/truncated_fraction"] = None if found is None else found.truncated_fraction
    return metrics


def _pass_at_1(prefix: str, validation: Validation | None) -> dict[str, float | int | None]:
    interval = None if validation is None else bootstrap_mean(validation.correct_PK)
    errors = None if validation is None else validation.grader_errors
    return {**named_interval(f"{prefix}/pass@1", interval), f"{prefix}/grader_errors": errors}


def named_interval(name: str, interval: Interval | None) -> dict[str, float | None]:
    """A mean and the ends of its interval as `NAME`, `NAME_low` and `NAME_high`; all None without one."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval or (None, None, None), strict=True))


def validation_file(folder: Path, step: int) -> Path:
    """Where the validation after a step is kept."""
    return folder / f"step_{step:06d}.json"


def write_validation(folder: Path, step: int, validation: Validation, prompts: Sequence[Prompt]) -> None:
    """Writes the prompts' ids and what each sample was worth, one file a validation."""
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "step": step,
        "prompt_ids": [prompt.prompt_id for prompt in prompts],
        "correct": validation.correct_PK,
        "grader_errors": validation.grader_errors,
        "asked": dict(validation.asked),
    }
    write_json_atomic(validation_file(folder, step), content)


def read_validation(folder: Path, step: int) -> dict[str, Any] | None:
    """What `write_validation` wrote after a step, None if nothing. Raises UserError for a damaged file."""
    file = validation_file(folder, step)
    if not file.exists():
        return None
    remedy = "remove it, and the summary will be without it"
    content = read_json_object(file, remedy)
    ids, rows = content.get("prompt_ids"), content.get("correct")
    if not isinstance(ids, list) or not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise UserError(f"{file} is no validation: {remedy}")
    is_table = bool(rows) and len(ids) == len(rows) and len({len(row) for row in rows}) == 1
    if not is_table or not all(row and all(map(_is_reward, row)) for row in rows):
        raise UserError(f"{file} has not one list of rewards, all of one length, for each prompt: {remedy}")
    asked = content.get("asked") or {}  # which an earlier version has not written
    if asked and not (isinstance(asked, dict) and isinstance(asked.get("sampling"), dict) and "prompts" in asked):
        raise UserError(f"{file} does not say what was asked: {remedy}")
    return content


def _is_reward(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < math.inf
