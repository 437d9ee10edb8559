"""A policy of 24 parameters over 3 tokens, whose 81 responses of 4 steps can all be written down.

Its prompts are numbers from 0 to 5. What a step sees is a decaying sum over all tokens before it, so that no two states
share their logits and all share the parameters.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch.func import hessian, jacrev, vmap

from s2l_nemo.probes.scores import LogProbs, Parameters, logit_scores_TV

VOCABULARY, STEPS, WIDTH, PROMPTS = 3, 4, 2, 6
RESPONSES = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=STEPS)))  # [81, T]
Floats = npt.NDArray[np.float64]


def parameters(seed: int = 0) -> Parameters:
    """The weights: an embedding of tokens, one of prompts, and an output layer."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"token": (VOCABULARY, WIDTH), "prompt": (PROMPTS, WIDTH), "output": (WIDTH, VOCABULARY)}
    return {name: 2 * torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


def logits(weights: Parameters, prompt: int, responses_NT: torch.Tensor) -> torch.Tensor:
    """[N, T, V]"""
    state = weights["prompt"][prompt].expand(len(responses_NT), WIDTH)
    steps = []
    for t in range(responses_NT.size(1)):
        steps.append(torch.tanh(state) @ weights["output"])
        state = 0.6 * state + weights["token"][responses_NT[:, t]]
    return torch.stack(steps, dim=1)


def log_probs_of(prompt: int, responses_NT: torch.Tensor = RESPONSES, temperature: float = 1.0) -> LogProbs:
    """log pi(a_t | s_t) of the responses as a function of the weights."""

    def log_probs(weights: Parameters) -> torch.Tensor:
        values = torch.log_softmax(logits(weights, prompt, responses_NT) / temperature, dim=-1)
        return values.gather(-1, responses_NT[..., None])[..., 0]

    return log_probs


def flat(vector: Parameters) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in vector.values()])


@dataclass(frozen=True)
class World:
    """Everything about one prompt, by enumeration. Responses are sampled by `behaviour`, scores are those of `weights`.

    Rows are the 81 responses. Derivatives are by reverse mode, one step at a time.
    """

    weights: Parameters
    behaviour: Parameters
    prompt: int = 0
    temperature: float = 1.0

    @cached_property
    def probability_N(self) -> Floats:
        chosen = log_probs_of(self.prompt, temperature=self.temperature)(self.behaviour)
        result: Floats = chosen.sum(dim=1).exp().numpy()
        return result

    @cached_property
    def reference(self) -> list[int]:
        """The greedy response of `weights`."""
        tokens: list[int] = []
        for _ in range(STEPS):
            row = torch.tensor([[*tokens, 0]])
            tokens.append(int(logits(self.weights, self.prompt, row)[0, -1].argmax()))
        return tokens

    @cached_property
    def deviation_T(self) -> Floats:
        """Pr(a_j != a*_j | M_{j-1} = 1) of the behaviour."""
        reference = torch.tensor([self.reference])
        on_it = log_probs_of(self.prompt, reference, self.temperature)(self.behaviour)[0].exp()
        return np.asarray(1 - on_it.numpy(), dtype=np.float64)

    @cached_property
    def matched_NT(self) -> npt.NDArray[np.bool_]:
        equal = RESPONSES.numpy() == np.array(self.reference)
        return np.logical_and.accumulate(equal, axis=1)

    @cached_property
    def scores_NTD(self) -> Floats:
        """grad log pi(a_t | s_t) with respect to all parameters."""
        jacobian = jacrev(log_probs_of(self.prompt))(self.weights)
        result: Floats = torch.cat([part.flatten(2) for part in jacobian.values()], dim=2).numpy()
        return result

    @cached_property
    def logit_scores_NTV(self) -> Floats:
        every = logits(self.weights, self.prompt, RESPONSES)
        result: Floats = torch.stack(
            [logit_scores_TV(one, tokens) for one, tokens in zip(every, RESPONSES, strict=True)]
        ).numpy()
        return result

    @cached_property
    def hessians_NTDD(self) -> Floats:
        """grad^2 log pi(a_t | s_t)."""
        names, shapes = list(self.weights), [tensor.shape for tensor in self.weights.values()]
        sizes = [tensor.numel() for tensor in self.weights.values()]

        def of_flat(vector: torch.Tensor, response: torch.Tensor) -> torch.Tensor:
            parts = [part.view(shape) for part, shape in zip(vector.split(sizes), shapes, strict=True)]
            return log_probs_of(self.prompt, response[None])(dict(zip(names, parts, strict=True)))[0]

        result: Floats = vmap(hessian(of_flat), in_dims=(None, 0))(flat(self.weights), RESPONSES).numpy()
        return result

    def mean(self, values_N: Floats) -> Floats:
        """The expectation over responses, along the first axis."""
        result: Floats = np.tensordot(self.probability_N, values_N, axes=1)
        return result

    def covariance_TT(self, z_NT: Floats) -> Floats:
        """Cov(z_t, z_s) over responses."""
        centred = z_NT - self.mean(z_NT)
        result: Floats = self.mean(centred[:, :, None] * centred[:, None, :])
        return result

    def rows(self, count: int) -> npt.NDArray[np.int64]:
        """Indices of about `count` responses, each as often as its probability says: sampling without its noise."""
        return np.repeat(np.arange(len(RESPONSES)), np.rint(count * self.probability_N).astype(np.int64))
