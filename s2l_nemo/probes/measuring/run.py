"""One measurement, from the configuration to its files. Nothing is written before the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import yaml
from rich.console import Console

from s2l_nemo.config.load import resolved_yaml
from s2l_nemo.config.probe import ProbeConfig
from s2l_nemo.data.prompts import load_prompts
from s2l_nemo.engines.build import EngineFactory
from s2l_nemo.engines.embedded.engine import EmbeddedEngine
from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.console import console, print_facts, progress_bar
from s2l_nemo.models.open import Model, check_same_tokenizer, open_model
from s2l_nemo.probes.measuring.facts import GammaFacts, Sampled, Space, SpaceFacts, Work
from s2l_nemo.probes.measuring.figures import (
    Figure,
    Intervals,
    covariance_figures,
    gamma_figures,
    growth_figures,
    prefix_figures,
)
from s2l_nemo.probes.measuring.logit_space import logit_facts
from s2l_nemo.probes.measuring.parameter_space import gamma_facts, parameter_facts, reference_direction
from s2l_nemo.probes.measuring.plots import plot_all
from s2l_nemo.probes.measuring.policy import Policy
from s2l_nemo.probes.measuring.report import print_tables, write_report
from s2l_nemo.probes.measuring.rollouts import Asked, Rollouts, Who, sample_all
from s2l_nemo.probes.prefix import matched_NT
from s2l_nemo.records.versions import versions
from s2l_nemo.types import Prompt, SamplingParams


@dataclass(frozen=True)
class Facts:
    """What was taken of every prompt, in the order of prompts."""

    spaces: dict[Who, dict[Space, list[SpaceFacts]]]
    gamma: list[GammaFacts]


def probe(cfg: ProbeConfig) -> None:
    """Samples, measures, prints tables and writes `output`.

    Raises UserError if models, prompts and settings do not fit each other.
    """
    out = console()
    learner = open_model("model", cfg.model)
    explorer = None if cfg.explorer is None else open_model("explorer", cfg.explorer)
    for model in filter(None, (learner, explorer)):
        check_length(cfg, model)
    if explorer is not None:
        check_same_tokenizer(learner, explorer)
    prompts = load_prompts(cfg.data, learner.tokenizer, cfg.max_prompt_length, "valid", cfg.prompts).prompts
    if len(prompts) < 2:
        raise UserError(f"prompts={cfg.prompts} gave {len(prompts)} of at most {cfg.max_prompt_length} tokens: give 2")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print_facts(out, "Theory probes", shown(cfg, len(prompts), device))
    rollouts, policy = sample(cfg, learner, explorer, prompts, device)
    figures = list(figures_of(measure(cfg, policy, rollouts, out), rollouts, Intervals(cfg.seed)))
    output = Path(cfg.output)
    write_report(output, figures, facts(cfg, rollouts, policy))
    plot_all(figures, output)
    print_tables(out, figures)
    out.print(f"written to {output}", soft_wrap=True)


def check_length(cfg: ProbeConfig, model: Model) -> None:
    """Raises UserError if prompt and response together may exceed the model's positions."""
    longest, positions = cfg.max_prompt_length + cfg.max_response_length, model.shape.max_positions
    if longest > positions:
        raise UserError(
            f"max_prompt_length={cfg.max_prompt_length} + max_response_length={cfg.max_response_length} is more than "
            f"the {positions} positions of {model.path}: lower one of them by {longest - positions}"
        )


def sample(
    cfg: ProbeConfig, learner: Model, explorer: Model | None, prompts: list[Prompt], device: str
) -> tuple[Rollouts, Policy]:
    """Rollouts of all conditions, and the learner, whose scores are taken."""
    factory = EngineFactory(
        EngineConfig(), cfg.precision, torch.device(device), cfg.rows, cfg.max_prompt_length + cfg.max_response_length
    )

    def load(model: Model) -> Policy:
        return Policy(cast(EmbeddedEngine, factory.explorer(model)), cfg.rows)

    policy = load(learner)
    conditions = [(Who.baseline, policy, cfg.temperature), (Who.hot, policy, cfg.high_temperature)]
    if explorer is not None:
        conditions.append((Who.explorer, load(explorer), cfg.temperature))
    params = SamplingParams(cfg.max_response_length, learner.stop_token_ids)
    return sample_all(Asked(cfg.samples, cfg.seed, params), prompts, policy, conditions), policy


def measure(cfg: ProbeConfig, learner: Policy, rollouts: Rollouts, out: Console) -> Facts:
    """Takes scores along all rollouts, prompt by prompt."""
    found = Facts({one.who: {space: [] for space in Space} for one in rollouts.conditions}, [])
    total = len(rollouts.prompts)
    with progress_bar(out, after="prompts") as bar:
        task = bar.add_task("", total=total)
        for index, prompt in enumerate(rollouts.prompts):
            reference = rollouts.references[index]
            seed = 2 * (cfg.seed * total + index)  # the odd number after it is that of perturbations
            work = Work(learner, prompt.token_ids, reference, rollouts.steps, cfg.directions, seed)
            direction = reference_direction(work)
            for one in rollouts.conditions:
                responses = one.responses_PN[index]
                sampled = Sampled(responses, matched_NT(responses, reference, rollouts.steps))
                found.spaces[one.who][Space.logits].append(logit_facts(work, sampled))
                found.spaces[one.who][Space.parameters].append(parameter_facts(work, sampled, direction))
            own = rollouts.conditions[0].responses_PN[index]
            found.gamma.append(gamma_facts(work, own, direction, cfg.perturbations, cfg.scale))
            bar.advance(task)
            out.print(f"prompt {index + 1:>{len(str(total))}}/{total}")
    return found


def figures_of(found: Facts, rollouts: Rollouts, make: Intervals) -> Sequence[Figure]:
    """The figures of all four probes."""
    bound = max(one.largest_z for one in found.spaces[Who.baseline][Space.parameters])
    return [
        *prefix_figures(rollouts, make),
        *covariance_figures(found.spaces, rollouts, make),
        *growth_figures(found.spaces, rollouts, make),
        *gamma_figures(found.gamma, rollouts, bound, make),
    ]


def facts(cfg: ProbeConfig, rollouts: Rollouts, policy: Policy) -> dict[str, object]:
    """What a reader needs to judge and to repeat the figures."""
    return {
        "config": yaml.safe_load(resolved_yaml(cfg)),
        "prompts": len(rollouts.prompts),
        "prompt_ids": [prompt.prompt_id for prompt in rollouts.prompts],
        "parameters": sum(tensor.numel() for tensor in policy.parameters.values()),
        "reference_tokens": [len(reference) for reference in rollouts.references],
        "conditions": [
            {
                "who": one.who.value,
                "temperature": one.temperature,
                "rollouts": sum(map(len, one.responses_PN)),
                "tokens": sum(len(response) for rows in one.responses_PN for response in rows),
            }
            for one in rollouts.conditions
        ],
        "versions": versions(),
    }


def shown(cfg: ProbeConfig, prompts: int, device: str) -> dict[str, object]:
    """What a person sees first."""
    who = f"baseline at temperature {cfg.temperature:g}, at {cfg.high_temperature:g}"
    return {
        "learner": f"{cfg.model} on {'GPU' if device == 'cuda' else 'CPU'}, {cfg.precision.value}",
        "explorer": cfg.explorer or "none",
        "rollouts": f"{prompts} prompts x {cfg.samples}: {who}{'' if cfg.explorer is None else ', and the explorer'}",
        "directions": f"{cfg.directions} random ones for each prompt, and that of the reference trace",
        "gamma": f"{cfg.perturbations} perturbations for each prompt, of {cfg.scale:g} of each tensor's size",
        "seed": cfg.seed,
    }
