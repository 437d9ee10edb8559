"""Arguments and results: `SamplingParams`, `KvCacheConfig`, `LlmArgs`, `CompletionOutput`."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tensorrt_llm._misuse import Misuse, check_types


@dataclass(kw_only=True)
class SamplingParams:
    """sampling_params.py. The defaults are the real ones, max_tokens=32 among them."""

    end_id: int | None = None
    pad_id: int | None = None
    max_tokens: int = 32
    bad_token_ids: list[int] | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    n: int = 1
    best_of: int | None = None
    use_beam_search: bool = False
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    temperature: float | None = None
    min_tokens: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    prompt_ignore_length: int | None = None
    min_p: float | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    return_generation_logits: bool = False
    exclude_input_from_output: bool = True
    ignore_eos: bool = False
    detokenize: bool = True
    add_special_tokens: bool = True
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        check_types("SamplingParams", SamplingParams, values)
        if self.top_p is not None and not 0 <= self.top_p <= 1:
            raise ValueError(f"require 0 <= top_p <= 1, got top_p={self.top_p}")
        if self.top_k is not None and self.top_k < 0:
            raise ValueError(f"require top_k >= 0, got top_k={self.top_k}")
        if self.temperature is not None and self.temperature < 0:
            raise ValueError(f"require temperature >= 0, got temperature={self.temperature}")
        self._built = copy.deepcopy(values)
        self._submitted = False

    @property
    def greedy(self) -> bool:
        """As `params_imply_greedy_decoding`."""
        return self._unset or self.top_k == 1 or self.top_p == 0.0 or self.temperature == 0

    def submit(self, prompt_length: int) -> None:
        """What `LLM` does to the object. Raises Misuse where the settings give samples that cannot be trained on."""
        if self.end_id is None:
            raise ValueError("tokenizer is required to reset end_id if it is None")
        changed = self._built != {f.name: getattr(self, f.name) for f in fields(self)}
        several = self.n != 1 or self.best_of not in (None, 1) or self.use_beam_search
        penalised = bool(self.presence_penalty) and (self.prompt_ignore_length or 0) < prompt_length
        mistakes = {
            "a SamplingParams object was submitted twice: LLM changes it, make one per request": self._submitted,
            "a SamplingParams object was changed after it was built: its values are not validated again": changed,
            f"end_id={self.end_id}: the end token is cut off the output; use -1 and stop_token_ids": self.end_id != -1,
            "no stop_token_ids, and end_id is off: every completion runs to max_tokens": not self.stop_token_ids,
            f"logprobs={self.logprobs}: 0 and None return none, more cost time": self.logprobs != 1,
            "temperature, top_p and top_k are all None: this is greedy": self._unset,
            "seed is None, which means 0: identical prompts give identical samples": self.seed is None,
            "n, best_of or beam search: all samples of the request would share a seed": several,
            "detokenize=True needs a tokenizer": self.detokenize,
            f"prompt_ignore_length={self.prompt_ignore_length}: the presence penalty is on the prompt too": penalised,
        }
        for mistake, made in mistakes.items():
            if made:
                raise Misuse(mistake)
        self._submitted = True

    @property
    def _unset(self) -> bool:
        return self.temperature is None and self.top_p is None and self.top_k is None


@dataclass(kw_only=True)
class KvCacheConfig:
    """llmapi/llm_args.py."""

    enable_block_reuse: bool = True
    max_tokens: int | None = None
    free_gpu_memory_fraction: float | None = 0.9
    host_cache_size: int | None = None
    enable_partial_reuse: bool = True
    dtype: str = "auto"

    def __post_init__(self) -> None:
        check_types("KvCacheConfig", KvCacheConfig, {f.name: getattr(self, f.name) for f in fields(self)})
        if self.free_gpu_memory_fraction is not None and not 0 <= self.free_gpu_memory_fraction <= 1:
            raise ValueError(f"free_gpu_memory_fraction must be in [0, 1], got {self.free_gpu_memory_fraction}")


@dataclass(kw_only=True)
class LlmArgs:
    """llmapi/llm_args.py, `TorchLlmArgs`."""

    model: str | Path
    tokenizer: Any = None
    tokenizer_mode: Literal["auto", "slow"] = "auto"
    skip_tokenizer_init: bool = False
    trust_remote_code: bool = False
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    dtype: str = "auto"
    revision: str | None = None
    tokenizer_revision: str | None = None
    kv_cache_config: KvCacheConfig = field(default_factory=KvCacheConfig)
    enable_chunked_prefill: bool = False
    max_batch_size: int | None = 2048
    max_seq_len: int | None = None
    max_num_tokens: int | None = 8192
    disable_overlap_scheduler: bool = False
    sampler_type: str = "auto"
    allreduce_strategy: Literal["AUTO", "NCCL", "UB", "MINLATENCY", "ONESHOT", "TWOSHOT", "MNNVL"] | None = "AUTO"
    enable_sleep: bool = False
    orchestrator_type: Literal["rpc", "ray"] | None = None
    ray_worker_extension_cls: str | None = None
    ray_placement_config: Any = None
    backend: Literal["pytorch"] = "pytorch"

    def __post_init__(self) -> None:
        check_types("LLM", LlmArgs, {f.name: getattr(self, f.name) for f in fields(self)})
        if self.sampler_type not in ("TRTLLMSampler", "TorchSampler", "auto"):
            raise ValueError(f"sampler_type={self.sampler_type!r} is none of TRTLLMSampler, TorchSampler, auto")
        if self.dtype not in ("auto", "float32", "float16", "bfloat16"):
            raise ValueError(f"dtype={self.dtype!r}")
        if self.ray_worker_extension_cls is not None and self.orchestrator_type != "ray":
            raise ValueError("ray_worker_extension_cls is only supported with orchestrator_type='ray'")
        if not self.skip_tokenizer_init:
            raise Misuse("skip_tokenizer_init=False: token ids go in and come out, a tokenizer is not needed")


class Logprob(NamedTuple):
    """executor/result.py."""

    logprob: float
    rank: int | None = None


@dataclass
class CompletionOutput:
    """executor/result.py."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    finish_reason: Literal["stop", "length", "timeout", "cancelled"] | None = None
    stop_reason: int | str | None = None
