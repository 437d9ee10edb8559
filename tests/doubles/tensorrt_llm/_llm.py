"""`LLM` and `AsyncLLM`."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Generator
from typing import Any, ClassVar

from tensorrt_llm._data import CompletionOutput, LlmArgs, SamplingParams
from tensorrt_llm._executor import Executor, Submitted
from tensorrt_llm._facts import bind, takes
from tensorrt_llm._misuse import Misuse
from tensorrt_llm._scheduler import Schedule
from tensorrt_llm._worker import RayGPUWorker

MPI_VARIABLES = ("PMI", "OMPI", "SLURM")
logger = logging.getLogger("tensorrt_llm")


class RequestOutput:
    """llmapi/llm.py: a future; awaiting it, or `result`, gives itself with its outputs."""

    def __init__(self, llm: LLM, request_id: int, prompt_token_ids: list[int]) -> None:
        self.request_id = request_id
        self.prompt = None
        self.prompt_token_ids = prompt_token_ids
        self.outputs: list[CompletionOutput] = []
        self.finished = False
        self.context_logits = None
        self.mm_embedding_handle = None
        self._llm = llm

    @takes("RequestOutput.result")
    def result(self, timeout: float | None) -> RequestOutput:
        if not self.finished:
            self._llm._run()
        return self

    @takes("RequestOutput.aresult")
    async def aresult(self) -> RequestOutput:
        """Others come first that have fewer tokens: they ran in one batch."""
        self.result()
        for _ in self.outputs[0].token_ids:
            await asyncio.sleep(0)
        return self

    @takes("RequestOutput.abort")
    def abort(self) -> None:
        self._llm._abort(self)

    def __await__(self) -> Generator[Any, None, RequestOutput]:
        outputs: Generator[Any, None, RequestOutput] = self.aresult().__await__()
        return outputs


class LLM:
    """llmapi/llm.py. `script`, where a test sets it, changes the outputs of each batch."""

    script: ClassVar[Callable[[list[CompletionOutput]], None] | None] = None
    free_kv_tokens: ClassVar[int] = 2**20  # what all free memory of a GPU would hold
    _keeps_released_weights = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = LlmArgs(*args, **kwargs)
        inherited = sorted(name for name in os.environ if name.startswith(MPI_VARIABLES))
        if inherited:
            raise Misuse(f"{inherited} of the launcher are set: MPI inside the engine would hang")
        self._pending: list[tuple[RequestOutput, Submitted]] = []
        self._requests = 0
        self.aborted: list[int] = []
        self._closed = False
        self._executor = Executor(self.args, self._keeps_released_weights, self.free_kv_tokens)
        self._start()

    def _start(self) -> None:
        self._executor.start()

    @property
    def workers(self) -> list[RayGPUWorker]:
        return self._executor.workers

    @property
    def schedules(self) -> list[Schedule]:
        """What each batch did to the KV cache."""
        return self._executor.schedules

    @takes("LLM.generate")
    def generate(
        self, inputs: list[list[int]], sampling_params: list[SamplingParams], **others: Any
    ) -> list[RequestOutput]:
        if not inputs:
            raise TypeError("generate: give a list of prompts, each a list of token ids")
        if not isinstance(sampling_params, list) or len(sampling_params) != len(inputs):
            raise Misuse("generate: give a list with one SamplingParams for each prompt")
        futures = [self.generate_async(prompt, params) for prompt, params in zip(inputs, sampling_params, strict=True)]
        return [future.result() for future in futures]

    @takes("LLM.generate_async")
    def generate_async(self, inputs: list[int], sampling_params: SamplingParams | None, **others: Any) -> RequestOutput:
        self._check_running()
        if sampling_params is None:
            raise Misuse("sampling_params=None: 32 tokens, greedy, without log-probs")
        if self.args.sampler_type != "TRTLLMSampler":
            raise Misuse(f"sampler_type={self.args.sampler_type}: seeds and penalties are ignored, log-probs wrong")
        self._check_length(inputs)
        sampling_params.submit(len(inputs))
        self._clamp(inputs, sampling_params)
        alike = [p.seed for _, (prompt, p) in self._pending if prompt == inputs and not p.greedy]
        if not sampling_params.greedy and sampling_params.seed in alike:
            raise Misuse(f"two requests of one prompt have seed {sampling_params.seed}: their samples are the same")
        self._requests += 1
        future = RequestOutput(self, self._requests, inputs)
        self._pending.append((future, (inputs, sampling_params)))
        return future

    def _check_length(self, inputs: list[int]) -> None:
        if len(inputs) > self.args.max_num_tokens and not self.args.enable_chunked_prefill:
            raise ValueError(f"The prompt length {len(inputs)} exceeds {self.args.max_num_tokens=}")
        if len(inputs) > self.args.max_input_len:
            raise ValueError(f"The prompt length {len(inputs)} exceeds {self.args.max_input_len=}")

    def _clamp(self, inputs: list[int], params: SamplingParams) -> None:
        """executor/base_worker.py, `_deduce_max_tokens`."""
        if self.args.max_seq_len is None:
            return
        room = self.args.max_seq_len - len(inputs)
        if room <= 0:
            raise ValueError(f"`default_max_tokens` ({room}) must be greater than 0, {self.args.max_seq_len=}")
        if params.max_tokens > room:
            logger.warning("`max_tokens` (%d) is greater than %d, which is used instead", params.max_tokens, room)
            params.max_tokens = room

    def _abort(self, future: RequestOutput) -> None:
        self._pending = [pending for pending in self._pending if pending[0] is not future]
        self.aborted.append(future.request_id)

    def _run(self) -> None:
        """Everything that was submitted, in one batch."""
        pending, self._pending = self._pending, []
        outputs = self._executor.generate([submitted for _, submitted in pending])
        script = type(self).script
        if script is not None:
            script(outputs)
        for (future, _), output in zip(pending, outputs, strict=True):
            future.outputs, future.finished = [output], True

    @takes("LLM._collective_rpc")
    def _collective_rpc(
        self,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        non_block: bool,
        unique_reply_rank: int | None,
    ) -> list[Any]:
        self._check_running()
        if self.args.orchestrator_type != "ray":
            raise ValueError("Executor type does not support collective RPC")
        if non_block:
            raise Misuse("non_block=True: the answers are Ray's references, not values")
        return self._executor.call(method, args, kwargs or {}, unique_reply_rank)

    def _check_running(self) -> None:
        if self._closed:
            raise RuntimeError("LLM is shutting down")
        if not self.workers:
            raise Misuse("AsyncLLM was not awaited")

    @takes("LLM.shutdown")
    def shutdown(self) -> None:
        if not self._closed:
            self._closed = True
            self._executor.shutdown()


class AsyncLLM(LLM):
    """_torch/async_llm.py. Weights that `release` gave back are taken as lost, as in versions after 1.2."""

    _keeps_released_weights = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bind("AsyncLLM", args, kwargs)
        own = ("placement_groups", "placement_bundle_indices", "per_worker_gpu_share")
        arguments = {name: value for name, value in kwargs.items() if name not in own}
        arguments |= {"orchestrator_type": "ray", "allreduce_strategy": "NCCL"}
        arguments.setdefault("ray_worker_extension_cls", "tensorrt_llm.llmapi.rlhf_utils.WorkerExtension")
        if os.environ.get("TRT_LLM_DISABLE_LOAD_WEIGHTS_IN_PARALLEL") != "1":
            raise Misuse("TRT_LLM_DISABLE_LOAD_WEIGHTS_IN_PARALLEL is not 1: an update may skip modules")
        super().__init__(**arguments)

    def _start(self) -> None:
        pass  # the workers start in setup_async

    @takes("AsyncLLM.setup_async")
    async def setup_async(self) -> AsyncLLM:
        if not self.workers:
            super()._start()
        return self

    def __await__(self) -> Generator[Any, None, AsyncLLM]:
        started: Generator[Any, None, AsyncLLM] = self.setup_async().__await__()
        return started

    @takes("AsyncLLM.release")
    async def release(self, tags: list[str]) -> None:
        await self.collective_rpc("sleep", args=(tags,))

    @takes("AsyncLLM.resume")
    async def resume(self, tags: list[str]) -> None:
        await self.collective_rpc("wakeup", args=(tags,))

    @takes("AsyncLLM.update_weights")
    async def update_weights(self, weights: dict[str, Any] | None) -> None:
        await self.collective_rpc("update_weights", args=(weights,))

    @takes("AsyncLLM.collective_rpc")
    async def collective_rpc(
        self,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        unique_reply_rank: int | None,
        **others: Any,
    ) -> list[Any]:
        answers: list[Any] = self._collective_rpc(method, args, kwargs, unique_reply_rank=unique_reply_rank)
        return answers
