"""The keys of a stranger's model_config.yaml: what NeMo takes where one is absent, and which ones are refused.

A key that is not understood may change what the model computes, so it must have a neutral value. Sources: NeMo 2.4
`megatron_base_model.py`, `megatron_gpt_model.py` and `megatron_gpt_config.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2l_nemo.errors import UserError
from s2l_nemo.models.nemo_config import architecture
from s2l_nemo.models.shape import ModelShape

_DEFAULTS: Mapping[str, Any] = {  # of NeMo's code, which are not those of most models
    "share_embeddings_and_output_weights": True,
    "rotary_base": 10000.0,
    "layernorm_epsilon": 1e-5,
}
_INTEGERS = (
    "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "kv_channels",
    "max_position_embeddings", "override_vocab_size",
)  # fmt: skip
_NUMBERS = {"rotary_base": (1, 1e300), "layernorm_epsilon": (0, 1e300)}  # must lie between; log(rotary_base) divides
_SWITCHES = ("share_embeddings_and_output_weights", "qk_layernorm", "qkv_bias")
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {  # of keys whose neutral value is not empty
    "seq_len_interpolation_factor": (1,),
    "transformer_block_type": ("pre_ln",),
    "normalize_attention_scores": (True,),
    "attention_type": ("multihead",),
    "mcore_customization_config": ({},),
    "data_parallel_random_init": (False,),
}
_HARMLESS = frozenset({  # how a model is trained, run or written, not what it computes
    "account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split", "apex_transformer_log_level",
    "apply_query_key_layer_scaling", "apply_rope_fusion", "answer_only_loss", "async_grad_allreduce",
    "attention_backend", "attention_dropout", "attention_softmax_in_fp32", "batch_p2p_comm", "bias_activation_fusion",
    "bias_dropout_add_fusion", "context_parallel_size", "cross_entropy_loss_fusion", "deterministic_mode",
    "dist_ckpt_format", "dist_ckpt_load_strictness", "dist_ckpt_parallel_load", "dist_ckpt_parallel_save",
    "dist_ckpt_parallel_dist_opt", "dist_ckpt_torch_dist_multiproc", "do_layer_norm_weight_decay", "drop_last",
    "encoder_seq_length", "end_strings", "expert_model_parallel_size", "ffn_dropout", "force_convert_nemo",
    "fp16_lm_cross_entropy", "fp32_residual_connection", "gc_interval", "get_attention_mask_from_fusion",
    "global_batch_size", "grad_allreduce_chunk_size_mb", "grad_div_ar_fusion", "gradient_accumulation_fusion",
    "gradient_as_bucket_view", "hidden_dropout", "high_freq_factor", "hysteresis", "init_method_std",
    "log_prob_forward_micro_batch_size", "low_freq_factor", "make_vocab_size_divisible_by", "masked_softmax_fusion",
    "mcore_gpt", "megatron_amp_O2", "micro_batch_size", "min_length", "name", "native_amp_growth_interval",
    "native_amp_init_scale", "nemo_version", "old_context_len", "onnx_safe", "parallelization_specs",
    "persist_layer_norm", "pipeline_model_parallel_comm_backend", "pipeline_model_parallel_size",
    "pipeline_model_parallel_split_rank", "post_process", "pre_process", "precision", "reduce_amax",
    "resume_from_checkpoint", "restore_from_path", "sample_weight", "scale_factor", "seed", "sequence_parallel",
    "seq_length", "sharp", "target", "tensor_model_parallel_size", "tokenizer", "transformer_engine",
    "tp_only_amax_red", "tp_comm_overlap", "use_cpu_initialization", "use_flash_attention", "use_loss_mask",
    "use_scaled_init_method", "use_te_rng_tracker", "use_tp_pp_dp_mapping", "validation_drop_last",
    "validation_micro_batch_size", "validation_global_batch_size", "validation_param_sync_overlap",
    "virtual_pipeline_model_parallel_size",
    "with_distributed_adam", "with_fp32_embedding_grads", "world_size",
})  # fmt: skip
_HARMLESS_PREFIXES = (
    "activations_checkpoint_", "cpu_offloading", "distributed_adam_", "dist_ckpt_", "fp8", "fsdp", "grad_sync",
    "hf_", "inference", "nsys_", "skip_fp8", "ub_", "virtual_pipeline", "wgrad", "num_layers_in_",
    "moe_",  # without num_moe_experts they do nothing
)  # fmt: skip


def with_nemo_defaults(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with what NeMo takes where a figure is absent. `path` names it in messages.

    Raises UserError for a figure that is none.
    """
    complete = {**_DEFAULTS, **config}
    if complete.get("max_position_embeddings") is None and "encoder_seq_length" in config:
        complete["max_position_embeddings"] = config["encoder_seq_length"]
    for key in (*_INTEGERS, *_NUMBERS, *_SWITCHES):
        value = complete.get(key)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None:
            continue
        if key in _SWITCHES:
            good = isinstance(value, bool)
        else:
            low, high = _NUMBERS.get(key, (0, 2**31))
            good = is_number and low < value < high and (key in _NUMBERS or isinstance(value, int))
        if not good:
            kind = "true or false" if key in _SWITCHES else f"a number greater than {low}"
            kind = "a positive integer" if key in _INTEGERS else kind
            raise UserError(f"{path}: {key}={_shown(value)} must be {kind}: correct it")
    return complete


def check_keys(path: Path, config: Mapping[str, Any], shape: ModelShape) -> None:
    """Raises UserError, with its name, for a key that may make another model of these weights than `shape` says."""
    ours = architecture(shape)
    for key, value in config.items():
        if key in _HARMLESS or key.startswith(_HARMLESS_PREFIXES) or (key in ours and ours[key] == value):
            continue
        if key in _INTEGERS or key in _NUMBERS or key in _SWITCHES:
            continue  # figures are compared elsewhere
        empty = value is None or value is False or value in (0, "", []) or value in _NEUTRAL.get(key, ())
        section = isinstance(value, Mapping) and key not in _NEUTRAL  # of training: optim, data, ppo, ...
        if not empty and not section:
            raise UserError(
                f"{path}: {key}={_shown(value)} is not understood and may change what the model computes: "
                "take it out if it does not, else this model is not supported"
            )


def _shown(value: Any) -> str:
    """A value that may be anything, also one that grows without bounds when it is printed."""
    match value:
        case str():
            return f"{value:.80}"
        case None | bool():
            return str(value)
        case int() if abs(value) >= 2**63:
            return "a number of more than 64 bits"
        case int() | float():
            return str(value)
        case _:
            return f"a {type(value).__name__}"
