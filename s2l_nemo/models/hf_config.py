"""The small files of a Hugging Face folder: which they are, and what changes with the names of the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2l_nemo.models.shape import ModelShape
from s2l_nemo.models.formats.dtypes import DTYPES, WEIGHTS, Dtype
from s2l_nemo.models.formats.regions import Region, folder_regions
from s2l_nemo.errors import UserError

_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".ckpt", ".gguf",
            ".h5", ".msgpack", ".onnx")  # fmt: skip
_LARGEST = 256 * 2**20  # bytes; a tokenizer has some ten million
_AS_LLAMA_DROPPED = ("auto_map", "rope_scaling", "bias", "attn_implementation")


def small_files(folder: Path) -> dict[str, Region]:
    """What goes along with the weights: every file of the folder itself that holds none and is not hidden.

    Code files of a model come along as text; nothing of this project runs them.
    """
    return {
        name: region
        for name, region in folder_regions(folder, recursive=False).items()
        if not name.endswith(_WEIGHTS) and not name.startswith(".") and name != "SHA256SUMS" and region.size < _LARGEST
    }


def read_json_object(region: Region) -> dict[str, Any]:
    """Raises UserError where the file is not a JSON object."""
    try:
        content = json.loads(region.read())
    except (ValueError, RecursionError):
        raise UserError(f"{region.path}: a JSON file of the checkpoint is not JSON: fetch the model again") from None
    if not isinstance(content, dict):
        raise UserError(f"{region.path}: a JSON file of the checkpoint is no object: fetch the model again")
    return content


def stated_dtype(path: Path, config: Mapping[str, Any]) -> Dtype | None:
    """The type that config.json says the weights have; transformers 5 calls it `dtype`."""
    name = config.get("torch_dtype") or config.get("dtype")
    if name is None:
        return None
    if DTYPES.get(str(name)) not in WEIGHTS:
        raise UserError(f"{path}: torch_dtype={name} is not supported: give bfloat16, float16 or float32 weights")
    return DTYPES[name]


def with_dtype(config: Mapping[str, Any], dtype: Dtype) -> dict[str, Any]:
    """`config` with the type of the weights that are written, in its place and under its name."""
    key = "dtype" if "dtype" in config else "torch_dtype"
    return {**config, key: dtype.name}


def llama_config(config: Mapping[str, Any], shape: ModelShape) -> dict[str, Any]:
    """InternLM2.5's config.json as that of the Llama which computes the same, for engines that know no InternLM."""
    kept = {key: value for key, value in config.items() if key not in _AS_LLAMA_DROPPED}
    return {
        **kept,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "head_dim": shape.head_dim,
        "attention_bias": False,
        "mlp_bias": False,
        "rope_scaling": None,  # acts only past max_position_embeddings
    }


def config_of_shape(shape: ModelShape, dtype: Dtype) -> dict[str, Any]:
    """A config.json for weights whose own is not at hand, from the figures in model_config.yaml."""
    qwen3 = shape.family == "qwen3"
    return {
        "architectures": ["Qwen3ForCausalLM" if qwen3 else "LlamaForCausalLM"],
        "model_type": "qwen3" if qwen3 else "llama",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.ffn,
        "max_position_embeddings": shape.max_positions,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.rms_norm_eps,
        "tie_word_embeddings": shape.tied,
        "hidden_act": "silu",
        "attention_bias": False,
        "torch_dtype": dtype.name,
    }


def tokenizer_config_as_llama(config: Mapping[str, Any], has_tokenizer_json: bool) -> dict[str, Any]:
    """Without the remote code of InternLM2.5's tokenizer: a tokenizer.json loads without it, a sentencepiece model as
    Llama's."""
    kept = {key: value for key, value in config.items() if key != "auto_map"}
    return {**kept, "tokenizer_class": "PreTrainedTokenizerFast" if has_tokenizer_json else "LlamaTokenizer"}
