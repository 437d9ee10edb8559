"""What the probes take of one prompt: sums over its rollouts, in two spaces of scores. Then the rollouts may go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from s2l_nemo.probes.covariance import LagSums
from s2l_nemo.probes.intervals import Floats
from s2l_nemo.probes.measuring.policy import Policy, Tokens


class Space(str, Enum):
    """With respect to what scores are taken."""

    logits = "logits"  # a shift of the logits, the same at every step: u_t = e_a - pi (Remark E.7)
    parameters = "parameters"  # all parameters of the learner


class Along(str, Enum):
    """Which directions v."""

    every = "all"  # covariances along orthonormal directions of the whole space, added up
    reference = "reference"  # the reference trace's own score, of length 1


@dataclass(frozen=True)
class Work:
    """One prompt with its reference, and where its scores are taken. `steps`, T, is the same for all prompts."""

    learner: Policy
    prompt: Tokens
    reference: Tokens
    steps: int
    directions: int  # random ones
    seed: int  # of the prompt's directions, which all conditions share


@dataclass(frozen=True)
class Sampled:
    """Rollouts of a prompt by one policy."""

    responses: Sequence[Tokens]
    matched_NT: NDArray[np.bool_]  # M_t, Eq. 7


@dataclass(frozen=True)
class SpaceFacts:
    """Scores of N rollouts of one prompt in one space. S_t is the sum of the first t scores."""

    square_T: Floats  # mean over rollouts of |S_t|^2
    walk_T: Floats  # mean over rollouts of the sum of the first t |u|^2: what |S_t|^2 is for a random walk (Eq. 18)
    drift_T: Floats  # |E S_t|^2
    covariance: dict[Along, LagSums]
    largest_z: float  # |z_t| along unit directions
    share_of_bound: float  # the largest |Cov| / (5 B^2 Pr(M_t = 0)) along them


@dataclass(frozen=True)
class GammaFacts:
    """gamma of one prompt, along the learner's own rollouts."""

    matrix_TT: Floats  # for v of the reference
    along: dict[Along, LagSums]
