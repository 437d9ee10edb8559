from tensorrt_llm._data import (
    CapacitySchedulerPolicy,
    CompletionOutput,
    CudaGraphConfig,
    KvCacheConfig,
    SamplingParams,
    SchedulerConfig,
)
from tensorrt_llm._llm import LLM, AsyncLLM, RequestOutput

__all__ = [
    "LLM",
    "AsyncLLM",
    "CapacitySchedulerPolicy",
    "CompletionOutput",
    "CudaGraphConfig",
    "KvCacheConfig",
    "RequestOutput",
    "SamplingParams",
    "SchedulerConfig",
]
