"""The figures of a model, read from its config.json without loading it. Nothing about a size is known elsewhere."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from s2l_nemo.errors import UserError

Family = Literal["qwen3", "internlm2", "llama"]


@dataclass(frozen=True)
class ModelShape:
    """Figures under their Hugging Face names, shortened. `tied`: the output layer is the embedding."""

    family: Family
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    max_positions: int
    tied: bool
    rope_theta: float
    rms_norm_eps: float

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalised per head."""
        return self.family == "qwen3"

    @property
    def engine_family(self) -> Family:
        """Whose names engines know: an InternLM2.5 runs as the Llama that it equals, because its own code is remote."""
        return "llama" if self.family == "internlm2" else self.family

    @property
    def query(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def embedding_parameters(self) -> int:
        return self.vocab * self.hidden

    @property
    def layer_parameters(self) -> int:
        """Query and output, key and value, gated MLP, two norms of the layer and perhaps two of the heads."""
        attention = 2 * self.hidden * self.query + 2 * self.hidden * self.kv
        head_norms = 2 * self.head_dim if self.qk_norm else 0
        return attention + 3 * self.hidden * self.ffn + 2 * self.hidden + head_norms

    @property
    def parameters(self) -> int:
        matrices = 1 if self.tied else 2
        return self.layers * self.layer_parameters + matrices * self.embedding_parameters + self.hidden

    @property
    def kv_elements_per_token(self) -> int:
        return 2 * self.layers * self.kv


def _qwen3(hidden: int, layers: int, heads: int, ffn: int, *, tied: bool) -> ModelShape:
    return ModelShape("qwen3", 151936, hidden, layers, heads, 8, 128, ffn, 32768, tied, 1e6, 1e-6)


def _internlm2_5(hidden: int, layers: int, heads: int, ffn: int) -> ModelShape:
    return ModelShape("internlm2", 92544, hidden, layers, heads, 8, 128, ffn, 32768, False, 1e6, 1e-5)


# Public figures (Qwen3 technical report, arXiv 2505.09388, and the config.json of each model on Hugging Face).
PUBLIC_SHAPES = {
    "Qwen3-0.6B": _qwen3(1024, 28, 16, 3072, tied=True),
    "Qwen3-1.7B": _qwen3(2048, 28, 16, 6144, tied=True),
    "Qwen3-4B": _qwen3(2560, 36, 32, 9728, tied=True),
    "Qwen3-8B": _qwen3(4096, 36, 32, 12288, tied=False),
    "Qwen3-14B": _qwen3(5120, 40, 40, 17408, tied=False),
    "Qwen3-32B": _qwen3(5120, 64, 64, 25600, tied=False),
    "internlm2_5-1_8b": _internlm2_5(2048, 24, 16, 8192),
    "internlm2_5-7b": _internlm2_5(4096, 32, 32, 14336),
}


def public_shape(path: str) -> tuple[str, ModelShape] | None:
    """The public model that the last part of `path` names (`.../Qwen3-8B-Base`), if any."""
    name = re.sub(r"-Base$", "", Path(path).name)
    return (name, PUBLIC_SHAPES[name]) if name in PUBLIC_SHAPES else None


def shape_from_config_json(path: Path, content: dict[str, Any]) -> ModelShape:
    """Raises UserError where the model is of another family, has parts this project lacks, or a figure is missing."""
    family = content.get("model_type")
    if family not in ("qwen3", "internlm2", "llama"):
        raise UserError(f"{path}: model_type={family} is not supported: give a qwen3, internlm2 or llama model")
    _refuse_variants(path, content)

    def figure(name: str) -> int:
        value = content.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{path}: {name}={value} must be a positive integer: fetch the model again")
        return value

    def positive(name: str, value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise UserError(f"{path}: {name}={value} must be a positive number: fetch the model again")
        return float(value)

    hidden, heads = figure("hidden_size"), figure("num_attention_heads")
    if family != "qwen3" and content.get("head_dim") is None and hidden % heads:
        raise UserError(
            f"{path}: num_attention_heads={heads} does not divide hidden_size={hidden}: correct config.json"
        )
    # Only Qwen3 always states it; the other two define it as this quotient where it is absent.
    head_dim = figure("head_dim") if family == "qwen3" or content.get("head_dim") is not None else hidden // heads
    rope = content.get("rope_parameters") or content  # transformers 5 moved theta there
    return ModelShape(
        family=family,
        vocab=figure("vocab_size"),
        hidden=hidden,
        layers=figure("num_hidden_layers"),
        heads=heads,
        kv_heads=figure("num_key_value_heads"),
        head_dim=head_dim,
        ffn=figure("intermediate_size"),
        max_positions=figure("max_position_embeddings"),
        tied=bool(content.get("tie_word_embeddings", False)),
        rope_theta=positive("rope_theta", rope.get("rope_theta")),
        rms_norm_eps=positive("rms_norm_eps", content.get("rms_norm_eps")),
    )


def _refuse_variants(path: Path, content: dict[str, Any]) -> None:
    """Refuses what the actor would otherwise leave out without a word."""
    for name in ("bias", "attention_bias", "mlp_bias", "use_sliding_window"):
        if content.get(name):
            raise UserError(f"{path}: {name}={content[name]} is not supported: give a model without it")
    if content.get("hidden_act", "silu") != "silu":
        raise UserError(f"{path}: hidden_act={content['hidden_act']} is not supported: give a model with silu")
    scaling = content.get("rope_scaling") or content.get("rope_parameters") or {}
    if not isinstance(scaling, dict):
        raise UserError(f"{path}: rope_scaling={scaling} must be an object: fetch the model again")
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    # InternLM2.5's dynamic scaling acts only past max_position_embeddings, and longer sequences are refused.
    if kind != "default" and not (kind == "dynamic" and content["model_type"] == "internlm2"):
        raise UserError(f"{path}: rope_scaling of type {kind} is not supported: remove it to use the plain positions")
