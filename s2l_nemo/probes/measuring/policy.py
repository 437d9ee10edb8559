"""A real model as a sampler, and as a function from its parameters to log-probs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.func import functional_call

from s2l_nemo.engines.embedded.engine import EmbeddedEngine
from s2l_nemo.probes.scores import LogProbs, Parameters

Tokens = Sequence[int]


@dataclass(frozen=True)
class Policy:
    """One frozen model in an embedded engine. `rows` rollouts go through it at once."""

    engine: EmbeddedEngine
    rows: int

    @cached_property
    def parameters(self) -> Parameters:
        """Every parameter once: tied ones under their first name."""
        return {name: tensor.detach() for name, tensor in self.engine.model.named_parameters()}

    def log_probs(self, prompt: Tokens, responses: Sequence[Tokens]) -> LogProbs:
        """log pi(a_t | s_t) of the responses at temperature 1, [N, T] for the longest of T; 0 after a response's end.

        The values are float32. Use it inside of `differentiable`.
        """
        tokens_NL = self._padded(prompt, responses)
        lengths_N1 = torch.tensor([[len(response)] for response in responses], device=tokens_NL.device)
        targets_NT = tokens_NL[:, len(prompt) :]
        inside_NT = torch.arange(targets_NT.size(1), device=tokens_NL.device) < lengths_N1

        def log_probs(parameters: Parameters) -> torch.Tensor:
            logits_NTV = self._logits(parameters, tokens_NL, len(prompt))
            values_NT = logits_NTV.log_softmax(dim=-1).gather(-1, targets_NT[..., None])[..., 0]
            return torch.where(inside_NT, values_NT, 0.0)

        return log_probs

    def chunks(self, responses: Sequence[Tokens]) -> Iterator[Sequence[Tokens]]:
        """`rows` responses at a time, in order."""
        for start in range(0, len(responses), self.rows):
            yield responses[start : start + self.rows]

    @torch.no_grad()
    def logits(self, prompt: Tokens, responses: Sequence[Tokens]) -> Iterator[torch.Tensor]:
        """The float32 logits that each response was sampled from, [T, V] with T its own length."""
        for chunk in self.chunks(responses):
            every_NTV = self._logits(self.parameters, self._padded(prompt, chunk), len(prompt))
            yield from (logits_TV[: len(response)] for logits_TV, response in zip(every_NTV, chunk, strict=True))

    @contextmanager
    def differentiable(self) -> Iterator[None]:
        """Lets the model compute attention in plain operations: fused kernels have no forward-mode derivatives."""
        config = self.engine.model.config
        before, config._attn_implementation = config._attn_implementation, "eager"
        try:
            yield
        finally:
            config._attn_implementation = before

    def _padded(self, prompt: Tokens, responses: Sequence[Tokens]) -> torch.Tensor:
        """Prompt and response in each row, padded on the right, which causal attention does not see."""
        longest = max(map(len, responses))
        rows = [[*prompt, *response, *[0] * (longest - len(response))] for response in responses]
        return torch.tensor(rows, device=self.engine.model.device)

    def _logits(self, parameters: Parameters, tokens_NL: torch.Tensor, prompt_length: int) -> torch.Tensor:
        """[N, T, V]: before each token of the responses."""
        model: Any = self.engine.model
        steps = tokens_NL.size(1) - prompt_length
        arguments = {"use_cache": False, "logits_to_keep": steps}
        logits: torch.Tensor = functional_call(model, parameters, (tokens_NL[:, :-1],), arguments).logits
        return logits.float()
