"""Checkpoints of a running actor: NeMo's distributed checkpoint of weights, optimizer, scheduler and RNG."""

from __future__ import annotations

import dataclasses
import queue
import random
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import torch
from megatron.core import dist_checkpointing, tensor_parallel
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.base import AsyncSaveShardedStrategy
from torch.distributed.checkpoint import filesystem

from s2l_nemo.actor.protocol import Trained


def _save_in_process(strategy: AsyncSaveShardedStrategy, sharded_state_dict: Any, checkpoint_dir: Any) -> None:
    """Writes at once, in this process. The format is the same.

    Upstream forks a process for the request. For the one queue between them it spawns another, which imports the main
    script and NeMo again: 20 s a save with two ranks.
    """
    request = strategy.async_save(sharded_state_dict, checkpoint_dir)
    if request.preload_fn is not None:
        rank, _, results = request.async_fn_args
        request = request._replace(async_fn_args=(rank, request.preload_fn(), results))
    request.execute_sync()


def _write_in_threads(
    transforms: list[Any],
    use_msc: bool,
    _rank: int,
    buckets: list[Any],
    results: queue.Queue[Any],
) -> None:
    """Writes the files of this rank. Their format is the same.

    Upstream forks a process for each file. Such a process outlives a rank that is killed meanwhile, waits forever, and
    is a copy of a process with threads, whose locks it may find held.
    """
    written: queue.Queue[Any] = queue.Queue()
    write = filesystem_async.FileSystemWriterAsync.write_preloaded_data

    def work(index: int, bucket: Any) -> None:
        done: queue.Queue[int] = queue.Queue()
        done.put(index)
        write(transforms, index, bucket, written, done, True, use_msc=use_msc)

    with ThreadPoolExecutor(max(1, len(buckets))) as pool:
        for future in [pool.submit(work, *pair) for pair in enumerate(buckets)]:
            future.result()
    outcomes = dict(written.get() for _ in buckets)
    failed = [outcome for outcome in outcomes.values() if isinstance(outcome, Exception)]
    results.put(failed[0] if failed else outcomes)


def _replace(instance: Any, **changes: Any) -> Any:
    """`dataclasses.replace` that keeps attributes which are no fields.

    torch 2.9 to 2.11 write such a copy of a checkpoint's metadata, and it lacks Megatron's `mcore_data`: a checkpoint
    that cannot be loaded (pytorch issue 162948).
    """
    copy = dataclasses.replace(instance, **changes)
    for name in vars(instance).keys() - vars(copy).keys():
        setattr(copy, name, getattr(instance, name))
    return copy


AsyncSaveShardedStrategy.save = _save_in_process
filesystem_async.FileSystemWriterAsync.write_preloaded_data_multiproc = staticmethod(_write_in_threads)
filesystem_async._get_write_results_queue = lambda: queue.Queue()
filesystem.dataclasses = SimpleNamespace(replace=_replace)  # type: ignore[assignment, attr-defined]  # the one name it uses


def save(actor: Trained, folder: Path, trainer_state: dict[str, Any]) -> None:
    """Writes all that training needs to go on into the new folder `folder`. Collective.

    `trainer_state` is plain data, the same on every rank.
    """
    trainer = actor.trainer
    checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    checkpoint["trainer_state"] = {**trainer_state, "world_size": torch.distributed.get_world_size()}
    checkpoint["rng"] = _rng_shard(_rng_state())
    checkpoint["state_dict"] = {}  # NeMo's layout: weights are in `sharded_state_dict`
    checkpoint["optimizer_states"] = [trainer.strategy.optimizer_sharded_state_dict()]
    trainer.strategy.checkpoint_io.save_checkpoint(checkpoint, str(folder))


def load(actor: Trained, folder: Path) -> dict[str, Any]:
    """Restores what `save` wrote and returns its `trainer_state`. TP, PP and DP may be other ones. Collective.

    If the number of ranks is the same, every random state comes back too. With another number no state could go on,
    and nothing in this project draws from it. The learning rate is the actor's own, and follows the warm-up and the
    cosine of the checkpoint: more steps do not stretch them.
    """
    strategy = actor.trainer.strategy
    state: dict[str, Any] = dist_checkpointing.load_common_state_dict(str(folder))["trainer_state"]
    optimizer, scheduler = actor.optimizer_and_scheduler()
    wanted: dict[str, Any] = {
        "state_dict": actor.sharded_state_dict(),
        "optimizer_states": [strategy.optimizer_sharded_state_dict(is_loading=True)],
    }
    same_world = state["world_size"] == torch.distributed.get_world_size()
    if same_world:
        wanted["rng"] = _rng_shard(None)
    loaded = strategy.checkpoint_io.load_checkpoint(str(folder), sharded_state_dict=wanted)
    for module in actor.get_model_module_list():
        module.load_state_dict(
            {name.removeprefix("model."): x for name, x in loaded["state_dict"].items()}, strict=True
        )
    optimizer.load_state_dict(loaded["optimizer_states"][0])
    base_lrs, min_lr = scheduler.base_lrs, scheduler.min_lr
    scheduler.load_state_dict(loaded["lr_schedulers"][0])
    if (scheduler.base_lrs, scheduler.min_lr) != (base_lrs, min_lr):
        _change_rates(optimizer, scheduler, base_lrs, min_lr)
    if same_world:
        _set_rng_state(loaded["rng"])
    return state


def _change_rates(optimizer: Any, scheduler: Any, base_lrs: list[float], min_lr: float) -> None:
    """Lets the schedule go on from where it is between other rates."""
    scheduler.base_lrs, scheduler.min_lr = base_lrs, min_lr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not `step` that asks
        rates = scheduler.get_lr()
    for group, base, rate in zip(optimizer.param_groups, base_lrs, rates, strict=True):
        group["initial_lr"], group["lr"] = base, rate
    scheduler._last_lr = rates


def _rng_shard(state: dict[str, Any] | None) -> ShardedObject:
    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    return ShardedObject("rng", state, (world,), (rank,))


def _rng_state() -> dict[str, Any]:
    state = {
        "python": random.getstate(),
        "numpy": numpy.random.get_state(),
        "torch": torch.get_rng_state(),
        "megatron": tensor_parallel.get_cuda_rng_tracker().get_states(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_rng_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    numpy.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    tensor_parallel.get_cuda_rng_tracker().set_states(state["megatron"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
