"""Builds a ready actor on every rank: process groups, model, optimizer, weights."""

from __future__ import annotations

import datetime
import os
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from nemo.collections.nlp.parts.megatron_trainer_builder import MegatronTrainerBuilder
from nemo_aligner.utils.train_script_utils import init_distributed, init_using_ptl

from s2l_nemo.actor.actor import S2LActor
from s2l_nemo.actor.model_config import nemo_config, nemo_seed
from s2l_nemo.actor.offload import Offload
from s2l_nemo.config.schema import ModelConfig
from s2l_nemo.models.open import Model


def init_process_groups(model: ModelConfig, timeout_s: float) -> None:
    """Initialises torch.distributed, then Megatron's groups. No collective of theirs may take longer than `timeout_s`.

    This comes before the model: layers of megatron-core 0.13 look their groups up when they are built, and NeMo builds
    the model before it initialises anything.
    """
    if not torch.distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout_s))
    parallel_state.initialize_model_parallel(
        model.tensor_model_parallel_size,
        model.pipeline_model_parallel_size,
        distributed_timeout_minutes=timeout_s / 60,  # NeMo keeps groups that it finds
    )


def build_actor(
    model: ModelConfig,
    learner: Model,
    *,
    num_nodes: int,
    sequence_length: int,
    global_batch_size: int,
    optimizer_steps: int,
    refit_bucket_bytes: int,
    seed: int,
    keeps_reference: bool = True,
) -> S2LActor:
    """The actor with the weights of `learner` and its optimizer. `keeps_reference` copies the weights to host memory.

    Call `init_process_groups` first. `sequence_length` is in tokens, `global_batch_size` in sequences of one optimizer
    step.
    """
    cfg = nemo_config(
        model,
        learner,
        devices=torch.distributed.get_world_size() // num_nodes,
        num_nodes=num_nodes,
        on_gpu=torch.cuda.is_available(),
        sequence_length=sequence_length,
        global_batch_size=global_batch_size,
        optimizer_steps=optimizer_steps,
        seed=nemo_seed(seed),
    )
    trainer: Any = MegatronTrainerBuilder(cfg).create_trainer()
    actor = S2LActor(cfg.model, trainer)
    init_distributed(trainer, actor, model.transformer_engine)
    # NeMo derives the length of its schedule from a data loader. The trainer of this project feeds batches itself.
    placeholder: Any = [0] * global_batch_size
    init_using_ptl(trainer, actor, torch.utils.data.DataLoader(placeholder), placeholder)
    model_parallel_cuda_manual_seed(nemo_seed(seed))
    actor.load_weights(learner)
    actor.offload_optimizer = model.offload_optimizer
    actor.offload = Offload(actor.parameters_by_name().values()) if model.offload_weights else None
    actor.refit_bucket_bytes = refit_bucket_bytes
    actor.micro_batch_tokens = model.micro_batch_tokens
    if keeps_reference:
        actor.keep_initial_policy()
    return actor
