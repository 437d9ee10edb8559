"""Engines of vLLM: a frozen explorer, and a learner that is refitted in place.

They run in a server process, in an environment that has vllm, which is imported when an engine is built. Tests run them
on the real library (`make test-vllm`, on a CPU). Which file of vllm-project/vllm 0.32 says what:

- engine/arg_utils.py (`EngineArgs`): arguments. v1/engine/llm_engine.py: requests and steps, `sleep`, `wake_up`.
- sampling_params.py: a temperature below 0.01 becomes 0.01; `ignore_eos` turns off the model's own stop token.
- v1/sample/sampler.py: penalties, then temperature, then top-k and top-p. `processed_logprobs` are of what is left.
- v1/worker/gpu_model_runner.py: a seed gives the request a generator of its own.
- v1/executor/abstract.py: sleep level 1 keeps the weights in host memory, level 2 discards them; tags of `wake_up`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from s2l_nemo.engines.answers import Answer, check_fits, completion_of
from s2l_nemo.engines.hf_folder import HfFolder, WeightUpdate
from s2l_nemo.engines.protocol import Bucket, LocalEngine, RefitStats
from s2l_nemo.engines.served.shared_memory import Segment
from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.errors import UserError
from s2l_nemo.types import Completion, SampleRequest, SamplingParams

_OLDEST = (0, 32)
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine's loop in this process; workers of TP have their own
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",  # the model is a folder
}
_EXTENSION = "s2l_nemo.engines.vllm.worker.RefitExtension"
_MIN_BATCHED_TOKENS = 8192
_COOLEST = 0.01  # vLLM raises temperatures below it without an error


class VLLMExplorer(LocalEngine):
    """Samples from one frozen model (see `protocol.RolloutEngine`). Calls come one at a time."""

    _sleep_level = 1  # the weights come back

    def __init__(self, settings: EngineSettings, kv_elements_per_token: int) -> None:
        """Loads a Hugging Face folder of safetensors onto the first GPUs that the process sees, or onto the CPU.

        Raises UserError if the folder or vllm is missing, or vllm is too old.
        """
        self._folder = HfFolder(Path(settings.path))
        self._settings = settings
        self._positions = min(settings.max_sequence_length, self._folder.config["max_position_embeddings"])
        self._on_gpu = settings.device.startswith("cuda")
        self._weight_version = 0
        self._asleep: set[str] = set()  # tags of memory that is given back
        self._library = _import_vllm()
        arguments = self._library.EngineArgs(**self._arguments(kv_elements_per_token))
        self._llm = self._library.LLMEngine.from_engine_args(arguments)

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        """One completion per request, in the order of the requests; see `RolloutEngine.generate`."""
        finished = dict(self.stream(requests, params))
        return [finished[index] for index in range(len(requests))]

    def stream(self, requests: Sequence[SampleRequest], params: SamplingParams) -> Iterator[tuple[int, Completion]]:
        """The completions in the order in which they finish, each with the index of its request.

        Raises ValueError for sampling that vLLM cannot do, and RuntimeError if the engine sleeps or gives what cannot
        be trained on.
        """
        if self._asleep:
            raise RuntimeError("the engine sleeps: resume it before generate")
        check_fits(requests, params, self._positions)
        if 0 < params.temperature < _COOLEST:
            raise ValueError(f"temperature {params.temperature:g}: vLLM samples at 0, and from {_COOLEST:g} on")
        running = {str(index): index for index in range(len(requests))}
        try:
            for name, index in running.items():
                prompt = self._library.inputs.tokens_input(list(requests[index].prompt_token_ids))
                self._llm.add_request(name, prompt, self._sampling_params(requests[index], params))
            while running:
                for output in self._llm.step():
                    index = running.pop(output.request_id)
                    yield index, self._completion(requests[index], output.outputs[0], params)
        finally:
            self._llm.abort_request(list(running))  # whoever asked has gone, or an answer was refused

    def weight_hash(self) -> str:
        """See `RolloutEngine.weight_hash`. Reads the tensors of the folder, one at a time, in the engine's type."""
        return self._folder.weight_hash(self._settings.dtype)

    def sleep(self) -> None:
        """Gives the GPU memory back, but for the CUDA context and graphs. On a CPU the engine keeps its memory."""
        if self._on_gpu and not self._asleep:
            self._llm.sleep(level=self._sleep_level)
            self._asleep = {"weights", "kv_cache"}

    def resume(self) -> None:
        """Takes the memory again; the weights are those of before `sleep`."""
        self._wake(["weights", "kv_cache"])

    def close(self) -> None:
        """Ends the engine and its workers."""
        self._llm.engine_core.shutdown()

    def _wake(self, tags: Iterable[str]) -> None:
        asleep = [tag for tag in tags if tag in self._asleep]
        if asleep:
            self._llm.wake_up(tags=asleep)
            self._asleep.difference_update(asleep)

    def _arguments(self, kv_elements_per_token: int) -> dict[str, Any]:
        settings = self._settings
        common = {
            "model": settings.path,
            "skip_tokenizer_init": True,
            "trust_remote_code": False,
            "generation_config": "vllm",  # nothing of the folder's own sampling
            "dtype": str(settings.dtype).removeprefix("torch."),
            "tensor_parallel_size": settings.tensor_parallel_size,
            "max_model_len": self._positions,
            "max_num_seqs": settings.max_batch_rows,
            "max_num_batched_tokens": max(_MIN_BATCHED_TOKENS, self._positions),
            "enable_prefix_caching": True,
            "logprobs_mode": "processed_logprobs",
            "worker_extension_cls": _EXTENSION,
            "disable_log_stats": True,
            "seed": 0,
        }
        if self._on_gpu:
            return common | {"gpu_memory_utilization": settings.memory_fraction, "enable_sleep_mode": True}
        token = kv_elements_per_token * settings.dtype.itemsize // settings.tensor_parallel_size
        enough = (settings.max_batch_rows + 1) * self._positions * token
        room = int(settings.memory_fraction * psutil.virtual_memory().available)
        return common | {
            "kv_cache_memory_bytes": min(enough, room),
            "enable_chunked_prefill": False,  # it moves a generator back, which a CPU's cannot do
            "enforce_eager": True,  # compiling takes a minute, and a refit would need it anew
        }

    def _completion(self, request: SampleRequest, output: Any, params: SamplingParams) -> Completion:
        tokens, listed = list(output.token_ids), output.logprobs
        if list(listed.token_ids) != tokens:
            raise RuntimeError("vLLM's log-probs are not those of the sampled tokens alone")
        answer = Answer(tokens, listed.logprobs, output.finish_reason)
        source, version = self._settings.source, self._weight_version
        return completion_of(request, answer, params, source=source, version=version, library="vLLM")

    def _sampling_params(self, request: SampleRequest, params: SamplingParams) -> Any:
        return self._library.SamplingParams(
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            presence_penalty=params.presence_penalty,
            seed=request.seed,
            max_tokens=params.max_new_tokens,
            stop_token_ids=list(params.stop_token_ids),
            ignore_eos=True,  # the stop tokens are those given
            detokenize=False,
            logprobs=0,  # that of the sampled token
            flat_logprobs=True,
            output_kind=self._library.sampling_params.RequestOutputKind.FINAL_ONLY,
        )


class VLLMLearner(VLLMExplorer):
    """An engine whose weights follow the actor's (see `protocol.LearnerEngine`).

    A step is `update_weights`, `resume`, `generate`, `sleep`. On a GPU the weights count as lost after `sleep`:
    `update_weights` takes their memory again, and `resume` that of the KV cache.
    """

    last_refit: RefitStats | None = None  # the client of the server measures it
    _sleep_level = 2  # the next update brings the weights

    def __init__(self, settings: EngineSettings, kv_elements_per_token: int) -> None:
        super().__init__(settings, kv_elements_per_token)
        self._segment = Segment(0)
        self._incomplete: str | None = None  # why the weights are not those of one version
        self._from_folder = True  # no update has begun

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
            raise RuntimeError("vLLM cannot read back the weights of an update; compare weight_version instead")
        return super().weight_hash()

    def update_weights(self, buckets: Iterable[Bucket], version: int) -> None:
        """Replaces every weight in place; see `LearnerEngine.update_weights`.

        A bucket is copied once into memory that every worker maps, and each takes its part of a tensor.
        """
        self._wake(["weights"])
        self._from_folder = False
        self._incomplete = f"the update to weight version {version} is incomplete"
        update = WeightUpdate(self._folder.shapes, version)
        self._llm.collective_rpc("s2l_begin_update")
        try:
            for bucket in buckets:
                update.take(bucket)
                self._llm.collective_rpc("s2l_load_bucket", args=(self._segment.write(bucket),))
            update.check_complete()
        finally:
            self._llm.collective_rpc("s2l_finish_update")
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM would not forget the prompts that it has cached of the old weights")
        self._weight_version = version
        self._incomplete = None

    def sleep(self) -> None:
        """As the base class; on a GPU the weights count as lost."""
        super().sleep()
        if self._asleep:
            self._incomplete = "sleep released the weights"

    def close(self) -> None:
        super().close()
        self._segment.close()


def _import_vllm() -> Any:
    """The library, with the environment that its workers inherit. Raises UserError if it is missing or too old."""
    os.environ.update(_ENVIRONMENT)
    oldest = ".".join(str(number) for number in _OLDEST)
    advice = f"set engine.python to the interpreter of an environment with vllm {oldest} or later"
    try:
        import vllm
        import vllm.inputs
        import vllm.sampling_params
    except ModuleNotFoundError as error:
        raise UserError(f"engine.kind=vllm: {sys.executable} has no module {error.name}; {advice}") from error
    if tuple(int(number) for number in vllm.__version__.split(".")[:2]) < _OLDEST:
        raise UserError(f"engine.kind=vllm: found vllm {vllm.__version__}; {advice}")
    return vllm
