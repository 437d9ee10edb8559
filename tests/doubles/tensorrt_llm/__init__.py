"""A double of tensorrt_llm 1.2 for machines without a GPU: put the parent folder on PYTHONPATH and import it.

It has the part of the interface that s2l_nemo.engines.tensorrt_llm uses. facts.json says what each call takes and in
which source that was read; the signatures are made of it. What the real library refuses raises TypeError or ValueError;
what it would accept and do wrong raises `Misuse`. As in the real one, each rank of an engine is a worker with its own
shards, log-probs are of the whole softmax after the temperature, a penalty comes after the temperature, lengths are
clamped, and the KV cache bounds the rows. The tokens come from the embedded engine: for one seed they are those of a
run with embedded engines, and the same in every batch. The real library promises neither.
"""

from tensorrt_llm._data import SamplingParams
from tensorrt_llm._facts import FACTS, VERSION
from tensorrt_llm._llm import LLM, AsyncLLM
from tensorrt_llm._misuse import Misuse

__version__: str = FACTS["versions"][VERSION]
__all__ = ["LLM", "AsyncLLM", "Misuse", "SamplingParams"]
