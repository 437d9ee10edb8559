"""`LLM` and `AsyncLLM`. All workers are one object in this process: nothing of Ray runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from typing import Any, ClassVar

from tensorrt_llm._data import CompletionOutput, LlmArgs, SamplingParams
from tensorrt_llm._misuse import Misuse
from tensorrt_llm._worker import RayGPUWorker, Submitted, make_worker

MPI_VARIABLES = ("PMI", "OMPI", "SLURM")


class RequestOutput:
    """llmapi/llm.py: a future; awaiting it, or `result`, gives itself with its outputs."""

    def __init__(self, llm: LLM, request_id: int, prompt_token_ids: list[int]) -> None:
        self.request_id = request_id
        self.prompt = None
        self.prompt_token_ids = prompt_token_ids
        self.outputs: list[CompletionOutput] = []
        self.finished = False
        self._llm = llm

    def result(self, timeout: float | None = None) -> RequestOutput:
        if not self.finished:
            self._llm._run()
        return self

    async def aresult(self) -> RequestOutput:
        return self.result()

    def __await__(self) -> Generator[Any, None, RequestOutput]:
        return self.aresult().__await__()


class LLM:
    """llmapi/llm.py. `script`, where a test sets it, changes the outputs of each batch."""

    script: ClassVar[Callable[[list[CompletionOutput]], None] | None] = None
    _keeps_released_weights = True

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        tokenizer_mode: Any = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        values = {name: value for name, value in locals().items() if name not in ("self", "kwargs", "__class__")}
        unknown = sorted(kwargs.keys() - LlmArgs.__dataclass_fields__.keys())
        if unknown:
            raise ValueError(f"LLM: {unknown}: extra inputs are not permitted")
        self.args = LlmArgs(**values, **kwargs)
        inherited = sorted(name for name in os.environ if name.startswith(MPI_VARIABLES))
        if inherited:
            raise Misuse(f"{inherited} of the launcher are set: MPI inside the engine would hang")
        self._worker: RayGPUWorker | None = None
        self._pending: list[tuple[RequestOutput, Submitted]] = []
        self._requests = 0
        self._closed = False
        self._start()

    def _start(self) -> None:
        self._worker = make_worker(self.args, self._keeps_released_weights)

    def generate(
        self,
        inputs: list[list[int]],
        sampling_params: list[SamplingParams],
        use_tqdm: bool = True,
        lora_request: None = None,
        prompt_adapter_request: None = None,
        kv_cache_retention_config: None = None,
        disaggregated_params: None = None,
        scheduling_params: None = None,
    ) -> list[RequestOutput]:
        if not isinstance(inputs, list) or not inputs or not isinstance(inputs[0], list):
            raise TypeError("generate: give a list of prompts, each a list of token ids")
        if not isinstance(sampling_params, list) or len(sampling_params) != len(inputs):
            raise Misuse("generate: give a list with one SamplingParams for each prompt")
        futures = [self.generate_async(prompt, params) for prompt, params in zip(inputs, sampling_params, strict=True)]
        return [future.result() for future in futures]

    def generate_async(
        self,
        inputs: list[int],
        sampling_params: SamplingParams | None = None,
        lora_request: None = None,
        prompt_adapter_request: None = None,
        streaming: bool = False,
        kv_cache_retention_config: None = None,
        disaggregated_params: None = None,
        scheduling_params: None = None,
        cache_salt: str | None = None,
    ) -> RequestOutput:
        self._check_running()
        if not isinstance(inputs, list) or not all(type(token) is int for token in inputs):
            raise TypeError(f"The inputs must be type str or list of int, but got {type(inputs)}")
        if not isinstance(sampling_params, SamplingParams):
            raise TypeError(f"The sampling_params must be type SamplingParams, but got {type(sampling_params)}")
        if self.args.sampler_type != "TRTLLMSampler":
            raise Misuse(f"sampler_type={self.args.sampler_type}: seeds and penalties are ignored, log-probs wrong")
        if self.args.max_seq_len is not None and len(inputs) + sampling_params.max_tokens > self.args.max_seq_len:
            raise ValueError(f"{len(inputs)} + {sampling_params.max_tokens} tokens exceed {self.args.max_seq_len=}")
        if len(inputs) > (self.args.max_num_tokens or 0) and not self.args.enable_chunked_prefill:
            raise ValueError(f"The prompt length {len(inputs)} exceeds {self.args.max_num_tokens=}")
        sampling_params.submit(len(inputs))
        alike = [p.seed for _, (prompt, p) in self._pending if prompt == inputs and not p.greedy]
        if not sampling_params.greedy and sampling_params.seed in alike:
            raise Misuse(f"two requests of one prompt have seed {sampling_params.seed}: their samples are the same")
        self._requests += 1
        future = RequestOutput(self, self._requests, inputs)
        self._pending.append((future, (inputs, sampling_params)))
        return future

    def _run(self) -> None:
        """Everything that was submitted, in one batch."""
        assert self._worker is not None
        pending, self._pending = self._pending, []
        outputs = self._worker.engine.generate([submitted for _, submitted in pending])
        script = type(self).script
        if script is not None:
            script(outputs)
        for (future, _), output in zip(pending, outputs, strict=True):
            future.outputs, future.finished = [output], True

    def _collective_rpc(
        self,
        method: str,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        non_block: bool = False,
        unique_reply_rank: int | None = None,
    ) -> list[Any]:
        self._check_running()
        if self.args.orchestrator_type != "ray":
            raise ValueError("Executor type does not support collective RPC")
        if not isinstance(args, tuple):
            raise TypeError(f"collective_rpc: args must be a tuple, got {type(args)}")
        if not callable(getattr(self._worker, method, None)):
            raise AttributeError(f"The RayGPUWorker has no method called '{method}'.")
        return [getattr(self._worker, method)(*args, **(kwargs or {}))]

    def _check_running(self) -> None:
        if self._closed:
            raise RuntimeError("LLM is shutting down")
        if self._worker is None:
            raise Misuse("AsyncLLM was not awaited")

    def shutdown(self) -> None:
        self._closed = True


class AsyncLLM(LLM):
    """_torch/async_llm.py. Weights that `release` gave back are taken as lost, as in versions after 1.2."""

    _keeps_released_weights = False

    def __init__(
        self,
        placement_groups: list[Any] | None = None,
        placement_bundle_indices: list[list[int]] | None = None,
        per_worker_gpu_share: float | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        kwargs["orchestrator_type"] = "ray"
        kwargs["allreduce_strategy"] = "NCCL"
        kwargs.setdefault("ray_worker_extension_cls", "tensorrt_llm.llmapi.rlhf_utils.WorkerExtension")
        if os.environ.get("TRT_LLM_DISABLE_LOAD_WEIGHTS_IN_PARALLEL") != "1":
            raise Misuse("TRT_LLM_DISABLE_LOAD_WEIGHTS_IN_PARALLEL is not 1: an update may skip modules")
        super().__init__(*args, **kwargs)

    def _start(self) -> None:
        pass  # the workers start in setup_async

    async def setup_async(self) -> AsyncLLM:
        super()._start()
        return self

    def __await__(self) -> Generator[Any, None, AsyncLLM]:
        return self.setup_async().__await__()

    async def release(self, tags: list[str]) -> None:
        await self.collective_rpc("sleep", args=(tags,))

    async def resume(self, tags: list[str]) -> None:
        await self.collective_rpc("wakeup", args=(tags,))

    async def update_weights(self, weights: dict[str, Any] | None) -> None:
        await self.collective_rpc("update_weights", args=(weights,))

    async def collective_rpc(
        self,
        method: str,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        unique_reply_rank: int | None = None,
    ) -> list[Any]:
        return self._collective_rpc(method, args, kwargs, unique_reply_rank=unique_reply_rank)
