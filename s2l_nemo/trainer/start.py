"""Starts a run's ranks with the platform that is there."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import torch

from s2l_nemo.config.checks import Models
from s2l_nemo.config.schema import Accelerator, Config, Resume, RunConfig
from s2l_nemo.config.time_limit import limit_after
from s2l_nemo.engines.gpus import devices_of, visible_gpus
from s2l_nemo.engines.kinds import ENGINES
from s2l_nemo.engines.served.environment import use_writable_folders
from s2l_nemo.errors import UserError
from s2l_nemo.platform import cpu, extras
from s2l_nemo.platform.failures import CRASHED
from s2l_nemo.platform.launch import end_rank, launch
from s2l_nemo.platform.rendezvous import join, open_store
from s2l_nemo.platform.watchdog import watching
from s2l_nemo.records.identity import check_same_identity
from s2l_nemo.trainer.early import Early, check_early, check_host
from s2l_nemo.types import Source


def start(cfg: Config, models: Models, early: Early | None = None) -> int:
    """Launches the ranks of this node and returns the exit code of the run.

    `early` is what `check_early` has returned; None: it is called here.
    """
    limit = cfg.run.save_before
    save_before = None if limit is None else limit_after(limit, datetime.now()).timestamp()
    use_writable_folders()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive a fork
    on_gpu = torch.cuda.is_available()
    check_machine(cfg, on_gpu)

    from s2l_nemo.trainer.setup import collective_timeout_s, load_inputs, run_training

    # before NeMo is imported: mistakes show at once, and forked ranks inherit the prompts
    inputs = load_inputs(cfg, models, early or check_early(cfg, models))
    if os.environ.get("RANK", "0") == "0":  # one of torchrun's ranks is enough to say it
        check_same_identity(Path(cfg.run.dir), inputs.identity, cfg.run.allow_changed)
    for model in (models.learner, *filter(None, models.explorers)):
        model.fetch()  # now that all fits; ranks and engines find it in the cache

    def run() -> None:
        preload()
        with joined(cfg.trainer.start_s, collective_timeout_s(cfg.engine), cfg.run.watch_s):
            received = run_training(cfg, inputs, save_before)
        if received:
            raise SystemExit(128 + received)

    def launched() -> int:
        devices, nodes, restarts = cfg.trainer.devices, cfg.trainer.num_nodes, cfg.run.max_restarts
        return launch(run, devices=devices, num_nodes=nodes, on_gpu=on_gpu, preload=preload, max_restarts=restarts)

    return repeated(launched, cfg.run)


def repeated(launched: Callable[[], int], run: RunConfig) -> int:
    """Launches the ranks, and again if one is lost, `run.max_restarts` times at most. Returns the last exit code.

    Whatever was asked of the first start, the others continue what is there. torchrun counts those that it makes.
    """
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        run.resume = Resume.auto
    code = launched()
    for restart in range(1, run.max_restarts + 1):
        if code != CRASHED:
            break
        print(f"restart {restart} of {run.max_restarts}, from the last checkpoint", file=sys.stderr, flush=True)
        run.resume = Resume.auto
        code = launched()
    return code


def check_machine(cfg: Config, on_gpu: bool) -> None:
    """Raises UserError if a launcher has started other ranks than the run has, or this node lacks what it needs."""
    check_host(cfg)
    if cfg.trainer.accelerator == Accelerator.gpu and not on_gpu:
        raise UserError("trainer.accelerator=gpu, but PyTorch sees no CUDA device; set trainer.accelerator=cpu")
    if cfg.trainer.accelerator == Accelerator.cpu and on_gpu:
        raise UserError("trainer.accelerator=cpu on a machine with CUDA: start it with CUDA_VISIBLE_DEVICES= set empty")
    if cfg.model.transformer_engine and not on_gpu:
        raise UserError(
            "model.transformer_engine=true needs a GPU, and PyTorch sees no CUDA device: set "
            "model.transformer_engine=false"
        )
    if on_gpu:
        check_gpus(cfg, visible_gpus(os.environ, torch.cuda.device_count()))


@contextmanager
def joined(start_s: float, timeout_s: float, watch_s: float) -> Iterator[None]:
    """Joins the other ranks, and watches over one of them."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    join(timeout_s, start_s)
    board = open_store(rank, world, time.monotonic() + start_s, start_s)
    with watching(board, rank, world, watch_s, end_rank, lambda text: print(text, file=sys.stderr, flush=True)):
        yield


def check_gpus(cfg: Config, visible: Sequence[str]) -> None:
    """Raises UserError if there are too few GPUs for the ranks or the servers of this node, or names of another kind.

    Rank n of a node uses the n-th of the visible GPUs, which no server with GPUs of its own may get.
    """
    devices = cfg.trainer.devices
    if devices > len(visible):
        raise UserError(
            f"trainer.devices={devices}, but PyTorch sees {len(visible)} GPUs on this node: set trainer.devices to at "
            f"most {len(visible)}, or let every process see all of them (CUDA_VISIBLE_DEVICES)"
        )
    if ENGINES[cfg.engine.kind].served:
        for source in Source:
            devices_of(cfg.engine, source, 0, visible)
    lists = {"explorer_devices": cfg.engine.explorer_devices, "learner_devices": cfg.engine.learner_devices}
    for key, listed in lists.items():
        shared = sorted({name.strip() for name in (listed or "").split(",")} & set(visible[:devices]))
        if shared:
            raise UserError(
                f"engine.{key}={listed}: the trainer's ranks use GPU {', '.join(shared)}; give the servers others, or "
                "set engine.placement=colocated"
            )


def preload() -> None:
    """Imports NeMo and Megatron, quietly: their start-up messages are not about this run."""
    warnings.filterwarnings("ignore", module=r"(megatron|nemo|lightning|torch|pydantic|transformers)(\.|$)")
    from s2l_nemo.actor.quiet import silence

    silence()  # before the CPU layer, which imports Megatron
    if cpu.needed():
        cpu.install()
    extras.fill()
    import s2l_nemo.actor.build  # noqa: F401  for what it imports
