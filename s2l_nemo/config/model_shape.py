"""The figures of a Qwen3 model that memory and parallelism depend on, read from config.json without loading a model."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2l_nemo.errors import UserError


@dataclass(frozen=True)
class ModelShape:
    """Sizes under their Hugging Face names, shortened. `tied`: the output layer is the embedding."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    max_positions: int
    tied: bool

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
        """Query and output, key and value, gated MLP, two norms of the layer and two of the heads."""
        attention = 2 * self.hidden * self.query + 2 * self.hidden * self.kv
        return attention + 3 * self.hidden * self.ffn + 2 * self.hidden + 2 * self.head_dim

    @property
    def parameters(self) -> int:
        matrices = 1 if self.tied else 2
        return self.layers * self.layer_parameters + matrices * self.embedding_parameters + self.hidden

    @property
    def kv_elements_per_token(self) -> int:
        return 2 * self.layers * self.kv


def _qwen3(hidden: int, layers: int, heads: int, ffn: int, *, tied: bool) -> ModelShape:
    return ModelShape(151936, hidden, layers, heads, 8, 128, ffn, 32768, tied)


# Public figures (Qwen3 technical report, arXiv 2505.09388, and the config.json of each model on Hugging Face).
PUBLIC_SHAPES = {
    "Qwen3-0.6B": _qwen3(1024, 28, 16, 3072, tied=True),
    "Qwen3-1.7B": _qwen3(2048, 28, 16, 6144, tied=True),
    "Qwen3-4B": _qwen3(2560, 36, 32, 9728, tied=True),
    "Qwen3-8B": _qwen3(4096, 36, 32, 12288, tied=False),
    "Qwen3-14B": _qwen3(5120, 40, 40, 17408, tied=False),
    "Qwen3-32B": _qwen3(5120, 64, 64, 25600, tied=False),
}


def public_shape(path: str) -> tuple[str, ModelShape] | None:
    """The public model that the last part of `path` names (`.../Qwen3-8B-Base`), if any."""
    name = re.sub(r"-Base$", "", Path(path).name)
    return (name, PUBLIC_SHAPES[name]) if name in PUBLIC_SHAPES else None


def read_config_json(key: str, folder: str) -> dict[str, Any]:
    """The config.json of a Hugging Face folder; `key` is the configuration key that named it.

    Raises UserError where the folder or the file is missing or is not JSON.
    """
    if not Path(folder).is_dir():
        raise UserError(
            f"{key}={folder} is not a folder: run tools/make_tiny_family.py for the tiny family, "
            "or give the folder of a Hugging Face model"
        )
    path = Path(folder) / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{key}={folder} has no config.json: give the folder of a Hugging Face model") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON: fetch the model again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object: fetch the model again")
    return content


def shape_from_config_json(path: Path, content: dict[str, Any]) -> ModelShape:
    """Raises UserError where the model is not a Qwen3 or a figure is missing."""
    if content.get("model_type") != "qwen3":
        raise UserError(f"{path}: model_type={content.get('model_type')} is not supported: give a qwen3 model")

    def figure(name: str) -> int:
        value = content.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{path}: {name}={value} must be a positive integer: fetch the model again")
        return value

    return ModelShape(
        vocab=figure("vocab_size"),
        hidden=figure("hidden_size"),
        layers=figure("num_hidden_layers"),
        heads=figure("num_attention_heads"),
        kv_heads=figure("num_key_value_heads"),
        head_dim=figure("head_dim"),
        ffn=figure("intermediate_size"),
        max_positions=figure("max_position_embeddings"),
        tied=bool(content.get("tie_word_embeddings", False)),
    )
