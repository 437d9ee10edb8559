"""The architecture of a model in NeMo's words (`model_config.yaml`) and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2l_nemo.errors import UserError
from s2l_nemo.models.families import FAMILIES
from s2l_nemo.models.formats.dtypes import BFLOAT16, FLOAT16, FLOAT32, Dtype
from s2l_nemo.models.shape import ModelShape

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
}


def architecture(shape: ModelShape) -> dict[str, Any]:
    """NeMo's keys for a model of these figures, as MegatronGPTModel reads them."""
    return {
        **FAMILIES[shape.family].nemo,
        **{key: getattr(shape, field) for field, key in _FIGURES.items()},
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
    family = _family_of_nemo(path, config, qk_norm=bool(values.pop("qk_norm")))
    values["kv_heads"] = values["kv_heads"] or values["heads"]
    if values["head_dim"] is None and values["hidden"] and values["heads"]:
        values["head_dim"] = values["hidden"] // values["heads"]
    values["vocab"] = values["vocab"] or vocab
    values["tied"] = bool(values["tied"])
    missing = [_FIGURES[field] for field, value in values.items() if value is None]
    if missing:
        raise UserError(f"{path} has no {', '.join(missing)}: give the model_config.yaml that belongs to the weights")
    return ModelShape(family=family, **values)


def _family_of_nemo(path: Path, config: Mapping[str, Any], *, qk_norm: bool) -> str:
    """The first family of which a model_config.yaml may be.

    NeMo has one set of names for all, so a family that is another one under other names is never the answer. Raises
    UserError if there is none.
    """
    faults: list[str] = []
    for name in FAMILIES.names():
        family = FAMILIES[name]
        if family.engine_form is not None or family.qk_norm != qk_norm:
            continue
        others = [key for key, wanted in family.nemo.items() if config.get(key, wanted) != wanted]
        if not others:
            return name
        faults += [f"{key}={config[key]} is not supported: only {key}={family.nemo[key]} is" for key in others]
    raise UserError(f"{path}: {faults[0]}")


def check_same_figures(path: Path, config: Mapping[str, Any], shape: ModelShape) -> None:
    """Raises UserError if model_config.yaml and the Hugging Face config.json beside it describe two models."""
    for field, key in _FIGURES.items():
        value = config.get(key)
        if value is not None and value != getattr(shape, field):
            raise UserError(
                f"{path}: {key}={value}, but config.json of the same checkpoint says {getattr(shape, field)}: "
                "the two do not belong together"
            )
