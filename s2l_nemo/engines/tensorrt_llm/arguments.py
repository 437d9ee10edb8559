"""Our settings in the words of TensorRT-LLM: the arguments of an engine, and those of one request.

Sources: llmapi/llm_args.py (`TorchLlmArgs`, `KvCacheConfig`, `SchedulerConfig`, `CudaGraphConfig`), sampling_params.py
and cpp/tensorrt_llm/kernels/penaltyKernels.cu of NVIDIA/TensorRT-LLM.
"""

from __future__ import annotations

from typing import Any

from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.engines.tensorrt_llm.versions import Version
from s2l_nemo.types import SampleRequest, SamplingParams

_EXTENSION = "s2l_nemo.engines.tensorrt_llm.worker.RefitExtension"
_MIN_BATCHED_TOKENS = 8192  # TensorRT-LLM's default
_TOKENS_PER_BLOCK = 32  # of the KV cache, TensorRT-LLM's default


def llm_arguments(library: Any, version: Version, settings: EngineSettings, max_length: int) -> dict[str, Any]:
    """What `LLM` and `AsyncLLM` get. `max_length`: tokens of the longest sequence, prompt and response."""
    api, rows = library.llmapi, settings.max_batch_rows
    return {
        "model": settings.path,
        "skip_tokenizer_init": True,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "dtype": str(settings.dtype).removeprefix("torch."),
        "max_batch_size": rows,
        "max_input_len": max_length,  # 1,024 by default
        "max_seq_len": max_length,
        "max_num_tokens": max(_MIN_BATCHED_TOKENS, max_length),  # a whole prompt in one pass
        "kv_cache_config": api.KvCacheConfig(
            enable_block_reuse=True,
            free_gpu_memory_fraction=settings.memory_fraction,
            max_tokens=rows * -(-max_length // _TOKENS_PER_BLOCK) * _TOKENS_PER_BLOCK,  # the smaller limit holds
        ),
        # The default admits a request only if all tokens that it may ever have fit, so few rows decode.
        "scheduler_config": api.SchedulerConfig(capacity_scheduler_policy=api.CapacitySchedulerPolicy.MAX_UTILIZATION),
        # The default has graphs for few batch sizes, and any other batch is launched kernel by kernel.
        "cuda_graph_config": api.CudaGraphConfig(enable_padding=True, max_batch_size=rows),
        "ray_worker_extension_cls": _EXTENSION,
        **version.arguments(api),
    }


def sampling_arguments(request: SampleRequest, params: SamplingParams) -> dict[str, Any]:
    """What `SamplingParams` gets for one request. Everything is said, as all of them None would mean greedy."""
    draw: dict[str, Any] = {"temperature": params.temperature, "top_p": params.top_p, "top_k": params.top_k}
    if params.temperature == 0:
        draw = {"temperature": 1.0, "top_p": 1.0, "top_k": 1}  # log-probs of the unscaled logits
    if params.presence_penalty:
        # The kernel divides the logits by the temperature first, and then takes the penalty off.
        draw["presence_penalty"] = params.presence_penalty / draw["temperature"]
        draw["prompt_ignore_length"] = len(request.prompt_token_ids)  # it is for tokens of the response
    return {
        **draw,
        "max_tokens": params.max_new_tokens,
        "seed": request.seed,
        "n": 1,
        "end_id": -1,
        "stop_token_ids": list(params.stop_token_ids),
        "include_stop_str_in_output": True,
        "detokenize": False,
        "logprobs": 1,
    }
