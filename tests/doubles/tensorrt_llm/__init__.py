"""A double of tensorrt_llm 1.2 for machines without a GPU: put the parent folder on PYTHONPATH and import it.

It has the part of the interface that s2l_nemo.engines.tensorrt_llm uses, with the names, types and defaults of the real
one (NVIDIA/TensorRT-LLM, 1.2: sampling_params.py, llmapi/llm_args.py, llmapi/llm.py, executor/result.py,
_torch/async_llm.py, llmapi/rlhf_utils.py, executor/ray_gpu_worker.py, _torch/virtual_memory.py). What the real one
refuses raises TypeError or ValueError; what it would accept and do wrong raises `Misuse`. The tokens come from the
embedded engine, so a training run through the double samples what a run with embedded engines samples.
"""

from tensorrt_llm._data import SamplingParams
from tensorrt_llm._llm import LLM, AsyncLLM
from tensorrt_llm._misuse import Misuse

__version__ = "1.2.1"
__all__ = ["LLM", "AsyncLLM", "Misuse", "SamplingParams"]
