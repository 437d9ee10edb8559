"""What Megatron-LM's own loader reads beside the weights of a checkpoint, and what it has to be told.

Source: `megatron/training/checkpointing.py` and `arguments.py` of NVIDIA/Megatron-LM, tags core_v0.11.0 to
core_v0.19.0.
"""

from __future__ import annotations

from s2l_nemo.models.formats.dtypes import BFLOAT16, FLOAT16, Dtype
from s2l_nemo.models.formats.torch_pickle import Global, Instance
from s2l_nemo.models.rope import Llama3Scaling
from s2l_nemo.models.shape import ModelShape


def common_items(shape: ModelShape, dtype: Dtype) -> dict[str, object]:
    """What Megatron-LM's `load_checkpoint` and `--use-checkpoint-args` read of common.pt (its `checkpointing.py`)."""
    arguments = {
        "num_layers": shape.layers,
        "hidden_size": shape.hidden,
        "ffn_hidden_size": shape.ffn,
        "num_attention_heads": shape.heads,
        "group_query_attention": shape.kv_heads != shape.heads,
        "num_query_groups": shape.kv_heads,
        "kv_channels": shape.head_dim,
        "max_position_embeddings": shape.max_positions,
        "seq_length": min(shape.max_positions, 4096),
        "padded_vocab_size": shape.vocab,
        "make_vocab_size_divisible_by": 1,
        "position_embedding_type": "rope",
        "add_position_embedding": False,
        "use_rotary_position_embeddings": True,
        "rotary_base": int(shape.rope_theta) if shape.rope_theta.is_integer() else shape.rope_theta,
        "rotary_percent": 1.0,
        "rotary_interleaved": False,
        "normalization": "RMSNorm",
        "norm_epsilon": shape.rms_norm_eps,
        "qk_layernorm": shape.qk_norm,
        "swiglu": True,
        "squared_relu": False,
        "apply_layernorm_1p": False,
        "add_bias_linear": False,
        "add_qkv_bias": shape.qkv_bias,
        "apply_query_key_layer_scaling": False,
        "untie_embeddings_and_output_weights": not shape.tied,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "bf16": dtype == BFLOAT16,
        "fp16": dtype == FLOAT16,
        "params_dtype": Global(f"torch {dtype.name}"),
        "ckpt_format": "torch_dist",
        "tensor_model_parallel_size": 1,
        "pipeline_model_parallel_size": 1,
        "no_save_optim": True,
        "no_save_rng": True,
    }
    if isinstance(shape.rope_scaling, Llama3Scaling):
        arguments |= {"use_rope_scaling": True, "rope_scaling_factor": shape.rope_scaling.factor}
    namespace = Instance(Global("argparse Namespace"), arguments)
    return {"args": namespace, "checkpoint_version": 3.0, "iteration": 0}


_LLAMA3 = (1.0, 4.0, 8192)  # slow, fast and original positions: constants of its `rotary_pos_embedding.py`


def load_arguments(shape: ModelShape, dtype: Dtype) -> list[str]:
    """Arguments that Megatron-LM needs beside `--load`.

    `--use-checkpoint-args` reads sizes from the checkpoint, but none of the others. Without them its loader says
    nothing and goes on with another model: it leaves the norms of heads out, or adds another epsilon.
    """
    arguments = ["--use-checkpoint-args", "--norm-epsilon", repr(shape.rms_norm_eps)]
    if shape.qk_norm:
        arguments.append("--qk-layernorm")
    if isinstance(shape.rope_scaling, Llama3Scaling):
        arguments += ["--use-rope-scaling", "--rope-scaling-factor", repr(shape.rope_scaling.factor)]
    halves = {BFLOAT16: ["--bf16"], FLOAT16: ["--fp16"]}
    return arguments + halves.get(dtype, [])


def knows_positions(shape: ModelShape) -> bool:
    """Whether arguments of Megatron-LM can express the positions: plain ones, or Llama 3.1's from 8,192 tokens on."""
    scaling = shape.rope_scaling
    if isinstance(scaling, Llama3Scaling):
        return (scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_max_positions) == _LLAMA3
    return scaling is None
