"""What runs in a Ray worker: its part of the weights, the state of its memory, and what `collective_rpc` reaches."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import torch

from tensorrt_llm._data import LlmArgs
from tensorrt_llm._facts import takes
from tensorrt_llm._misuse import Misuse
from tensorrt_llm._torch.utils import get_device_uuid
from tensorrt_llm._torch.virtual_memory import WEIGHTS, verify_sleep_wakeup_tags

FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def split_dim(name: str, tensor: torch.Tensor) -> int | None:
    """Along which dimension tensor-parallel ranks share a weight. None: each has all of it."""
    if tensor.dim() == 1:
        return None
    return 1 if ".o_proj." in name or ".down_proj." in name else 0


class Engine:
    """The PyExecutor of one rank: holds its shards, reloads them, and knows in which state the memory is."""

    def __init__(self, args: LlmArgs, rank: int, weights: Mapping[str, torch.Tensor], keeps_released: bool) -> None:
        self._args = args
        self._rank = rank
        self._shapes = {name: tensor.shape for name, tensor in weights.items()}
        self._keeps_released_weights = keeps_released
        self._weights_lost = False
        self._asleep: set[str] = set()
        self._missing: set[str] | None = None  # names that an update has not brought yet; None: no update
        self._cached = False  # prompts are in the prefix cache
        self.updates = 0  # that were finalised
        self.shards = {name: self._shard(name, tensor) for name, tensor in weights.items()}

    def _shard(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        dim = split_dim(name, tensor)
        if dim is None:
            return tensor.clone()
        return tensor.tensor_split(self._args.tensor_parallel_size, dim)[self._rank].clone()

    def check_ready(self) -> None:
        """Raises Misuse in a state in which the real one would generate nonsense."""
        if self._asleep:
            raise Misuse(f"generate while {sorted(self._asleep)} are released")
        if self._missing is not None:
            raise Misuse(f"generate in an update that is not finalised, {len(self._missing)} tensors missing")
        if self._weights_lost:
            raise Misuse("generate with weights that were released and not sent again")
        self._cached = True

    @torch.no_grad()
    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """One bucket of full tensors, as `model_loader.reload(model, weights, allow_partial_loading=True)`."""
        if self._asleep - {"kv_cache"}:
            raise Misuse(f"update_weights while {sorted(self._asleep)} are released")
        if self._missing is None:
            self._missing = set(self._shapes)
        for name, tensor in weights.items():
            if name not in self._shapes:
                raise Misuse(f"update_weights: the model has no {name}, which the real loader ignores (or it is tied)")
            if self._shapes[name] != tensor.shape:
                raise ValueError(f"update_weights: {name} has shape {tuple(tensor.shape)}")
            apart = [other for other in _fused_with(name) if other in self._shapes and other not in weights]
            if apart:
                raise Misuse(f"update_weights: a bucket has {name} without {apart}, which are fused with it")
            self.shards[name].copy_(self._shard(name, tensor))
            self._missing.discard(name)

    def finalize(self) -> None:
        """After the last bucket."""
        if self._missing is None:
            raise Misuse("update_weights(None) without a bucket")
        if self._missing:
            raise Misuse(f"update_weights(None) with {len(self._missing)} tensors missing, first {min(self._missing)}")
        self._missing = None
        self._weights_lost = False
        self.updates += 1
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
        self._weights_lost |= WEIGHTS in tags and not self._keeps_released_weights

    def materialize(self, tags: list[str]) -> None:
        self._check_sleep(tags)
        if set(tags) - self._asleep:
            raise Misuse(f"{sorted(set(tags) - self._asleep)} are not released")
        self._asleep -= set(tags)

    def _check_sleep(self, tags: list[str]) -> None:
        if not self._args.sleeps:
            raise ValueError("Sleep feature is not enabled, please set enable_sleep=True in the LLM arguments.")
        verify_sleep_wakeup_tags(tags)


class RayGPUWorker:
    """executor/ray_gpu_worker.py. The worker extension is mixed into this class."""

    def __init__(self, device_id: int, engine: Engine) -> None:
        self.device_id = device_id
        self.engine = engine

    @takes("RayGPUWorker.report_device_id")
    def report_device_id(self) -> str:
        return get_device_uuid(self.device_id)

    @takes("RayGPUWorker.sleep")
    def sleep(self, sleep_tags: list[str]) -> None:
        self.engine.release(sleep_tags)

    @takes("RayGPUWorker.wakeup")
    def wakeup(self, wakeup_tags: list[str]) -> None:
        self.engine.materialize(wakeup_tags)


def worker_class(extension_name: str | None) -> type[RayGPUWorker]:
    """The worker with its extension; raises where the extension cannot be imported or redefines a method."""
    if extension_name is None:
        return RayGPUWorker
    module, _, name = extension_name.rpartition(".")
    try:
        extension = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise RuntimeError(f"Failed to load worker extension '{extension_name}'") from error
    for attribute in dir(extension):
        if not attribute.startswith("__") and hasattr(RayGPUWorker, attribute):
            raise ValueError(f"Worker class RayGPUWorker already defines '{attribute}'")
    extended: type[RayGPUWorker] = type(f"RayGPUWorkerWith{name}", (RayGPUWorker, extension), {})
    return extended


def assemble(engines: list[Engine]) -> dict[str, torch.Tensor]:
    """The full weights, from the shards of all ranks."""
    weights: dict[str, torch.Tensor] = {}
    for name, shape in engines[0]._shapes.items():
        shards = [engine.shards[name] for engine in engines]
        dim = split_dim(name, torch.empty(shape, device="meta"))
        weights[name] = shards[0] if dim is None else torch.cat(shards, dim)
    return weights


def _fused_with(name: str) -> list[str]:
    for parts in FUSED:
        for part in parts:
            if f".{part}." in name:
                return [name.replace(f".{part}.", f".{other}.") for other in parts]
    return [name]
