"""What differs between versions of TensorRT-LLM: one row each. A version without a row is refused.

tests/doubles/tensorrt_llm/facts.json names every argument with its source. Of 1.3 only pre-releases were read, and they
differ among themselves: `sleep_config` in place of `enable_sleep`, `model_weights` beside the tag `model`, and in later
ones TRTLLMSampler is gone. So 1.3 has no row yet. tests/engines/tensorrt_llm/test_versions.py tries one on the double.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from s2l_nemo.errors import UserError


@dataclass(frozen=True)
class Version:
    """What one version wants."""

    arguments: Callable[[Any], Mapping[str, Any]]  # of `LLM`, beside those that all versions have; from its `llmapi`
    weight_tags: tuple[str, ...]  # what `sleep` gives back beside the KV cache; the weights are in `model`


VERSIONS = {
    "1.2": Version(
        arguments=lambda _: {
            "sampler_type": "TRTLLMSampler",  # TorchSampler ignores seeds and penalties
            "enable_sleep": True,
        },
        weight_tags=(
            "sampler",
            "drafter",
            "guided_decoder",
            "spec_resource_manager",
            "model_extra",
            "executor_extra",
            "model",
            "draft_model",
        ),
    ),
}
_KNOWN = " or ".join(f"{name}.x" for name in VERSIONS)
ADVICE = f"set engine.python to the interpreter of an environment with tensorrt_llm {_KNOWN}"


def version_of(text: str) -> Version:
    """The row of a version such as "1.2.1". Raises UserError if there is none."""
    row = VERSIONS.get(".".join(text.split(".")[:2]))
    if row is None:
        raise UserError(f"engine.kind=tensorrt_llm: found tensorrt_llm {text}; {ADVICE}")
    return row
