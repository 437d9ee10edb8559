"""Every model family, and all that this project knows of each: one entry of one table.

    FAMILIES.register("mymodel", Family(table=LLAMA, architecture="MyModelForCausalLM"))

The name of an entry is the `model_type` of its config.json. A family fits if it is a decoder of Qwen3's kind (rotary
positions, RMSNorm, grouped attention, a gated MLP with SiLU): then its names and the differences below are all that
conversion, training and engines need.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from s2l_nemo.models.names import INTERNLM2, LLAMA, Q_NORM, QKV_BIAS, QWEN2, QWEN3, Table
from s2l_nemo.models.rope import STRETCHED, Llama3Scaling, RopeType
from s2l_nemo.registry import Registry

AS_LLAMA = "llama"  # the family of --as-llama, which every engine knows
Facts = Mapping[str, Any]

_CONFIG: Facts = MappingProxyType({"hidden_act": "silu", "attention_bias": False})
_NEMO: Facts = MappingProxyType(
    {
        "mcore_gpt": True,
        "normalization": "rmsnorm",
        "activation": "fast-swiglu",
        "bias": False,
        "position_embedding_type": "rope",
        "rotary_percentage": 1.0,
    }
)
_DEFAULTS: Facts = MappingProxyType({"rope_theta": 1e4, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048})
_OF_QWEN = {**_DEFAULTS, "num_key_value_heads": 32, "max_position_embeddings": 32768}
_NONE: Mapping[str, Facts] = MappingProxyType({})


@dataclass(frozen=True)
class EngineForm:
    """The family as which engines run a model whose own code is remote. Both compute the same from the same weights."""

    family: str
    dropped: tuple[str, ...]  # keys of config.json that the other family does not have
    added: Facts  # keys of config.json that only the other family has


@dataclass(frozen=True)
class Family:
    """What is known of a family. The defaults are what most families have."""

    table: Table
    architecture: str  # class of transformers, `architectures` of config.json
    states_head_dim: bool = False  # config.json must have head_dim; else hidden_size / num_attention_heads if absent
    refused: tuple[str, ...] = ("bias", "attention_bias", "mlp_bias", "use_sliding_window")
    """Switches of config.json for parts that this project would leave out. A model that sets one is refused."""
    rope_scaling: frozenset[RopeType] = STRETCHED  # types that are accepted
    config: Facts = field(default_factory=lambda: _CONFIG)
    """What config.json says of every model of the family."""
    defaults: Facts = field(default_factory=lambda: _DEFAULTS)
    """What the class of transformers takes for figures that config.json does not state."""
    nemo: Facts = field(default_factory=lambda: _NEMO)
    """What NeMo's model_config.yaml says of every model of the family."""
    engine_form: EngineForm | None = None  # None: engines know the family itself
    public: Mapping[str, Facts] = field(default_factory=lambda: _NONE)
    """Figures of public models by name, under the names of `ModelShape`: what a plan needs before a download."""

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalised per head: whether the table has a weight for it."""
        return self._has(Q_NORM)

    @property
    def qkv_bias(self) -> bool:
        """Whether queries, keys and values have biases."""
        return self._has(QKV_BIAS)

    def _has(self, megatron: str) -> bool:
        return any(rule.megatron == megatron for rule in self.table.layer)


def _qwen3(hidden: int, layers: int, heads: int, ffn: int, *, tied: bool) -> Facts:
    return {
        "vocab": 151936, "hidden": hidden, "layers": layers, "heads": heads, "kv_heads": 8, "head_dim": 128,
        "ffn": ffn, "max_positions": 32768, "tied": tied, "rope_theta": 1e6, "rms_norm_eps": 1e-6,
    }  # fmt: skip


def _qwen2_5(
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    ffn: int,
    *,
    vocab: int = 152064,
    tied: bool = False,
    positions: int = 131072,
    theta: float = 1e6,
    eps: float = 1e-6,
) -> Facts:
    return {
        "vocab": vocab, "hidden": hidden, "layers": layers, "heads": heads, "kv_heads": kv_heads,
        "head_dim": hidden // heads, "ffn": ffn, "max_positions": positions, "tied": tied, "rope_theta": theta,
        "rms_norm_eps": eps,
    }  # fmt: skip


def _llama3(hidden: int, layers: int, heads: int, ffn: int, *, factor: float | None, tied: bool = False) -> Facts:
    return {
        "vocab": 128256, "hidden": hidden, "layers": layers, "heads": heads, "kv_heads": 8,
        "head_dim": hidden // heads, "ffn": ffn, "max_positions": 8192 if factor is None else 131072, "tied": tied,
        "rope_theta": 5e5, "rms_norm_eps": 1e-5,
        "rope_scaling": None if factor is None else Llama3Scaling(factor, 1.0, 4.0, 8192),
    }  # fmt: skip


def _internlm2_5(hidden: int, layers: int, heads: int, ffn: int) -> Facts:
    return {
        "vocab": 92544, "hidden": hidden, "layers": layers, "heads": heads, "kv_heads": 8, "head_dim": 128,
        "ffn": ffn, "max_positions": 32768, "tied": False, "rope_theta": 1e6, "rms_norm_eps": 1e-5,
    }  # fmt: skip


# Public figures: the Qwen3 technical report (arXiv 2505.09388), and the config.json of each model on Hugging Face.
FAMILIES: Registry[Family] = Registry(
    "model_type",
    {
        "qwen3": Family(
            table=QWEN3,
            architecture="Qwen3ForCausalLM",
            states_head_dim=True,
            defaults=MappingProxyType({**_OF_QWEN, "head_dim": 128}),
            public=MappingProxyType(
                {
                    "Qwen3-0.6B": _qwen3(1024, 28, 16, 3072, tied=True),
                    "Qwen3-1.7B": _qwen3(2048, 28, 16, 6144, tied=True),
                    "Qwen3-4B": _qwen3(2560, 36, 32, 9728, tied=True),
                    "Qwen3-8B": _qwen3(4096, 36, 32, 12288, tied=False),
                    "Qwen3-14B": _qwen3(5120, 40, 40, 17408, tied=False),
                    "Qwen3-32B": _qwen3(5120, 64, 64, 25600, tied=False),
                }
            ),
        ),
        "internlm2": Family(
            table=INTERNLM2,
            architecture="InternLM2ForCausalLM",
            rope_scaling=frozenset({RopeType.PLAIN, RopeType.DYNAMIC}),
            engine_form=EngineForm(
                family=AS_LLAMA,
                dropped=("auto_map", "rope_scaling", "bias", "attn_implementation"),
                added=MappingProxyType({"attention_bias": False, "mlp_bias": False, "rope_scaling": None}),
            ),
            public=MappingProxyType(
                {
                    "internlm2_5-1_8b": _internlm2_5(2048, 24, 16, 8192),
                    "internlm2_5-7b": _internlm2_5(4096, 32, 32, 14336),
                }
            ),
        ),
        AS_LLAMA: Family(
            table=LLAMA,
            architecture="LlamaForCausalLM",
            public=MappingProxyType(
                {
                    "Meta-Llama-3-8B": _llama3(4096, 32, 32, 14336, factor=None),
                    "Meta-Llama-3-70B": _llama3(8192, 80, 64, 28672, factor=None),
                    "Llama-3.1-8B": _llama3(4096, 32, 32, 14336, factor=8.0),
                    "Llama-3.1-70B": _llama3(8192, 80, 64, 28672, factor=8.0),
                    "Llama-3.2-1B": _llama3(2048, 16, 32, 8192, factor=32.0, tied=True),
                    "Llama-3.2-3B": _llama3(3072, 28, 24, 8192, factor=32.0, tied=True),
                }
            ),
        ),
        "qwen2": Family(  # and 2.5
            table=QWEN2,
            architecture="Qwen2ForCausalLM",
            refused=("bias", "mlp_bias", "use_sliding_window"),  # transformers reads no attention_bias
            config=MappingProxyType({"hidden_act": "silu", "use_sliding_window": False}),
            defaults=MappingProxyType(_OF_QWEN),
            public=MappingProxyType(
                {
                    "Qwen2.5-0.5B": _qwen2_5(896, 24, 14, 2, 4864, vocab=151936, tied=True, positions=32768),
                    "Qwen2.5-1.5B": _qwen2_5(1536, 28, 12, 2, 8960, vocab=151936, tied=True),
                    "Qwen2.5-3B": _qwen2_5(2048, 36, 16, 2, 11008, vocab=151936, tied=True, positions=32768),
                    "Qwen2.5-7B": _qwen2_5(3584, 28, 28, 4, 18944),
                    "Qwen2.5-14B": _qwen2_5(5120, 48, 40, 8, 13824, eps=1e-5),
                    "Qwen2.5-32B": _qwen2_5(5120, 64, 40, 8, 27648, eps=1e-5),
                    "Qwen2.5-72B": _qwen2_5(8192, 80, 64, 8, 29568, eps=1e-5),
                    "Qwen2.5-Math-1.5B": _qwen2_5(
                        1536, 28, 12, 2, 8960, vocab=151936, tied=True, positions=4096, theta=1e4
                    ),
                    "Qwen2.5-Math-7B": _qwen2_5(3584, 28, 28, 4, 18944, positions=4096, theta=1e4),
                }
            ),
        ),
    },
)
