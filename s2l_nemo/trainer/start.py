"""Starts a run's ranks with the platform that is there."""

from __future__ import annotations

import os
import warnings

import torch

from s2l_nemo.config.checks import Models
from s2l_nemo.config.load import resolved_yaml
from s2l_nemo.config.schema import Accelerator, Config
from s2l_nemo.errors import UserError
from s2l_nemo.platform import cpu, extras
from s2l_nemo.platform.launch import launch
from s2l_nemo.records.directory import check_run_dir


def start(cfg: Config, models: Models) -> int:
    """Launches the ranks of this node and returns the exit code of the run."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive a fork
    on_gpu = torch.cuda.is_available()
    if cfg.trainer.accelerator == Accelerator.gpu and not on_gpu:
        raise UserError("trainer.accelerator=gpu, but PyTorch sees no CUDA device; set trainer.accelerator=cpu")
    if cfg.trainer.accelerator == Accelerator.cpu and on_gpu:
        raise UserError("trainer.accelerator=cpu on a machine with CUDA: start it with CUDA_VISIBLE_DEVICES= set empty")

    from s2l_nemo.trainer.setup import load_inputs, run_training

    # before NeMo is imported: mistakes show at once, and forked ranks inherit the prompts
    if os.environ.get("RANK", "0") == "0":  # one of torchrun's ranks is enough to say it
        check_run_dir(cfg.run.dir, cfg.run.resume, resolved_yaml(cfg))
    inputs = load_inputs(cfg, models)

    def run() -> None:
        preload()
        received = run_training(cfg, inputs)
        if received:
            raise SystemExit(128 + received)

    return launch(run, devices=cfg.trainer.devices, num_nodes=cfg.trainer.num_nodes, on_gpu=on_gpu, preload=preload)


def preload() -> None:
    """Imports NeMo and Megatron, quietly: their start-up messages are not about this run."""
    warnings.filterwarnings("ignore", module=r"(megatron|nemo|lightning|torch|pydantic|transformers)(\.|$)")
    if cpu.needed():
        cpu.install()
    from s2l_nemo.actor.quiet import silence

    silence()
    extras.fill()
    import s2l_nemo.actor.build  # noqa: F401  for what it imports
