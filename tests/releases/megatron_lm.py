"""Run by tests beside a clone of Megatron-LM: its own `pretrain_gpt.py` model, loader and writer, on gloo ranks.

    PYTHONPATH=CLONE:REPOSITORY python -m tests.releases.megatron_lm TOKENS OUTPUT ARGUMENTS...

One process for each rank, with the variables that torchrun sets. ARGUMENTS are Megatron-LM's. TOKENS is a safetensors
file with `tokens` [B, T]. OUTPUT is a folder. There come `root/`, written by Megatron-LM's `save_checkpoint`, and
`computed.safetensors`: `inv_freq` of its rotary positions and, without pipeline parallelism, `logprobs` [B, T - 1].

Megatron-LM runs without CUDA by `s2l_nemo.platform.cpu` and the replacements of `hide_cuda`. Its own code is unchanged.
"""

from __future__ import annotations

import functools
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file

from s2l_nemo.platform import cpu
from tests.releases.release import give_python_its_names, give_torch_its_arguments, logprobs_of


def hide_cuda() -> None:
    """What `initialize_megatron` and `get_model` ask of CUDA before anything is loaded."""
    cpu.install()
    cuda = cast(Any, torch.cuda)
    cuda.is_available = lambda: True  # "Megatron requires CUDA."
    cuda.device_count = lambda: 1  # with 0 it makes no groups of ranks
    cuda.stream = lambda stream: stream
    cuda.get_device_capability = lambda *_: (9, 0)
    cuda.get_device_properties = lambda *_: SimpleNamespace(major=9, minor=0)


def initialize() -> None:
    """Megatron-LM's own start, but for what it compiles: kernels, and the index of its data sets."""
    give_python_its_names()
    cast(Any, import_module("megatron.training.initialize"))._compile_dependencies = lambda: None
    arguments, initializing = (
        import_module("megatron.training.arguments"),
        import_module("megatron.training.initialize"),
    )
    if hasattr(arguments, "parse_and_validate_args"):  # from 0.18 on a step of its own
        arguments.parse_and_validate_args()
    initializing.initialize_megatron()
    checkpointing: Any = import_module("megatron.training.checkpointing")
    if find_spec("transformer_engine") is None and hasattr(checkpointing, "is_te_min_version"):
        checkpointing.is_te_min_version = lambda *_, **__: False  # 0.12 asks for the version, installed or not


def main() -> None:
    tokens, output = map(Path, sys.argv[1:3])
    sys.argv[1:] = [*sys.argv[3:], "--save", str(output / "root"), "--save-interval", "1"]
    hide_cuda()
    initialize()
    print(Path(import_module("megatron.core").__file__ or "").parent)
    give_torch_its_arguments()
    from megatron.core.enums import ModelType
    from megatron.training.checkpointing import save_checkpoint
    from megatron.training.global_vars import get_args
    from megatron.training.training import setup_model_and_optimizer

    pretrain = import_module("pretrain_gpt")
    provider = pretrain.model_provider
    if hasattr(pretrain, "gpt_builder"):  # from 0.15 on
        provider = functools.partial(provider, pretrain.gpt_builder)
    # as `pretrain` calls it: builds model and optimizer, and calls load_checkpoint
    model, optimizer, scheduler = setup_model_and_optimizer(
        model_provider_func=provider, model_type=ModelType.encoder_or_decoder
    )
    computed = {"inv_freq": model[0].module.rotary_pos_emb.inv_freq.float()}
    if get_args().pipeline_model_parallel_size == 1:
        model[0].eval()
        computed["logprobs"] = logprobs_of(model[0], load_file(tokens)["tokens"])
    if get_args().rank == 0:
        save_file({name: tensor.contiguous() for name, tensor in computed.items()}, output / "computed.safetensors")
    save_checkpoint(1, model, optimizer, scheduler, 0)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
