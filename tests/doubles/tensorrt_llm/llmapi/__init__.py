from tensorrt_llm._data import CompletionOutput, KvCacheConfig, SamplingParams
from tensorrt_llm._llm import LLM, AsyncLLM, RequestOutput

__all__ = ["LLM", "AsyncLLM", "CompletionOutput", "KvCacheConfig", "RequestOutput", "SamplingParams"]
