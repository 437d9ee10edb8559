"""The names that Megatron-LM reads of a checkpoint's `args`.

Source: NVIDIA/Megatron-LM, `load_args_from_checkpoint`, `check_checkpoint_args` and `load_checkpoint` of
`megatron/training/checkpointing.py`, tags core_v0.11.0 to core_v0.19.0 and the main branch at d98e8a64 (August 2026).
`names_of` reads them out of a clone.
"""

from __future__ import annotations

import re
from pathlib import Path

MODEL = frozenset({
    "num_layers", "hidden_size", "ffn_hidden_size", "seq_length", "num_attention_heads", "num_query_groups",
    "group_query_attention", "kv_channels", "max_position_embeddings", "position_embedding_type",
    "add_position_embedding", "use_rotary_position_embeddings", "rotary_base", "rotary_percent", "rotary_interleaved",
    "add_bias_linear", "add_qkv_bias", "squared_relu", "swiglu", "untie_embeddings_and_output_weights",
    "apply_layernorm_1p", "normalization", "apply_query_key_layer_scaling", "attention_dropout", "hidden_dropout",
    "padded_vocab_size", "ckpt_format", "tensor_model_parallel_size", "pipeline_model_parallel_size",
})  # fmt: skip
"""Of a dense decoder and its checkpoint: each has a value."""

STRICT = frozenset({"tensor_model_parallel_size", "pipeline_model_parallel_size", "make_vocab_size_divisible_by"})
"""Read without a default: without one of them the loader ends in an AttributeError."""

FOR_OTHERS = frozenset({
    "hybrid_override_pattern", "hybrid_layer_pattern", "hybrid_attention_ratio", "hybrid_mlp_ratio", "is_hybrid_model",
    "mamba_state_dim", "mamba_head_dim", "mamba_num_groups", "mamba_num_heads", "gdp_num_householder",
    "num_experts", "moe_layer_freq", "moe_ffn_hidden_size", "moe_router_topk", "moe_token_dispatcher_type",
    "moe_router_pre_softmax", "moe_grouped_gemm", "moe_single_grouped_weight", "moe_single_grouped_bias",
    "moe_shared_expert_intermediate_size", "moe_router_score_function", "moe_router_enable_expert_bias",
    "moe_router_topk_scaling_factor", "moe_latent_size", "expert_model_parallel_size",
    "mtp_hybrid_override_pattern", "mtp_num_layers", "mtp_use_repeated_layer",
    "heterogeneous_layers_config_path", "heterogeneous_layers_config_encoded_json", "spec",
    "virtual_pipeline_model_parallel_size", "num_layers_per_virtual_pipeline_stage",
    "tokenizer_type", "tokenizer_model", "tiktoken_pattern",
})  # fmt: skip
"""Of other architectures, or of the machine of the run: without a value the loader keeps what the user has given."""


def names_of(clone: Path) -> frozenset[str]:
    """What `--use-checkpoint-args` reads, in the sources of a clone."""
    text = (clone / "megatron" / "training" / "checkpointing.py").read_text()
    return frozenset(re.findall(r"\b_set_arg\(\s*['\"](\w+)['\"]", text))
