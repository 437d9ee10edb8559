"""The figures of a model. Nothing about a size is known elsewhere."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from s2l_nemo.errors import UserError
from s2l_nemo.models.families import FAMILIES
from s2l_nemo.models.names import DOWN, EMBEDDING, GATE_UP, K_NORM, OUTPUT, PROJECTION, Q_NORM, QKV, QKV_BIAS, Rule
from s2l_nemo.models.rope import RopeScaling


@dataclass(frozen=True)
class ModelShape:
    """Figures under their Hugging Face names, shortened. `tied`: the output layer is the embedding."""

    family: str  # its name in FAMILIES
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
    rope_scaling: RopeScaling | None = None  # None: plain positions

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalised per head."""
        return FAMILIES[self.family].qk_norm

    @property
    def qkv_bias(self) -> bool:
        """Whether queries, keys and values have biases."""
        return FAMILIES[self.family].qkv_bias

    @property
    def engine_family(self) -> str:
        """The family as which engines run the model: another one if its own code is remote (see `EngineForm`)."""
        form = FAMILIES[self.family].engine_form
        return self.family if form is None else form.family

    @property
    def query(self) -> int:
        """Rows of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        """Rows of all key heads together, and of all value heads."""
        return self.kv_heads * self.head_dim

    @property
    def embedding_parameters(self) -> int:
        return self.vocab * self.hidden

    @property
    def layer_parameters(self) -> int:
        """Elements of all tensors of one layer."""
        return sum(math.prod(full_shape(rule, self)) for rule in FAMILIES[self.family].table.layer)

    @property
    def parameters(self) -> int:
        matrices = 1 if self.tied else 2
        return self.layers * self.layer_parameters + matrices * self.embedding_parameters + self.hidden

    @property
    def kv_elements_per_token(self) -> int:
        """Elements that the KV cache keeps of one token."""
        return 2 * self.layers * self.kv


def check_divides(path: Path, name: str, value: int, whole_name: str, whole: int) -> None:
    """Raises UserError, which begins with `path`, unless one figure divides another."""
    if whole % value:
        raise UserError(f"{path}: {name}={value} does not divide {whole_name}={whole}: correct it")


def full_shape(rule: Rule, shape: ModelShape) -> tuple[int, ...]:
    """The shape of a Megatron tensor that is not cut."""
    shapes: Mapping[str, tuple[int, ...]] = {
        QKV: (shape.query + 2 * shape.kv, shape.hidden),
        QKV_BIAS: (shape.query + 2 * shape.kv,),
        Q_NORM: (shape.head_dim,),
        K_NORM: (shape.head_dim,),
        PROJECTION: (shape.hidden, shape.query),
        GATE_UP: (2 * shape.ffn, shape.hidden),
        DOWN: (shape.hidden, shape.ffn),
        EMBEDDING: (shape.vocab, shape.hidden),
        OUTPUT: (shape.vocab, shape.hidden),
    }
    return shapes.get(rule.megatron, (shape.hidden,))


def public_shapes() -> dict[str, ModelShape]:
    """The public models of all families by name."""
    return {
        name: ModelShape(family=family, **figures)
        for family in FAMILIES.names()
        for name, figures in FAMILIES[family].public.items()
    }


def public_shape(path: str) -> tuple[str, ModelShape] | None:
    """The public model that the last part of `path` names (`.../Qwen3-8B-Base`), if any.

    A base model and its instruct model have the same figures, but for the positions of some.
    """
    name = re.sub(r"-(Base|Instruct)$", "", Path(path).name)
    shape = public_shapes().get(name)
    return None if shape is None else (name, shape)
