"""How diverse the answers of each sampler are at a step, measured on a few groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

import numpy as np

from s2l_nemo.measures.diversity import Samples, diversity_P
from s2l_nemo.rewards.answers import normalize_answer
from s2l_nemo.trainer.exchange import StepGroups
from s2l_nemo.trainer.metrics import Metrics
from s2l_nemo.trainer.ranks import Ranks
from s2l_nemo.types import Completion, Group, Source

NAMES = ("self_bleu", "edit", "unique_answers")  # as `DiversityScores` has them
Scores = dict[str, tuple[float, ...]]  # by sampler


def diversity_metrics(ranks: Ranks, groups: StepGroups, count: int, explorers: Sequence[str] = ()) -> Metrics:
    """`diversity/METRIC_SAMPLER`: means over the first `count` groups in which the sampler has two answers or more.

    All samplers of a group are measured on as many answers, the first ones of each, because all three metrics depend on
    their number. None without such a group. Collective: the rank that holds a group measures it.
    """
    names = {"learner": (Source.LEARNER.value,), "explorer": tuple(range(1, 1 + max(1, len(explorers))))}
    names |= {name: (source,) for source, name in enumerate(explorers, start=1)}
    holders = enumerate(groups.holder_P[:count])
    mine = [_scores(groups.own[p], names) for p, holder in holders if holder == ranks.rank]
    of_all = [scores for part in ranks.gather(mine) for scores in part] if count else []
    metrics: Metrics = {}
    for name in names:
        found = [scores[name] for scores in of_all if name in scores]
        means = np.mean(found, axis=0).tolist() if found else [None] * len(NAMES)
        metrics |= {f"diversity/{metric}_{name}": mean for metric, mean in zip(NAMES, means, strict=True)}
    return metrics


def _scores(group: Group, names: dict[str, tuple[int, ...]]) -> Scores:
    by_name = {name: [one for one in group.completions if one.source in sources] for name, sources in names.items()}
    several = {name: its for name, its in by_name.items() if len(its) > 1}
    size = min(map(len, several.values()), default=0)
    return {name: astuple(diversity_P([_samples(its[:size])], workers=1)[0]) for name, its in several.items()}


def _samples(completions: Sequence[Completion]) -> Samples:
    answers = [None if one.answer is None else normalize_answer(one.answer) for one in completions]
    return Samples([one.token_ids.tolist() for one in completions], answers)
