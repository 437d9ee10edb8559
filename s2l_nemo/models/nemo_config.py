"""The architecture of a model in NeMo's words (`model_config.yaml`) and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import assert_never

from s2l_nemo.errors import UserError
from s2l_nemo.models.families import FAMILIES
from s2l_nemo.models.formats.dtypes import BFLOAT16, FLOAT16, FLOAT32, Dtype
from s2l_nemo.models.rope import (
    STRETCHED,
    Llama3Scaling,
    RopeScaling,
    YarnScaling,
    hf_rope_scaling,
    llama3_scaling,
    rope_scaling_of,
)
from s2l_nemo.models.shape import ModelShape, check_divides

PRECISION = {BFLOAT16: "bf16", FLOAT16: "16", FLOAT32: "32"}

_FIGURES = {  # field of ModelShape: key of NeMo
    "layers": "num_layers",
    "hidden": "hidden_size",
    "ffn": "ffn_hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_query_groups",
    "head_dim": "kv_channels",
    "max_positions": "max_position_embeddings",
    "rope_theta": "rotary_base",
    "rms_norm_eps": "layernorm_epsilon",
    "tied": "share_embeddings_and_output_weights",
    "vocab": "override_vocab_size",  # the model's rows, not the tokenizer's: padding enters the softmax
    "qk_norm": "qk_layernorm",  # NeMo restores without the norms, and without a word, if this is not set
    "qkv_bias": "qkv_bias",
}
_LLAMA3 = {  # key of config.json: key of NeMo, and what NeMo takes for one that is absent
    "factor": ("scale_factor", 8.0),
    "low_freq_factor": ("low_freq_factor", 1.0),
    "high_freq_factor": ("high_freq_factor", 4.0),
    "original_max_position_embeddings": ("old_context_len", 8192),
}
_IS_LLAMA3 = "scale_positional_embedding"
_YARN = "rope_scaling"  # a key of this project, as in config.json: NeMo 2.4 knows no YaRN


def architecture(shape: ModelShape) -> dict[str, Any]:
    """NeMo's keys for a model of these figures, as MegatronGPTModel reads them."""
    return {
        **FAMILIES[shape.family].nemo,
        **{key: getattr(shape, field) for field, key in _FIGURES.items()},
        **_positions(shape),
        "make_vocab_size_divisible_by": 1,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "ffn_dropout": 0.0,
        "init_method_std": 0.02,
        "masked_softmax_fusion": False,
        "bias_activation_fusion": False,
        "bias_dropout_add_fusion": False,
        "gradient_accumulation_fusion": False,
        "apply_rope_fusion": False,
        "persist_layer_norm": False,
    }


def _positions(shape: ModelShape) -> dict[str, Any]:
    """YaRN multiplies queries and keys. Megatron multiplies neither, so its scores get the square."""
    match scaling := shape.rope_scaling:
        case None:
            return {_IS_LLAMA3: False}
        case Llama3Scaling():
            given = hf_rope_scaling(scaling) or {}
            return {_IS_LLAMA3: True, **{key: given[name] for name, (key, _) in _LLAMA3.items()}}
        case YarnScaling():
            softmax_scale = scaling.attention_factor**2 / math.sqrt(shape.head_dim)
            return {_IS_LLAMA3: False, _YARN: hf_rope_scaling(scaling), "softmax_scale": softmax_scale}
        case _:
            assert_never(scaling)


def rope_scaling_from_nemo(path: Path, config: Mapping[str, Any]) -> RopeScaling | None:
    """How a model_config.yaml stretches positions; None: not at all. `path` names it in messages.

    Raises UserError if it cannot be read.
    """
    if config.get(_IS_LLAMA3):
        return llama3_scaling(path, {name: config.get(key, default) for name, (key, default) in _LLAMA3.items()})
    return rope_scaling_of(path, config, STRETCHED)


def checkpoint_config(shape: ModelShape, dtype: Dtype, tokenizer: str, tp_size: int, pp_size: int) -> dict[str, Any]:
    """A whole `model_config.yaml`. A restore overrides its batch sizes and its optimizer."""
    return {
        **architecture(shape),
        "tensor_model_parallel_size": tp_size,
        "pipeline_model_parallel_size": pp_size,
        "sequence_parallel": tp_size > 1,
        "micro_batch_size": 1,
        "global_batch_size": 1,
        "encoder_seq_length": min(shape.max_positions, 4096),
        "precision": PRECISION[dtype],
        "megatron_amp_O2": dtype != FLOAT32,
        "tokenizer": {"library": "huggingface", "type": tokenizer, "use_fast": True},
        "target": "nemo.collections.nlp.models.language_modeling.megatron_gpt_model.MegatronGPTModel",
    }


def shape_from_nemo(path: Path, config: Mapping[str, Any], vocab: int) -> ModelShape:
    """The figures of a model_config.yaml. `vocab` is the number of rows stored, for a config that does not state it.

    Raises UserError if a figure is missing, or no family has this architecture.
    """
    values: dict[str, Any] = {field: config.get(key) for field, key in _FIGURES.items()}
    has = {name: bool(values.pop(name)) for name in ("qk_norm", "qkv_bias")}
    family = _family_of_nemo(path, config, has)
    values["kv_heads"] = values["kv_heads"] or values["heads"]
    if values["head_dim"] is None and values["hidden"] and values["heads"]:
        check_divides(path, _FIGURES["heads"], values["heads"], _FIGURES["hidden"], values["hidden"])
        values["head_dim"] = values["hidden"] // values["heads"]
    values["vocab"] = values["vocab"] or vocab
    values["tied"] = bool(values["tied"])
    missing = [_FIGURES[field] for field, value in values.items() if value is None]
    if missing:
        raise UserError(f"{path} has no {', '.join(missing)}: give the model_config.yaml that belongs to the weights")
    check_divides(path, _FIGURES["kv_heads"], values["kv_heads"], _FIGURES["heads"], values["heads"])
    return ModelShape(family=family, **values, rope_scaling=rope_scaling_from_nemo(path, config))


def _family_of_nemo(path: Path, config: Mapping[str, Any], has: Mapping[str, bool]) -> str:
    """The first family of which a model_config.yaml may be.

    NeMo has one set of names for all, so a family that is another one under other names is never the answer. `has`
    says which tensors it has that only some families have. Raises UserError if there is none.
    """
    faults = [f"no family has {' and '.join(f'{_FIGURES[name]}={value}' for name, value in has.items())}"]
    for name in FAMILIES.names():
        family = FAMILIES[name]
        if family.engine_form is not None or any(getattr(family, part) != value for part, value in has.items()):
            continue
        others = [key for key, wanted in family.nemo.items() if config.get(key, wanted) != wanted]
        if not others:
            return name
        faults += [f"{key}={config[key]} is not supported: only {key}={family.nemo[key]} is" for key in others]
    raise UserError(f"{path}: {faults[1] if len(faults) > 1 else faults[0]}")


def check_same_figures(path: Path, config: Mapping[str, Any], shape: ModelShape) -> None:
    """Raises UserError if model_config.yaml and the Hugging Face config.json beside it describe two models."""
    for field, key in _FIGURES.items():
        value = config.get(key)
        if value is not None and value != getattr(shape, field):
            raise UserError(
                f"{path}: {key}={value}, but config.json of the same checkpoint says {getattr(shape, field)}: "
                "the two do not belong together"
            )
    stated = any(config.get(key) is not None for key in (_IS_LLAMA3, _YARN))
    if stated and (scaling := rope_scaling_from_nemo(path, config)) != shape.rope_scaling:
        raise UserError(
            f"{path}: positions are scaled by {scaling}, but config.json of the same checkpoint says "
            f"{shape.rope_scaling}: the two do not belong together"
        )
