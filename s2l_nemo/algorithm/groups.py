"""Mixed groups: which engine samples what, with which seed. Pure functions."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from s2l_nemo.types import Completion, Group, Prompt, SampleRequest, Source


def sample_seed(run_seed: int, step: int, prompt_id: int, sample_id: int) -> int:
    """The seed of one completion, from 0 to 2**63 - 1. It is the same in every process and on every machine."""
    digest = hashlib.blake2b(struct.pack("<4q", run_seed, step, prompt_id, sample_id), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def mixed_requests(
    prompts: Sequence[Prompt], *, explorer: int, learner: int, step: int, run_seed: int
) -> tuple[list[SampleRequest], list[SampleRequest]]:
    """Requests for the explorer and for the learner: G = explorer + learner completions of each prompt.

    Samples 0..explorer-1 of each group are the explorer's (paper, Algorithm 1).
    """

    def requests(samples: range) -> list[SampleRequest]:
        return [
            SampleRequest(
                prompt.prompt_id,
                sample,
                prompt.token_ids,
                sample_seed(run_seed, step, prompt.prompt_id, sample),
            )
            for prompt in prompts
            for sample in samples
        ]

    return requests(range(explorer)), requests(range(explorer, explorer + learner))


def assemble_groups(
    prompts: Sequence[Prompt], completions: Sequence[Completion], *, group_size: int, learner_version: int
) -> list[Group]:
    """One group for each prompt, in the order of the prompts. Its completions are in sample order.

    Raises RuntimeError
    - if completions are missing, come twice or belong to no prompt;
    - if the explorer samples of a group are not the first ones, or not as many as in the other groups;
    - if a learner completion is not of `learner_version`. One from before the last update would be off-policy, and
      nobody would notice.
    """
    by_prompt: dict[int, dict[int, Completion]] = {prompt.prompt_id: {} for prompt in prompts}
    for completion in completions:
        name = f"prompt {completion.prompt_id} sample {completion.sample_id}"
        if completion.prompt_id not in by_prompt or not 0 <= completion.sample_id < group_size:
            raise RuntimeError(f"{name} was not asked for: groups have {group_size} samples of {len(prompts)} prompts")
        if completion.sample_id in by_prompt[completion.prompt_id]:
            raise RuntimeError(f"{name} came twice")
        if completion.source is Source.LEARNER and completion.weight_version != learner_version:
            raise RuntimeError(
                f"{name} was sampled by learner version {completion.weight_version}, not by {learner_version}"
            )
        by_prompt[completion.prompt_id][completion.sample_id] = completion
    for prompt_id, samples in by_prompt.items():
        missing = sorted(set(range(group_size)) - samples.keys())
        if missing:
            raise RuntimeError(f"prompt {prompt_id} lacks samples {missing}")
    explorer = sum(completion.source is Source.EXPLORER for completion in completions) // max(1, len(prompts))
    planned = [Source.EXPLORER] * explorer + [Source.LEARNER] * (group_size - explorer)
    groups = []
    for prompt in prompts:
        group = Group(prompt, tuple(by_prompt[prompt.prompt_id][sample] for sample in range(group_size)))
        if [completion.source for completion in group.completions] != planned:
            raise RuntimeError(
                f"prompt {prompt.prompt_id}: not the first {explorer} samples, and only those, are the explorer's"
            )
        groups.append(group)
    return groups
