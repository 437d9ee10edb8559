"""How long prompts and answers are: drawn from a named distribution, or from the rollouts of a run."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from s2l_nemo.errors import UserError


class Model(str, Enum):
    """Who samples."""

    explorer = "explorer"
    learner = "learner"


@dataclass(frozen=True)
class Answer:
    """One request and its completion, as far as time depends on it. Lengths are tokens."""

    prompt_id: int
    sample_id: int
    model: Model
    prompt: int
    length: int


Group = tuple[Answer, ...]  # the answers to one prompt, the explorer's first


class Lengths(Protocol):
    """Where the lengths of a step come from."""

    def draw(self, rng: random.Random, prompts: int, explorer: int, learner: int) -> list[Group]:
        """The groups of a step: `explorer` + `learner` answers to each of `prompts` prompts."""
        ...


class Distribution(str, Enum):
    """Of the tokens of an answer, before it is cut at the limit."""

    lognormal = "lognormal"
    exponential = "exponential"
    fixed = "fixed"


@dataclass(frozen=True)
class NamedLengths:
    """Lengths of a named distribution, cut at `most`.

    Both models have the same one. Answers to one prompt have the share `alike` of the variance of a standard normal
    variable in common, of which the length is an increasing function: hard prompts have long answers.
    """

    kind: Distribution
    mean: float  # before the cut
    std: float  # of the log-normal one
    alike: float
    prompt: int
    most: int

    def draw(self, rng: random.Random, prompts: int, explorer: int, learner: int) -> list[Group]:
        """See `Lengths.draw`."""
        groups = []
        for prompt_id in range(prompts):
            common = rng.gauss(0, 1)
            normal = [
                math.sqrt(self.alike) * common + math.sqrt(1 - self.alike) * rng.gauss(0, 1)
                for _ in range(explorer + learner)
            ]
            groups.append(_group(prompt_id, self.prompt, [self.length(z) for z in normal], explorer))
        return groups

    def length(self, z: float) -> int:
        """The tokens of an answer from a standard normal draw."""
        if self.kind is Distribution.fixed:
            tokens = self.mean
        elif self.kind is Distribution.exponential:
            tokens = -self.mean * math.log(max(0.5 * math.erfc(z / math.sqrt(2)), 1e-300))
        else:
            variance = math.log(1 + (self.std / self.mean) ** 2)
            tokens = math.exp(math.log(self.mean) - variance / 2 + math.sqrt(variance) * z)
        return max(1, min(self.most, round(tokens)))


@dataclass(frozen=True)
class RecordedLengths:
    """Lengths of recorded groups: the tokens of each answer to a prompt, by model.

    A prompt of a step takes the lengths of one recorded prompt for each model, drawn with replacement.
    """

    groups: Sequence[dict[Model, tuple[int, ...]]]
    prompt: int
    most: int

    def draw(self, rng: random.Random, prompts: int, explorer: int, learner: int) -> list[Group]:
        """See `Lengths.draw`. Raises UserError if no answer of a model that is asked for is recorded."""
        known = {model: [group[model] for group in self.groups if group.get(model)] for model in Model}
        for model, wanted in ((Model.explorer, explorer), (Model.learner, learner)):
            if wanted and not known[model]:
                raise UserError(
                    f"no answer of the {model.value} is recorded, and {wanted} of each group are wanted: give the "
                    "rollouts of another run, or explorer=0 for the learner alone"
                )
        groups = []
        for prompt_id in range(prompts):
            lengths = [
                min(self.most, length)
                for model, wanted in ((Model.explorer, explorer), (Model.learner, learner))
                for length in (rng.choices(rng.choice(known[model]), k=wanted) if wanted else [])
            ]
            groups.append(_group(prompt_id, self.prompt, lengths, explorer))
        return groups


def _group(prompt_id: int, prompt: int, lengths: Sequence[int], explorer: int) -> Group:
    return tuple(
        Answer(prompt_id, sample, Model.explorer if sample < explorer else Model.learner, prompt, length)
        for sample, length in enumerate(lengths)
    )
