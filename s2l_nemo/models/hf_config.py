"""config.json of a Hugging Face model: its figures, and what changes in it with the names of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2l_nemo.errors import UserError
from s2l_nemo.models.families import FAMILIES
from s2l_nemo.models.formats.dtypes import DTYPES, WEIGHTS, Dtype
from s2l_nemo.models.rope import hf_rope_scaling, rope_scaling_of
from s2l_nemo.models.shape import ModelShape, check_divides


def shape_from_config_json(path: Path, content: Mapping[str, Any]) -> ModelShape:
    """The figures of a config.json. `path` names it in messages.

    Raises UserError if no family has this name, the model has parts that this project lacks, or a figure is missing.
    """
    name = content.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        *others, last = FAMILIES.names()
        raise UserError(f"{path}: model_type={name} is not supported: give a {', '.join(others)} or {last} model")
    _refuse_variants(path, content, name)

    given = {**FAMILIES[name].defaults, **content}
    hidden, heads = _figure(path, given, "hidden_size"), _figure(path, given, "num_attention_heads")
    kv_heads = heads if given.get("num_key_value_heads") is None else _figure(path, given, "num_key_value_heads")
    if FAMILIES[name].states_head_dim or given.get("head_dim") is not None:
        head_dim = _figure(path, given, "head_dim")
    else:
        check_divides(path, "num_attention_heads", heads, "hidden_size", hidden)
        head_dim = hidden // heads
    check_divides(path, "num_key_value_heads", kv_heads, "num_attention_heads", heads)
    moved = content.get("rope_parameters") or {}  # where transformers 5 has theta
    if not isinstance(moved, Mapping):
        raise UserError(f"{path}: rope_parameters={moved} must be an object: fetch the model again")
    theta = _positive(path, {**given, **moved}, "rope_theta")
    if theta <= 1:  # the logarithm of it is divided by
        raise UserError(f"{path}: rope_theta={theta} must be greater than 1: fetch the model again")
    tied = given.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise UserError(f"{path}: tie_word_embeddings={tied} must be true or false: fetch the model again")
    rope_scaling = rope_scaling_of(path, content, FAMILIES[name].rope_scaling)
    return ModelShape(
        family=name,
        vocab=_figure(path, given, "vocab_size"),
        hidden=hidden,
        layers=_figure(path, given, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=_figure(path, given, "intermediate_size"),
        max_positions=_figure(path, given, "max_position_embeddings"),
        tied=tied,
        rope_theta=theta,
        rms_norm_eps=_positive(path, given, "rms_norm_eps"),
        rope_scaling=rope_scaling,
    )


def _figure(path: Path, given: Mapping[str, Any], name: str) -> int:
    value = given.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**31:
        raise UserError(f"{path}: {name}={_shown(value)} must be a positive integer: fetch the model again")
    return value


def _positive(path: Path, given: Mapping[str, Any], name: str) -> float:
    value = given.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e300:
        raise UserError(f"{path}: {name}={_shown(value)} must be a positive number: fetch the model again")
    return float(value)


def _shown(value: Any) -> str:
    """A value that may be anything, also an integer that has more digits than Python prints."""
    return f"{value!s:.80}" if not isinstance(value, int) or abs(value) < 2**63 else "a number of more than 64 bits"


def _refuse_variants(path: Path, content: Mapping[str, Any], name: str) -> None:
    """Refuses what the actor would otherwise leave out without a word."""
    family = FAMILIES[name]
    for switch in family.refused:
        if content.get(switch):
            raise UserError(f"{path}: {switch}={content[switch]} is not supported: give a model without it")
    if content.get("quantization_config"):
        raise UserError(
            f"{path}: quantization_config is not supported: give the model before it was quantised, or take the key "
            "out if its weights are not"
        )
    if content.get("hidden_act", "silu") != "silu":
        raise UserError(f"{path}: hidden_act={content['hidden_act']} is not supported: give a model with silu")


def stated_dtype(path: Path, config: Mapping[str, Any]) -> Dtype | None:
    """The type that config.json says the weights have. transformers 5 calls it `dtype`."""
    name = config.get("torch_dtype") or config.get("dtype")
    if name is None:
        return None
    if DTYPES.get(str(name)) not in WEIGHTS:
        raise UserError(f"{path}: torch_dtype={name} is not supported: give bfloat16, float16 or float32 weights")
    return DTYPES[name]


def with_dtype(config: Mapping[str, Any], dtype: Dtype) -> dict[str, Any]:
    """`config` with the type of the weights that are written, in its place and under its name."""
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    return {**config, **dict.fromkeys(keys, dtype.name)}


def config_of_shape(shape: ModelShape, dtype: Dtype) -> dict[str, Any]:
    """A config.json for weights whose own is not at hand."""
    family = FAMILIES[shape.family]
    return {
        "architectures": [family.architecture],
        "model_type": shape.family,
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.ffn,
        "max_position_embeddings": shape.max_positions,
        "rope_theta": shape.rope_theta,
        "rope_scaling": hf_rope_scaling(shape.rope_scaling),
        "rms_norm_eps": shape.rms_norm_eps,
        "tie_word_embeddings": shape.tied,
        **family.config,
        "torch_dtype": dtype.name,
    }


def engine_config(config: Mapping[str, Any], shape: ModelShape) -> dict[str, Any]:
    """`config` as engines know the model: that of the family as which they run it (see `EngineForm`).

    transformers before version 5, which the embedded engine is, does not read `rope_parameters`.
    """
    form = FAMILIES[shape.family].engine_form
    if "rope_parameters" in config:
        config = {**config, "rope_theta": shape.rope_theta, "rope_scaling": hf_rope_scaling(shape.rope_scaling)}
    if form is None:
        return dict(config)
    kept = {key: value for key, value in config.items() if key not in form.dropped}
    return {
        **kept,
        "architectures": [FAMILIES[form.family].architecture],
        "model_type": form.family,
        "head_dim": shape.head_dim,
        **form.added,
    }


def engine_tokenizer_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json without remote code: a tokenizer.json loads without it."""
    kept = {key: value for key, value in config.items() if key != "auto_map"}
    return {**kept, "tokenizer_class": "PreTrainedTokenizerFast"}
