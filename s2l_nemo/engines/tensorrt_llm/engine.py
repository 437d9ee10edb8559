"""Engines of TensorRT-LLM 1.2.x: a frozen explorer on `LLM`, a learner on `AsyncLLM` that is refitted in place.

They run in a server process, in an environment that has tensorrt_llm, which is imported when an engine is built. They
are written against the 1.2 sources of NVIDIA/TensorRT-LLM and have run on no GPU. The tests run them on a double of
that interface (tests/doubles/tensorrt_llm). Which file of the sources says what:

- llmapi/llm.py, llmapi/llm_args.py (`TorchLlmArgs`, `KvCacheConfig`), sampling_params.py: arguments and their defaults.
  executor/result.py: `CompletionOutput`.
- _torch/async_llm.py: `await AsyncLLM(...)`, `release`, `resume`, `update_weights`, `collective_rpc`.
- llmapi/rlhf_utils.py: `WorkerExtension.update_weights` takes {GPU UUID: [(name, (rebuild, arguments))]} for a bucket
  and None to finalise; it waits for running requests.
- executor/ray_executor.py: the environment variables below; executor/ray_gpu_worker.py: `sleep`, `wakeup`.
- _torch/virtual_memory.py: the memory tags. Weights that 1.2 releases are copied to the host and come back; later
  versions discard them, so the learner counts them as lost.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from safetensors.torch import save_file

from s2l_nemo.engines.protocol import Bucket, LocalEngine, RefitStats
from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.engines.tensorrt_llm.folder import HfFolder
from s2l_nemo.errors import UserError
from s2l_nemo.types import Completion, LogProbs, SampleRequest, SamplingParams

_VERSION = "1.2."
_ENVIRONMENT = {
    "TLLM_DISABLE_MPI": "1",  # Ray starts the workers
    "TLLM_RAY_FORCE_LOCAL_CLUSTER": "1",  # never attach to another engine's cluster: each counts its own GPUs
    "TRT_LLM_DISABLE_LOAD_WEIGHTS_IN_PARALLEL": "1",  # the parallel loader drops modules of a partial update
}
_EXTENSION = "s2l_nemo.engines.tensorrt_llm.worker.RefitExtension"
_KV_CACHE = ["kv_cache"]
_WEIGHTS = [
    "sampler",
    "drafter",
    "guided_decoder",
    "spec_resource_manager",
    "model_extra",
    "executor_extra",
    "model",
    "draft_model",
]
# The engine keeps these in one matrix: they come in one bucket.
_FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
_MIN_BATCHED_TOKENS = 8192  # TensorRT-LLM's default

Result = TypeVar("Result")
Transport = Literal["ipc", "file"]


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
        self._library = _import_tensorrt_llm()
        self._start(
            {
                "model": settings.path,
                "skip_tokenizer_init": True,
                "tensor_parallel_size": settings.tensor_parallel_size,
                "dtype": str(settings.dtype).removeprefix("torch."),
                "max_batch_size": settings.max_batch_rows,
                "max_seq_len": self._max_length,
                "max_num_tokens": max(_MIN_BATCHED_TOKENS, self._max_length),  # a whole prompt in one pass
                "kv_cache_config": self._library.llmapi.KvCacheConfig(
                    enable_block_reuse=True, free_gpu_memory_fraction=settings.memory_fraction
                ),
                "sampler_type": "TRTLLMSampler",  # TorchSampler of 1.2 ignores seeds and penalties
                "enable_sleep": True,
                "ray_worker_extension_cls": _EXTENSION,
            }
        )

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        """One completion per request, in the order of the requests; see `RolloutEngine.generate`.

        Raises RuntimeError if the engine sleeps, cancels a request or times out, or gives what cannot be trained on.
        """
        if self._asleep:
            raise RuntimeError("the engine sleeps: resume it before generate")
        self._check_fits(requests, params)
        if not requests:
            return []
        prompts = [list(request.prompt_token_ids) for request in requests]
        sampling = [self._sampling_params(request, params) for request in requests]
        results = self._sample(prompts, sampling)
        return [
            self._completion(request, result.outputs[0], params)
            for request, result in zip(requests, results, strict=True)
        ]

    def weight_hash(self) -> str:
        """See `RolloutEngine.weight_hash`. Reads the tensors of the folder, one at a time, in the engine's type."""
        return self._folder.weight_hash(self._dtype)

    def sleep(self) -> None:
        """Gives the GPU memory back, but for the CUDA context. Nothing happens if the engine sleeps already."""
        tags = [tag for tag in _WEIGHTS + _KV_CACHE if tag not in self._asleep]
        if tags:
            self._rpc("reset_prefix_cache")  # its blocks are about to go
            self._release(tags)
            self._asleep.update(tags)

    def resume(self) -> None:
        """Takes the memory again; the weights are those of before `sleep`."""
        self._wake(_WEIGHTS + _KV_CACHE)

    def close(self) -> None:
        """Ends the engine's workers."""
        self._llm.shutdown()

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

    def _sample(self, prompts: list[list[int]], sampling: list[Any]) -> list[Any]:
        outputs: list[Any] = self._llm.generate(prompts, sampling, use_tqdm=False)
        return outputs

    def _check_fits(self, requests: Sequence[SampleRequest], params: SamplingParams) -> None:
        for request in requests:
            length = len(request.prompt_token_ids)
            if length + params.max_new_tokens > self._max_length:
                raise ValueError(
                    f"prompt {request.prompt_id} has {length} tokens; with {params.max_new_tokens} new ones it exceeds"
                    f" the engine's {self._max_length} positions: lower max_new_tokens or filter longer prompts"
                )

    def _sampling_params(self, request: SampleRequest, params: SamplingParams) -> Any:
        """A fresh object: `LLM` changes it. Everything is said, as all of them None would mean greedy."""
        draw: dict[str, Any] = {"temperature": params.temperature, "top_p": params.top_p, "top_k": params.top_k}
        if params.temperature == 0:
            draw = {"temperature": 1.0, "top_p": 1.0, "top_k": 1}  # log-probs of the unscaled logits
        if params.presence_penalty:
            draw["presence_penalty"] = params.presence_penalty
            draw["prompt_ignore_length"] = len(request.prompt_token_ids)  # it is for tokens of the response
        return self._library.SamplingParams(
            **draw,
            max_tokens=params.max_new_tokens,
            seed=request.seed,
            n=1,
            end_id=-1,
            stop_token_ids=list(params.stop_token_ids),
            include_stop_str_in_output=True,
            detokenize=False,
            logprobs=1,
        )

    def _completion(self, request: SampleRequest, output: Any, params: SamplingParams) -> Completion:
        what = f"prompt {request.prompt_id} sample {request.sample_id}"
        tokens = output.token_ids
        if output.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"{what}: TensorRT-LLM ended it with {output.finish_reason!r}")
        stopped = bool(tokens) and tokens[-1] in params.stop_token_ids
        if not stopped and (output.finish_reason == "stop" or len(tokens) != params.max_new_tokens):
            raise RuntimeError(
                f"{what}: finished by {output.finish_reason!r} after {len(tokens)} of {params.max_new_tokens} tokens,"
                " the last of which is no stop token"
            )
        return Completion(
            prompt_id=request.prompt_id,
            sample_id=request.sample_id,
            source=self._source,
            token_ids=np.array(tokens, np.int32),
            logprobs=_sampled_logprobs(what, tokens, output.logprobs),
            finish_reason="stop" if stopped else "length",
            weight_version=self._weight_version,
        )


class TensorRTLearner(TensorRTExplorer):
    """An engine whose weights follow the actor's (see `protocol.LearnerEngine`).

    A step is `update_weights`, `resume`, `generate`, `sleep`. After `sleep` the weights count as lost. `update_weights`
    takes the memory of the weights again, and `resume` that of the KV cache.
    """

    last_refit: RefitStats | None = None  # the client of the server measures it

    def __init__(self, settings: EngineSettings, transport: Transport | None = None) -> None:
        """As `TensorRTExplorer`. `transport` is how a bucket reaches the workers; None: "ipc" if there is CUDA.

        "ipc" copies it to every GPU of the engine and shares it by handles. "file" writes it to shared memory, from
        which the workers load it.
        """
        self._transport: Transport = transport or ("ipc" if torch.cuda.is_available() else "file")
        self._incomplete: str | None = None  # why the weights are not those of one version
        self._from_folder = True  # no update has begun
        self._loop = asyncio.new_event_loop()
        super().__init__(settings)
        self._devices = self._find_devices() if self._transport == "ipc" else {}

    @property
    def weight_version(self) -> int:
        """Version given with the last complete update; 0 before the first."""
        return self._weight_version

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        """As the base class. Raises RuntimeError after an incomplete update and after `sleep` without an update."""
        if self._incomplete:
            raise RuntimeError(f"{self._incomplete}: send all weights again")
        return super().generate(requests, params)

    def weight_hash(self) -> str:
        """As the base class. Raises RuntimeError after an update: the engine cannot give its fused weights back."""
        if not self._from_folder:
            raise RuntimeError("TensorRT-LLM cannot read back the weights of an update; compare weight_version instead")
        return super().weight_hash()

    def update_weights(self, buckets: Iterable[Bucket], version: int) -> None:
        """Replaces every weight in place; see `LearnerEngine.update_weights`.

        q, k and v of a layer must come in one bucket, and so must gate and up. Raises ValueError otherwise.
        """
        self._wake(_WEIGHTS)
        self._from_folder = False
        self._incomplete = f"the update to weight version {version} is incomplete"
        missing = dict(self._folder.shapes)
        for bucket in buckets:
            _take(bucket, missing, self._folder.shapes, f"weight version {version}")
            if self._transport == "ipc":
                self._send_handles(bucket)
            else:
                self._send_file(bucket)
        if missing:
            raise ValueError(f"weight version {version}: {len(missing)} tensors are missing, first {min(missing)}")
        self._call(self._llm.update_weights(None))  # finalises, and resets the prefix cache
        if self._transport == "ipc":
            torch.cuda.ipc_collect()
            torch.cuda.empty_cache()  # the copies' memory, for the KV cache or the actor
        self._weight_version = version
        self._incomplete = None

    def sleep(self) -> None:
        """As the base class; the weights count as lost."""
        super().sleep()
        self._incomplete = "sleep released the weights"

    def close(self) -> None:
        super().close()
        self._loop.close()

    def _start(self, settings: dict[str, Any]) -> None:
        async def start() -> Any:
            return await self._library.AsyncLLM(**settings)

        self._llm = self._call(start())

    def _call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return self._loop.run_until_complete(coroutine)

    def _release(self, tags: list[str]) -> None:
        self._call(self._llm.release(tags))

    def _materialize(self, tags: list[str]) -> None:
        self._call(self._llm.resume(tags))

    def _rpc(self, method: str, *args: Any) -> list[Any]:
        return self._call(self._llm.collective_rpc(method, args))

    def _sample(self, prompts: list[list[int]], sampling: list[Any]) -> list[Any]:
        async def sample() -> list[Any]:
            return await asyncio.gather(
                *(
                    self._llm.generate_async(inputs=prompt, sampling_params=one)
                    for prompt, one in zip(prompts, sampling, strict=True)
                )
            )

        return self._call(sample())

    def _find_devices(self) -> dict[str, int]:
        """UUID and this process's number of every GPU that a worker uses."""
        from tensorrt_llm._torch.utils import get_device_uuid

        ours = {get_device_uuid(device): device for device in range(torch.cuda.device_count())}
        return {uuid: ours[uuid] for uuid in self._rpc("report_device_id")}

    def _send_handles(self, bucket: Bucket) -> None:
        """A handle opens on the tensor's own GPU only: each gets a copy, which lives until all have loaded theirs."""
        from torch.multiprocessing.reductions import reduce_tensor

        copies = {
            uuid: {name: tensor.to(f"cuda:{device}", copy=True) for name, tensor in bucket.items()}
            for uuid, device in self._devices.items()
        }
        for device in self._devices.values():
            torch.cuda.synchronize(device)  # workers read the copies on streams of their own
        handles = {uuid: [(name, reduce_tensor(copy)) for name, copy in own.items()] for uuid, own in copies.items()}
        self._call(self._llm.update_weights(handles))

    def _send_file(self, bucket: Bucket) -> None:
        shared = Path("/dev/shm")
        with tempfile.TemporaryDirectory(prefix="s2l-refit-", dir=shared if shared.is_dir() else None) as folder:
            path = Path(folder) / "bucket.safetensors"
            save_file({name: tensor.contiguous() for name, tensor in bucket.items()}, path)
            self._rpc("update_weights_from_file", str(path))


def _import_tensorrt_llm() -> Any:
    """The library, with the environment that its workers inherit. Raises UserError if it is missing or not 1.2."""
    os.environ.update(_ENVIRONMENT)
    root = str(Path(__file__).resolve().parents[3])  # Ray workers import the extension by its name
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    advice = "set engine.python to the interpreter of an environment with tensorrt_llm 1.2.x"
    try:
        import tensorrt_llm
        import tensorrt_llm.llmapi
    except ModuleNotFoundError as error:
        raise UserError(f"engine.kind=tensorrt_llm: {sys.executable} has no module {error.name}; {advice}") from error
    if not tensorrt_llm.__version__.startswith(_VERSION):
        raise UserError(f"engine.kind=tensorrt_llm: found tensorrt_llm {tensorrt_llm.__version__}; {advice}")
    return tensorrt_llm


def _sampled_logprobs(what: str, tokens: Sequence[int], logprobs: Sequence[Mapping[int, Any]]) -> LogProbs:
    """The log-prob of each sampled token, which must be among those that the engine lists for its position."""
    if len(logprobs) != len(tokens):
        raise RuntimeError(f"{what}: {len(tokens)} tokens have {len(logprobs)} log-probs")
    for position, (token, at_position) in enumerate(zip(tokens, logprobs, strict=True)):
        if token not in at_position:
            raise RuntimeError(f"{what}: position {position} has no log-prob of the sampled token {token}")
    sampled = [at_position[token].logprob for token, at_position in zip(tokens, logprobs, strict=True)]
    return np.array(sampled, np.float32)


def _take(
    bucket: Mapping[str, torch.Tensor],
    missing: dict[str, tuple[int, ...]],
    shapes: Mapping[str, tuple[int, ...]],
    what: str,
) -> None:
    """Takes a bucket's names off `missing`. Raises ValueError for one that is unknown, repeated, misshapen or alone."""
    for name, tensor in bucket.items():
        if name not in shapes:
            raise ValueError(f"{what}: the model has no tensor {name} (or it is tied)")
        if name not in missing:
            raise ValueError(f"{what}: tensor {name} came twice")
        if missing.pop(name) != tuple(tensor.shape):
            raise ValueError(f"{what}: tensor {name} has shape {tuple(tensor.shape)}, the model's has {shapes[name]}")
        apart = [other for other in _fused_with(name) if other in shapes and other not in bucket]
        if apart:
            raise ValueError(f"{what}: {name} came without {apart[0]}, which is fused with it: send one bucket")


def _fused_with(name: str) -> list[str]:
    for parts in _FUSED:
        for part in parts:
            if f".{part}." in name:
                return [name.replace(f".{part}.", f".{other}.") for other in parts]
    return [name]
