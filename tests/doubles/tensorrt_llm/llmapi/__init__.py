from tensorrt_llm._data import (
    CapacitySchedulerPolicy,
    CompletionOutput,
    CudaGraphConfig,
    KvCacheConfig,
    SamplingParams,
    SchedulerConfig,
)
from tensorrt_llm._facts import VERSION
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

if VERSION != "1.2":
    from tensorrt_llm._data import SleepConfig  # noqa: F401  it is new
