"""Arguments and results: `SamplingParams`, the configurations, `LlmArgs`, `CompletionOutput`."""

from __future__ import annotations

import copy
from enum import Enum
from typing import Any, NamedTuple

from tensorrt_llm._facts import NAMES, Record
from tensorrt_llm._misuse import Misuse


class SamplingParams(Record):
    """sampling_params.py. The defaults are the real ones, max_tokens=32 among them."""

    def check(self) -> None:
        if self.top_p is not None and not 0 <= self.top_p <= 1:
            raise ValueError(f"require 0 <= top_p <= 1, got top_p={self.top_p}")
        if self.top_k is not None and self.top_k < 0:
            raise ValueError(f"require top_k >= 0, got top_k={self.top_k}")
        if self.temperature is not None and self.temperature < 0:
            raise ValueError(f"require temperature >= 0, got temperature={self.temperature}")
        self._built = copy.deepcopy(self._values())
        self._submitted = False

    def _values(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    @property
    def greedy(self) -> bool:
        """As `params_imply_greedy_decoding`."""
        return bool(self._unset or self.top_k == 1 or self.top_p == 0.0 or self.temperature == 0)

    @property
    def truncates(self) -> bool:
        """Whether top-p or top-k leave tokens out. The log-probs do not show it."""
        return not self.greedy and bool(self.top_k or (self.top_p is not None and self.top_p < 1))

    def batch_key(self) -> str:
        """What requests of one batch share."""
        own = ("seed", "prompt_ignore_length")
        return repr({name: value for name, value in self._values().items() if name not in own})

    def submit(self, prompt_length: int) -> None:
        """What `LLM` does to the object. Raises Misuse where the settings give samples that cannot be trained on."""
        if self.end_id is None:
            raise ValueError("tokenizer is required to reset end_id if it is None")
        changed = self._built != self._values()
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


class CapacitySchedulerPolicy(str, Enum):
    """llmapi/llm_args.py."""

    MAX_UTILIZATION = "MAX_UTILIZATION"
    GUARANTEED_NO_EVICT = "GUARANTEED_NO_EVICT"
    STATIC_BATCH = "STATIC_BATCH"


class ContextChunkingPolicy(str, Enum):
    """llmapi/llm_args.py."""

    FIRST_COME_FIRST_SERVED = "FIRST_COME_FIRST_SERVED"
    EQUAL_PROGRESS = "EQUAL_PROGRESS"


NAMES.update(CapacitySchedulerPolicy=CapacitySchedulerPolicy, ContextChunkingPolicy=ContextChunkingPolicy)


class SchedulerConfig(Record):
    """llmapi/llm_args.py."""


class CudaGraphConfig(Record):
    """llmapi/llm_args.py."""

    def check(self) -> None:
        if self.max_batch_size < 0:
            raise ValueError(f"CudaGraphConfig.max_batch_size must be non-negative, got {self.max_batch_size}")
        if self.batch_sizes and self.max_batch_size not in (0, max(self.batch_sizes)):
            raise ValueError("CudaGraphConfig.max_batch_size is incompatible with CudaGraphConfig.batch_sizes")


class KvCacheConfig(Record):
    """llmapi/llm_args.py."""

    def check(self) -> None:
        if self.free_gpu_memory_fraction is not None and not 0 <= self.free_gpu_memory_fraction <= 1:
            raise ValueError(f"free_gpu_memory_fraction must be in [0, 1], got {self.free_gpu_memory_fraction}")

    def blocks(self, free_tokens: int) -> int:
        """Blocks of the cache if all free memory would hold `free_tokens`: of both limits, the smaller."""
        share = int(free_tokens * (0.9 if self.free_gpu_memory_fraction is None else self.free_gpu_memory_fraction))
        tokens = share if self.max_tokens is None else min(self.max_tokens, share)
        return int(tokens // self.tokens_per_block)


class SleepConfig(Record):
    """llmapi/llm_args.py, of 1.3."""


class LlmArgs(Record):
    """llmapi/llm_args.py, `TorchLlmArgs`. The class `LLM` hands its arguments to it."""

    call = "LLM"

    @property
    def sleeps(self) -> bool:
        """Whether memory can be given back; 1.2 and 1.3 have an argument each."""
        return bool(vars(self).get("enable_sleep")) or vars(self).get("sleep_config") is not None

    def check(self) -> None:
        if self.sampler_type not in ("TRTLLMSampler", "TorchSampler", "auto"):
            raise ValueError(f"sampler_type={self.sampler_type!r} is none of TRTLLMSampler, TorchSampler, auto")
        if self.dtype not in ("auto", "float32", "float16", "bfloat16"):
            raise ValueError(f"dtype={self.dtype!r}")
        if self.ray_worker_extension_cls is not None and self.orchestrator_type != "ray":
            raise ValueError("ray_worker_extension_cls is only supported with orchestrator_type='ray'")
        if not self.skip_tokenizer_init:
            raise Misuse("skip_tokenizer_init=False: token ids go in and come out, a tokenizer is not needed")
        for name, default in {"max_batch_size": 2048, "max_input_len": 1024, "max_num_tokens": 8192}.items():
            setattr(self, name, getattr(self, name) or default)  # None is the default


class Logprob(NamedTuple):
    """executor/result.py."""

    logprob: float
    rank: int | None = None


NAMES["Logprob"] = Logprob


class CompletionOutput(Record):
    """executor/result.py."""
