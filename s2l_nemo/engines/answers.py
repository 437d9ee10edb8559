"""What an engine is asked and what one of another library answers, checked before anybody trains on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s2l_nemo.types import Completion, SampleRequest, SamplingParams, Source


@dataclass(frozen=True)
class Answer:
    """One answer as the library gives it: T tokens, their log-probs, and why it ended ("stop", "length", ...)."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    finish_reason: str | None


def check_fits(
    requests: Sequence[SampleRequest], params: SamplingParams, positions: int, *, whose: str = "engine"
) -> None:
    """Raises ValueError if a prompt and its response exceed the positions of the engine, or of its model."""
    for request in requests:
        length = len(request.prompt_token_ids)
        if length + params.max_new_tokens > positions:
            raise ValueError(
                f"prompt {request.prompt_id} has {length} tokens; with {params.max_new_tokens} new ones it exceeds"
                f" the {whose}'s {positions} positions: lower max_new_tokens or filter longer prompts"
            )


def completion_of(
    request: SampleRequest, answer: Answer, params: SamplingParams, *, source: Source, version: int, library: str
) -> Completion:
    """The answer as a completion. Raises RuntimeError for one that is cut off, or lacks log-probs."""
    what, tokens = f"prompt {request.prompt_id} sample {request.sample_id}", answer.token_ids
    if answer.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"{what}: {library} ended it with {answer.finish_reason!r}")
    stopped = bool(tokens) and tokens[-1] in params.stop_token_ids
    if not stopped and (answer.finish_reason == "stop" or len(tokens) != params.max_new_tokens):
        raise RuntimeError(
            f"{what}: finished by {answer.finish_reason!r} after {len(tokens)} of {params.max_new_tokens} tokens,"
            " the last of which is no stop token"
        )
    if len(answer.logprobs) != len(tokens):
        raise RuntimeError(f"{what}: {len(tokens)} tokens have {len(answer.logprobs)} log-probs")
    return Completion(
        prompt_id=request.prompt_id,
        sample_id=request.sample_id,
        source=source,
        token_ids=np.array(tokens, np.int32),
        logprobs=np.array(answer.logprobs, np.float32),
        finish_reason="stop" if stopped else "length",
        weight_version=version,
    )
