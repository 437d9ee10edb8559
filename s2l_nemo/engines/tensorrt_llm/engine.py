"""Engines of TensorRT-LLM: a frozen explorer on `LLM`, a learner on `AsyncLLM` that is refitted in place.

They run in a server process, in an environment that has tensorrt_llm, which is imported when an engine is built. They
are written against the sources of NVIDIA/TensorRT-LLM and have run on no GPU. The tests run them on a double of that
interface (tests/doubles/tensorrt_llm), whose facts.json says where each argument was read. Which file of the sources
says what beside the arguments (`arguments.py`) and the versions (`versions.py`):

- llmapi/llm.py; executor/result.py: `CompletionOutput`.
- _torch/async_llm.py: `await AsyncLLM(...)`, `release`, `resume`, `update_weights`, `collective_rpc`.
- llmapi/rlhf_utils.py: `WorkerExtension.update_weights` takes {GPU UUID: [(name, (rebuild, arguments))]} for a bucket
  and None to finalise; it waits for running requests.
- executor/ray_executor.py: the environment and Ray (`library.py`); executor/ray_gpu_worker.py: `sleep`, `wakeup`.
- _torch/virtual_memory.py: the memory tags. Weights that 1.2 releases are copied to the host and come back; later
  versions discard them, so the learner counts them as lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from s2l_nemo.engines.answers import Answer, check_fits, completion_of
from s2l_nemo.engines.hf_folder import HfFolder, WeightUpdate
from s2l_nemo.engines.protocol import Bucket, LocalEngine, RefitStats
from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.engines.tensorrt_llm.arguments import llm_arguments, sampling_arguments
from s2l_nemo.engines.tensorrt_llm.buckets import check_fused
from s2l_nemo.engines.tensorrt_llm.library import LocalRay, import_tensorrt_llm
from s2l_nemo.engines.tensorrt_llm.transport import FileTransport, Gpus, Handles, HandleTransport, Transport
from s2l_nemo.engines.tensorrt_llm.versions import version_of
from s2l_nemo.types import Completion, SampleRequest, SamplingParams

_KV_CACHE = ("kv_cache",)

Result = TypeVar("Result")


class TensorRTExplorer(LocalEngine):
    """Samples from one frozen model (see `protocol.RolloutEngine`). Calls come one at a time."""

    def __init__(self, settings: EngineSettings) -> None:
        """Loads a Hugging Face folder of safetensors. The engine takes the first GPUs that the process sees.

        Raises UserError if the folder or tensorrt_llm is missing, or is of another version.
        """
        self._folder = HfFolder(Path(settings.path))
        self._source = settings.source
        self._dtype = settings.dtype
        self._max_length = min(settings.max_sequence_length, self._folder.config["max_position_embeddings"])
        self._weight_version = 0
        self._asleep: set[str] = set()  # tags of memory that is given back
        self._library = import_tensorrt_llm()
        self._version = version_of(self._library.__version__)
        self._ray = LocalRay(settings.tensor_parallel_size)
        self._loop = asyncio.new_event_loop()
        try:
            self._start(llm_arguments(self._library, self._version, settings, self._max_length))
        except BaseException:
            self._ray.close()
            self._loop.close()
            raise

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        """One completion per request, in the order of the requests; see `RolloutEngine.generate`."""
        finished = dict(self.stream(requests, params))
        return [finished[index] for index in range(len(requests))]

    def stream(self, requests: Sequence[SampleRequest], params: SamplingParams) -> Iterator[tuple[int, Completion]]:
        """The completions in the order in which they finish, each with the index of its request.

        Raises RuntimeError if the engine sleeps, cancels a request or times out, or gives what cannot be trained on.
        """
        if self._asleep:
            raise RuntimeError("the engine sleeps: resume it before generate")
        check_fits(requests, params, self._max_length)
        futures = self._call(self._submit(requests, params))
        try:
            with closing(self._finished(futures)) as finished:
                for index in finished:
                    yield index, self._completion(requests[index], futures[index].outputs[0], params)
        finally:
            for future in futures:
                if not future.finished:
                    future.abort()  # whoever asked has gone, or an answer was refused

    def weight_hash(self) -> str:
        """See `RolloutEngine.weight_hash`. Reads the tensors of the folder, one at a time, in the engine's type."""
        return self._folder.weight_hash(self._dtype)

    def sleep(self) -> None:
        """Gives the GPU memory back, but for the CUDA context. Nothing happens if the engine sleeps already."""
        tags = [tag for tag in self._version.weight_tags + _KV_CACHE if tag not in self._asleep]
        if tags:
            self._rpc("reset_prefix_cache")  # its blocks are about to go
            self._release(tags)
            self._asleep.update(tags)

    def resume(self) -> None:
        """Takes the memory again; the weights are those of before `sleep`."""
        self._wake(self._version.weight_tags + _KV_CACHE)

    def close(self) -> None:
        """Ends the engine's workers and their Ray."""
        self._llm.shutdown()
        self._ray.close()
        self._loop.close()

    def _start(self, settings: dict[str, Any]) -> None:
        # NCCL: its own all-reduce goes wrong if several engines share a node (async_llm.py says so)
        self._llm = self._library.LLM(**settings, orchestrator_type="ray", allreduce_strategy="NCCL")

    def _wake(self, tags: Iterable[str]) -> None:
        asleep = [tag for tag in tags if tag in self._asleep]
        if asleep:
            self._materialize(asleep)
            self._asleep.difference_update(asleep)

    def _release(self, tags: list[str]) -> None:
        self._rpc("sleep", tags)

    def _materialize(self, tags: list[str]) -> None:
        self._rpc("wakeup", tags)

    def _rpc(self, method: str, *args: Any) -> list[Any]:
        """Calls a method of every worker; one answer of each."""
        answers: list[Any] = self._llm._collective_rpc(method, args)
        return answers

    def _call(self, awaitable: Awaitable[Result]) -> Result:
        return self._loop.run_until_complete(awaitable)

    async def _submit(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Any]:
        """A future for each request. It can be awaited in the loop that runs when it is made."""
        return [
            self._llm.generate_async(
                inputs=list(request.prompt_token_ids),
                # of its own, because the library changes it
                sampling_params=self._library.SamplingParams(**sampling_arguments(request, params)),
            )
            for request in requests
        ]

    def _finished(self, futures: Sequence[Any]) -> Generator[int, None, None]:
        """Indices of the futures in the order in which they finish. Raises what a future raises."""
        finished = _as_finished(futures)
        try:
            while (index := self._call(anext(finished, None))) is not None:
                yield index
        finally:
            self._call(finished.aclose())

    def _completion(self, request: SampleRequest, output: Any, params: SamplingParams) -> Completion:
        logprobs = _sampled_logprobs(output.token_ids, output.logprobs)
        answer = Answer(output.token_ids, logprobs, output.finish_reason)
        source, version = self._source, self._weight_version
        return completion_of(request, answer, params, source=source, version=version, library="TensorRT-LLM")


class TensorRTLearner(TensorRTExplorer):
    """An engine whose weights follow the actor's (see `protocol.LearnerEngine`).

    A step is `update_weights`, `resume`, `generate`, `sleep`. After `sleep` the weights count as lost. `update_weights`
    takes the memory of the weights again, and `resume` that of the KV cache.
    """

    last_refit: RefitStats | None = None  # the client of the server measures it

    def __init__(self, settings: EngineSettings, gpus: Gpus | None) -> None:
        """As `TensorRTExplorer`. Buckets reach the workers as handles of copies on `gpus`, which are this process's.

        None: they are written to shared memory, from which the workers load them.
        """
        self._incomplete: str | None = None  # why the weights are not those of one version
        self._from_folder = True  # no update has begun
        super().__init__(settings)
        self._transport: Transport = FileTransport(partial(self._rpc, "update_weights_from_file"))
        if gpus is not None:
            self._transport = HandleTransport(self._update, self._rpc("report_device_id"), gpus)

    @property
    def weight_version(self) -> int:
        """Version given with the last complete update; 0 before the first."""
        return self._weight_version

    def stream(self, requests: Sequence[SampleRequest], params: SamplingParams) -> Iterator[tuple[int, Completion]]:
        """As the base class. Raises RuntimeError after an incomplete update and after `sleep` without an update."""
        if self._incomplete:
            raise RuntimeError(f"{self._incomplete}: send all weights again")
        return super().stream(requests, params)

    def weight_hash(self) -> str:
        """As the base class. Raises RuntimeError after an update: the engine cannot give its fused weights back."""
        if not self._from_folder:
            raise RuntimeError("TensorRT-LLM cannot read back the weights of an update; compare weight_version instead")
        return super().weight_hash()

    def update_weights(self, buckets: Iterable[Bucket], version: int) -> None:
        """Replaces every weight in place; see `LearnerEngine.update_weights`.

        q, k and v of a layer must come in one bucket, and so must gate and up. Raises ValueError otherwise.
        """
        self._wake(self._version.weight_tags)
        self._from_folder = False
        self._incomplete = f"the update to weight version {version} is incomplete"
        update = WeightUpdate(self._folder.shapes, version)
        for bucket in buckets:
            update.take(bucket)
            check_fused(bucket, self._folder.shapes, version)
            self._transport.send(bucket)
        update.check_complete()
        self._update(None)  # finalises, and resets the prefix cache
        self._transport.finish()
        self._weight_version = version
        self._incomplete = None

    def sleep(self) -> None:
        """As the base class; the weights count as lost."""
        super().sleep()
        self._incomplete = "sleep released the weights"

    def _start(self, settings: dict[str, Any]) -> None:
        async def start() -> Any:
            return await self._library.AsyncLLM(**settings)

        self._llm = self._call(start())

    def _release(self, tags: list[str]) -> None:
        self._call(self._llm.release(tags))

    def _materialize(self, tags: list[str]) -> None:
        self._call(self._llm.resume(tags))

    def _rpc(self, method: str, *args: Any) -> list[Any]:
        return self._call(self._llm.collective_rpc(method, args))

    def _update(self, handles: Handles | None) -> None:
        self._call(self._llm.update_weights(handles))


async def _as_finished(futures: Sequence[Any]) -> AsyncGenerator[int, None]:
    """Indices of the futures in the order in which they finish. Raises what a future raises."""

    async def wait(index: int) -> int:
        await futures[index].aresult()
        return index

    tasks = [asyncio.create_task(wait(index)) for index in range(len(futures))]
    try:
        for task in asyncio.as_completed(tasks):
            yield await task
    finally:
        for task in tasks:
            task.cancel()


def _sampled_logprobs(tokens: Sequence[int], listed: Sequence[Mapping[int, Any]]) -> list[float]:
    """The log-prob of each sampled token. Raises RuntimeError if the engine does not list it for its position."""
    for position, (token, at_position) in enumerate(zip(tokens, listed, strict=False)):
        if token not in at_position:
            raise RuntimeError(f"position {position} has no log-prob of the sampled token {token}")
    return [at_position[token].logprob for token, at_position in zip(tokens, listed, strict=False)]
