"""What runs in a Ray worker: the model, its memory, and the methods that `collective_rpc` reaches."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from s2l_nemo.engines.embedded.engine import EmbeddedEngine
from s2l_nemo.types import SampleRequest, Source
from s2l_nemo.types import SamplingParams as OurSamplingParams
from tensorrt_llm._data import CompletionOutput, LlmArgs, Logprob, SamplingParams
from tensorrt_llm._misuse import Misuse
from tensorrt_llm._torch.utils import get_device_uuid
from tensorrt_llm._torch.virtual_memory import verify_sleep_wakeup_tags

FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
Submitted = tuple[list[int], SamplingParams]


class Engine:
    """The PyExecutor: samples, reloads weights, and knows in which state the memory is."""

    def __init__(self, args: LlmArgs, keeps_released_weights: bool) -> None:
        dtype = torch.bfloat16 if args.dtype == "auto" else getattr(torch, args.dtype)
        self._args = args
        self._engine = EmbeddedEngine.from_pretrained(
            args.model, source=Source.LEARNER, device="cpu", dtype=dtype, max_batch_rows=args.max_batch_size or 2048
        )
        self._keeps_released_weights = keeps_released_weights
        self._weights_lost = False
        self._asleep: set[str] = set()
        self._missing: set[str] | None = None  # names that an update has not brought yet; None: no update
        self._cached = False  # prompts are in the prefix cache

    def generate(self, batch: Sequence[Submitted]) -> list[CompletionOutput]:
        """Samples with the embedded engine, requests with equal settings in one batch."""
        if self._asleep:
            raise Misuse(f"generate while {sorted(self._asleep)} are released")
        if self._missing is not None:
            raise Misuse(f"generate in an update that is not finalised, {len(self._missing)} tensors missing")
        if self._weights_lost:
            raise Misuse("generate with weights that were released and not sent again")
        self._cached = True
        groups: dict[str, list[int]] = {}
        for index, (_, params) in enumerate(batch):
            groups.setdefault(_settings(params), []).append(index)
        outputs: dict[int, CompletionOutput] = {}
        for indices in groups.values():
            outputs.update(zip(indices, self._sample([batch[index] for index in indices]), strict=True))
        return [outputs[index] for index in range(len(batch))]

    def _sample(self, batch: Sequence[Submitted]) -> list[CompletionOutput]:
        params = batch[0][1]
        ours = OurSamplingParams(
            max_new_tokens=params.max_tokens,
            stop_token_ids=tuple(params.stop_token_ids or ()),
            temperature=0.0 if params.greedy else 1.0 if params.temperature is None else params.temperature,
            top_p=1.0 if params.top_p is None else params.top_p,
            top_k=params.top_k or 0,
            presence_penalty=params.presence_penalty or 0.0,
        )
        requests = [SampleRequest(index, 0, tuple(prompt), p.seed or 0) for index, (prompt, p) in enumerate(batch)]
        return [_output(completion, params) for completion in self._engine.generate(requests, ours)]

    @torch.no_grad()
    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """One bucket, as `model_loader.reload(model, weights, allow_partial_loading=True)`."""
        if self._asleep - {"kv_cache"}:
            raise Misuse(f"update_weights while {sorted(self._asleep)} are released")
        ours = self._engine._weights()
        if self._missing is None:
            self._missing = set(ours)
        for name, tensor in weights.items():
            if name not in ours:
                raise Misuse(f"update_weights: the model has no {name}, which the real loader ignores (or it is tied)")
            if ours[name].shape != tensor.shape:
                raise ValueError(f"update_weights: {name} has shape {tuple(tensor.shape)}")
            apart = [other for other in _fused_with(name) if other in ours and other not in weights]
            if apart:
                raise Misuse(f"update_weights: a bucket has {name} without {apart}, which are fused with it")
            ours[name].copy_(tensor)
            self._missing.discard(name)

    def finalize(self) -> None:
        """After the last bucket."""
        if self._missing is None:
            raise Misuse("update_weights(None) without a bucket")
        if self._missing:
            raise Misuse(f"update_weights(None) with {len(self._missing)} tensors missing, first {min(self._missing)}")
        self._missing = None
        self._weights_lost = False
        self.reset_prefix_cache()

    def reset_prefix_cache(self) -> None:
        self._cached = False

    def release(self, tags: list[str]) -> None:
        self._check_sleep(tags)
        if self._asleep & set(tags):
            raise Misuse(f"{sorted(self._asleep & set(tags))} are released already")
        if "kv_cache" in tags and self._cached:
            raise Misuse("kv_cache released with prompts in the prefix cache: reset it first")
        self._asleep |= set(tags)
        self._weights_lost |= "model" in tags and not self._keeps_released_weights

    def materialize(self, tags: list[str]) -> None:
        self._check_sleep(tags)
        if set(tags) - self._asleep:
            raise Misuse(f"{sorted(set(tags) - self._asleep)} are not released")
        self._asleep -= set(tags)

    def _check_sleep(self, tags: list[str]) -> None:
        if not self._args.enable_sleep:
            raise ValueError("Sleep feature is not enabled, please set enable_sleep=True in the LLM arguments.")
        verify_sleep_wakeup_tags(tags)


class RayGPUWorker:
    """executor/ray_gpu_worker.py. The worker extension is mixed into this class."""

    def __init__(self, args: LlmArgs, keeps_released_weights: bool) -> None:
        self.device_id = 0
        self.engine = Engine(args, keeps_released_weights)

    def report_device_id(self) -> str:
        return get_device_uuid(self.device_id)

    def sleep(self, sleep_tags: list[str]) -> None:
        self.engine.release(sleep_tags)

    def wakeup(self, wakeup_tags: list[str]) -> None:
        self.engine.materialize(wakeup_tags)


def make_worker(args: LlmArgs, keeps_released_weights: bool) -> RayGPUWorker:
    """A worker with its extension; raises where the extension cannot be imported or redefines a method."""
    if args.ray_worker_extension_cls is None:
        return RayGPUWorker(args, keeps_released_weights)
    module, _, name = args.ray_worker_extension_cls.rpartition(".")
    try:
        extension = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise RuntimeError(f"Failed to load worker extension '{args.ray_worker_extension_cls}'") from error
    for attribute in dir(extension):
        if not attribute.startswith("__") and hasattr(RayGPUWorker, attribute):
            raise ValueError(f"Worker class RayGPUWorker already defines '{attribute}'")
    extended: type[RayGPUWorker] = type(f"RayGPUWorkerWith{name}", (RayGPUWorker, extension), {})
    return extended(args, keeps_released_weights)


def _settings(params: SamplingParams) -> str:
    """What requests of one batch share."""
    return repr(replace(params, seed=0, prompt_ignore_length=None))


def _output(completion: Any, params: SamplingParams) -> CompletionOutput:
    tokens = completion.token_ids.tolist()
    stopped = completion.finish_reason == "stop"
    output = CompletionOutput(
        index=0,
        token_ids=tokens,
        logprobs=[{token: Logprob(p, 1)} for token, p in zip(tokens, completion.logprobs.tolist(), strict=True)],
        finish_reason=completion.finish_reason,
        stop_reason=tokens[-1] if stopped else None,
    )
    if stopped and not params.include_stop_str_in_output:
        output.token_ids = tokens[:-1]
    return output


def _fused_with(name: str) -> list[str]:
    for parts in FUSED:
        for part in parts:
            if f".{part}." in name:
                return [name.replace(f".{part}.", f".{other}.") for other in parts]
    return [name]
