"""Mixed groups: which policy samples what, with which seed. Pure functions.

A source is 0 for the learner and k for the k-th explorer (`types.Source`). The sources of a group name one for each of
its samples.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence

from s2l_nemo.algorithm.sharing import apportion
from s2l_nemo.types import Completion, Group, Prompt, SampleRequest, Source

GroupSources = tuple[int, ...]
Drawn = Mapping[tuple[int, int], int]  # (source, prompt id) -> samples that it has drawn of the prompt in this run


def sample_seed(run_seed: int, step: int, prompt_id: int, sample_id: int) -> int:
    """The seed of one completion, from 0 to 2**63 - 1. It is the same in every process and on every machine."""
    digest = hashlib.blake2b(struct.pack("<4q", run_seed, step, prompt_id, sample_id), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def explorer_seed(run_seed: int, explorer: int, prompt_id: int, draw: int) -> int:
    """The seed of an explorer's n-th sample of a prompt, n = `draw`, counted from 0. Explorers count from 1.

    An explorer is frozen, so the step does not matter. Rollouts that were sampled ahead of time with the same seeds are
    those that it would sample during training.
    """
    return sample_seed(run_seed, -explorer, prompt_id, draw)


def explorers_first(explorer: int, learner: int, shares: Sequence[float] = (1.0,)) -> GroupSources:
    """The samples of explorer 1, those of explorer 2 and so on, then the learner's (paper, Algorithm 1).

    Without shares there is no explorer, and the learner gives all.
    """
    if not shares:
        return (Source.LEARNER.value,) * (explorer + learner)
    counts = apportion(explorer, shares) if explorer else []
    by_explorers = tuple(k for k, count in enumerate(counts, start=1) for _ in range(count))
    return by_explorers + (Source.LEARNER.value,) * learner


def requests_of(
    prompts: Sequence[Prompt],
    sources_P: Sequence[GroupSources],
    *,
    step: int,
    run_seed: int,
    drawn: Drawn,
    first_sample: int = 0,
    first_seed: int = 0,
) -> dict[int, list[SampleRequest]]:
    """Requests for each source that has any: samples `first_sample`.. of every prompt, from `sources_P`.

    The learner's sample n has the seed of sample n + `first_seed`: those before may be of another update of the step.
    """
    requests: dict[int, list[SampleRequest]] = {}
    for prompt, sources in zip(prompts, sources_P, strict=True):
        draws: dict[int, int] = {}
        for sample, source in enumerate(sources, start=first_sample):
            draw = draws.setdefault(source, drawn.get((source, prompt.prompt_id), 0))
            draws[source] += 1
            if source == Source.LEARNER:
                seed = sample_seed(run_seed, step, prompt.prompt_id, sample + first_seed)
            else:
                seed = explorer_seed(run_seed, source, prompt.prompt_id, draw)
            request = SampleRequest(prompt.prompt_id, sample, prompt.token_ids, seed, draw)
            requests.setdefault(source, []).append(request)
    return requests


def assemble_groups(
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    *,
    sources: Mapping[int, GroupSources],
    learner_version: int,
) -> list[Group]:
    """One group for each prompt, in the order of the prompts. Its completions are in sample order.

    `sources` holds those of each prompt by its id. Raises RuntimeError
    - if completions are missing, come twice or were not asked for;
    - if a completion is of another source than planned;
    - if a learner completion is not of `learner_version`. One from before the last update would be off-policy, and
      nobody would notice.
    """
    by_prompt: dict[int, dict[int, Completion]] = {prompt.prompt_id: {} for prompt in prompts}
    for completion in completions:
        name = f"prompt {completion.prompt_id} sample {completion.sample_id}"
        planned = sources[completion.prompt_id] if completion.prompt_id in by_prompt else ()
        if not 0 <= completion.sample_id < len(planned):
            raise RuntimeError(
                f"{name} was not asked for: there are {len(prompts)} prompts, and this one has {len(planned)} samples"
            )
        if completion.sample_id in by_prompt[completion.prompt_id]:
            raise RuntimeError(f"{name} came twice")
        if completion.source != planned[completion.sample_id]:
            raise RuntimeError(f"{name} is of source {completion.source}, not of {planned[completion.sample_id]}")
        if completion.source == Source.LEARNER and completion.weight_version != learner_version:
            raise RuntimeError(
                f"{name} was sampled by learner version {completion.weight_version}, not by {learner_version}"
            )
        by_prompt[completion.prompt_id][completion.sample_id] = completion
    groups = []
    for prompt in prompts:
        samples, size = by_prompt[prompt.prompt_id], len(sources[prompt.prompt_id])
        if missing := sorted(set(range(size)) - samples.keys()):
            raise RuntimeError(f"prompt {prompt.prompt_id} lacks samples {missing}")
        groups.append(Group(prompt, tuple(samples[sample] for sample in range(size))))
    return groups
