"""How a model's rotary positions are stretched beyond the length that it was first trained on: `rope_scaling`.

The meaning is that of transformers 4.51 (`modeling_rope_utils.py`). What other libraries would read in another way is
refused. `frequencies.py` computes with these figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from typing_extensions import assert_never

from s2l_nemo.errors import UserError


class RopeType(Enum):
    """The values are those of `rope_type` in config.json."""

    PLAIN = "default"
    LLAMA3 = "llama3"
    YARN = "yarn"
    DYNAMIC = "dynamic"  # acts only past max_position_embeddings, and longer sequences are refused


STRETCHED = frozenset({RopeType.PLAIN, RopeType.LLAMA3, RopeType.YARN})  # what transformers' own classes share

_KEYS: Mapping[RopeType, Set[str]] = {
    RopeType.PLAIN: frozenset(),
    RopeType.LLAMA3: frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
    # `attn_factor` (R1-0528-Qwen3-8B has it) is read by no library of today: vLLM dropped it before 0.32.
    RopeType.YARN: frozenset({"factor", "original_max_position_embeddings", "beta_fast", "beta_slow",
                              "attention_factor", "attn_factor", "mscale", "mscale_all_dim"}),
    RopeType.DYNAMIC: frozenset({"factor"}),
}  # fmt: skip
_LARGEST = 2**31  # of all figures, so that none overflows when it is squared or multiplied
_COMMON = frozenset({"type", "rope_type", "rope_theta"})  # transformers 5 has theta among them


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's: slow dimensions turn `factor` times slower.

    Slow is one that turns fewer than `low_freq_factor` times in `original_max_positions` tokens. One that turns more
    than `high_freq_factor` times keeps its speed. Between the two it is a mixture.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True)
class YarnScaling:
    """YaRN (arXiv 2309.00071, sections 3.2 and 3.4).

    As Llama 3.1's between `beta_slow` and `beta_fast` turns, linear in the number of the dimension. Queries and keys
    are multiplied by `attention_factor`.
    """

    factor: float
    original_max_positions: int
    beta_fast: float
    beta_slow: float
    attention_factor: float


RopeScaling = Llama3Scaling | YarnScaling


def rope_scaling_of(path: Path, config: Mapping[str, Any], accepted: Set[RopeType]) -> RopeScaling | None:
    """What a config.json says of its positions; None: they are plain. `path` names it in messages.

    Raises UserError for a type that is not `accepted`, a figure that is missing or impossible, and a key that is not
    known: it might change the model.
    """
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(given, Mapping):
        raise UserError(f"{path}: rope_scaling={given} must be an object: fetch the model again")
    kind = _type_of(path, given, accepted)
    unknown = sorted(given.keys() - _KEYS[kind] - _COMMON)
    if unknown:
        raise UserError(
            f"{path}: rope_scaling.{unknown[0]}={given[unknown[0]]} is not supported: give a model without it"
        )
    match kind:
        case RopeType.PLAIN | RopeType.DYNAMIC:
            return None
        case RopeType.LLAMA3:
            return llama3_scaling(path, given)
        case RopeType.YARN:
            return _yarn(path, given, config)
        case _:
            assert_never(kind)


def hf_rope_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
    """`rope_scaling` of a config.json."""
    match scaling:
        case None:
            return None
        case Llama3Scaling():
            return {
                "rope_type": RopeType.LLAMA3.value,
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_max_positions,
            }
        case YarnScaling():
            return {
                "rope_type": RopeType.YARN.value,
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_max_positions,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "attention_factor": scaling.attention_factor,
            }
        case _:
            assert_never(scaling)


def _type_of(path: Path, given: Mapping[str, Any], accepted: Set[RopeType]) -> RopeType:
    names = {str(given[key]) for key in ("rope_type", "type") if given.get(key) is not None} or {RopeType.PLAIN.value}
    if len(names) > 1:
        raise UserError(
            f"{path}: rope_scaling has rope_type={given['rope_type']} and type={given['type']}: remove the wrong one"
        )
    (name,) = names
    known = sorted(one.value for one in accepted)
    if name not in known:
        raise UserError(
            f"{path}: rope_scaling of type {name} is not supported: give a model with {' or '.join(known)} positions"
        )
    return RopeType(name)


def llama3_scaling(path: Path, given: Mapping[str, Any]) -> Llama3Scaling:
    """Llama 3.1's scaling, from its figures as config.json has them. Raises UserError as `rope_scaling_of`."""
    scaling = Llama3Scaling(
        factor=_positive(path, given, "factor"),
        low_freq_factor=_positive(path, given, "low_freq_factor"),
        high_freq_factor=_positive(path, given, "high_freq_factor"),
        original_max_positions=_original(path, given),
    )
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        raise UserError(
            f"{path}: rope_scaling.high_freq_factor={scaling.high_freq_factor} must be above "
            f"low_freq_factor={scaling.low_freq_factor}: fetch the model again"
        )
    return scaling


def _yarn(path: Path, given: Mapping[str, Any], config: Mapping[str, Any]) -> YarnScaling:
    """Libraries take the factor from `factor` or from the two lengths, so both must say the same."""
    factor, original = _positive(path, given, "factor"), _original(path, given)
    longest = config.get("max_position_embeddings")
    stated = isinstance(longest, int) and 0 < longest < _LARGEST
    if not stated or not math.isclose(longest, factor * original, rel_tol=1e-6):
        raise UserError(
            f"{path}: rope_scaling.factor={factor}, but max_position_embeddings={longest} is not {factor} x "
            f"original_max_position_embeddings={original}, and libraries differ in which of them they read: set "
            f"max_position_embeddings to {round(factor * original)}, or correct the factor"
        )
    scaling = YarnScaling(
        factor=factor,
        original_max_positions=original,
        beta_fast=_positive(path, given, "beta_fast", 32.0),
        beta_slow=_positive(path, given, "beta_slow", 1.0),
        attention_factor=_attention_factor(path, given, factor),
    )
    if scaling.beta_fast < scaling.beta_slow:
        raise UserError(
            f"{path}: rope_scaling.beta_fast={scaling.beta_fast} must not be below beta_slow={scaling.beta_slow}: "
            "fetch the model again"
        )
    return scaling


def _attention_factor(path: Path, given: Mapping[str, Any], factor: float) -> float:
    """Section 3.4: 0.1 ln(factor) + 1, unless it is stated, or given by DeepSeek's two `mscale`."""
    if given.get("attention_factor") is not None:
        return _positive(path, given, "attention_factor")

    def magnitude(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    if given.get("mscale") and given.get("mscale_all_dim"):
        return magnitude(_positive(path, given, "mscale")) / magnitude(_positive(path, given, "mscale_all_dim"))
    return magnitude(1.0)


def _positive(path: Path, given: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = given.get(name) or default  # transformers takes the default for null, too
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _LARGEST:
        raise UserError(
            f"{path}: rope_scaling.{name}={given.get(name)} must be a positive number: fetch the model again"
        )
    return float(value)


def _original(path: Path, given: Mapping[str, Any]) -> int:
    value = given.get("original_max_position_embeddings")
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < _LARGEST:
        raise UserError(
            f"{path}: rope_scaling.original_max_position_embeddings={value} must be a positive integer: add the length "
            "that the model was trained on before its positions were stretched"
        )
    return value
