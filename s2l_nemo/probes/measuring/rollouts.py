"""Who samples: the learner at two temperatures, and the explorer; and the greedy reference traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch

from s2l_nemo.evaluation.sampling import sample_seed
from s2l_nemo.probes.intervals import Floats
from s2l_nemo.probes.measuring.policy import Policy
from s2l_nemo.types import Prompt, SampleRequest, SamplingParams


class Who(str, Enum):
    """Who sampled, and how."""

    baseline = "baseline"  # the learner at the training temperature
    hot = "high temperature"  # token-level perturbation (Eqs. 5 and 6)
    explorer = "explorer"  # policy-level perturbation (Eq. 12)


@dataclass(frozen=True)
class Condition:
    """One way of sampling, with its rollouts of every prompt."""

    who: Who
    temperature: float
    responses_PN: list[list[list[int]]]
    deviation_PT: list[Floats]  # Pr(a_j != a*_j | M_{j-1} = 1) at each step of the prompt's reference


@dataclass(frozen=True)
class Rollouts:
    """All that was sampled. `references` are the learner's greedy responses."""

    prompts: list[Prompt]
    references: list[list[int]]
    conditions: list[Condition]

    @property
    def steps(self) -> int:
        """T: the length of the longest response."""
        every = [response for one in self.conditions for rows in one.responses_PN for response in rows]
        return max(map(len, every + self.references))


@dataclass(frozen=True)
class Asked:
    """How many rollouts, how long, with which seed. Conditions share the seeds of their samples."""

    samples: int
    seed: int
    params: SamplingParams

    def sample(self, policy: Policy, prompts: Sequence[Prompt], temperature: float) -> list[list[list[int]]]:
        """`samples` responses to each prompt; one if the temperature is 0."""
        count = self.samples if temperature else 1
        requests = [
            SampleRequest(one.prompt_id, k, one.token_ids, sample_seed(self.seed, "probe", one.prompt_id, k))
            for one in prompts
            for k in range(count)
        ]
        limit, stops = self.params.max_new_tokens, self.params.stop_token_ids
        completions = policy.engine.generate(requests, SamplingParams(limit, stops, temperature))
        tokens = [completion.token_ids.tolist() for completion in completions]
        return [tokens[start : start + count] for start in range(0, len(tokens), count)]


def sample_all(
    asked: Asked, prompts: list[Prompt], learner: Policy, conditions: Sequence[tuple[Who, Policy, float]]
) -> Rollouts:
    """The references and every condition's rollouts."""
    references = [rows[0] for rows in asked.sample(learner, prompts, 0.0)]
    return Rollouts(
        prompts,
        references,
        [
            Condition(
                who,
                temperature,
                asked.sample(policy, prompts, temperature),
                [
                    deviations(policy, prompt, reference, temperature)
                    for prompt, reference in zip(prompts, references, strict=True)
                ],
            )
            for who, policy, temperature in conditions
        ],
    )


def deviations(policy: Policy, prompt: Prompt, reference: Sequence[int], temperature: float) -> Floats:
    """Pr(a_j != a*_j | M_{j-1} = 1) of Eq. 9 for each step of the reference, exact."""
    (logits_TV,) = policy.logits(prompt.token_ids, [reference])
    chosen = torch.tensor(reference, device=logits_TV.device)[:, None]
    log_prob_T = (logits_TV.double() / temperature).log_softmax(dim=-1).gather(1, chosen)[:, 0]
    result: Floats = (-torch.expm1(log_prob_T)).clamp(min=0).cpu().numpy()
    return result
