"""The configuration that NeMo's MegatronGPTModel reads, from this project's configuration and an open model."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from s2l_nemo.config.optim import LrSchedule, OptimConfig
from s2l_nemo.config.schema import ActivationCheckpointing, ModelConfig
from s2l_nemo.models.nemo_config import architecture
from s2l_nemo.models.open import Model
from s2l_nemo.models.precision import Precision

RECOMPUTE: dict[ActivationCheckpointing, dict[str, Any]] = {
    ActivationCheckpointing.none: {},
    ActivationCheckpointing.selective: {"activations_checkpoint_granularity": "selective"},
    ActivationCheckpointing.full: {
        "activations_checkpoint_granularity": "full",
        "activations_checkpoint_method": "uniform",
        "activations_checkpoint_num_layers": 1,
    },
}


def nemo_config(
    model: ModelConfig,
    learner: Model,
    *,
    devices: int,
    num_nodes: int,
    on_gpu: bool,
    sequence_length: int,
    global_batch_size: int,
    optimizer_steps: int,
    seed: int,
) -> DictConfig:
    """The `trainer` and `model` sections for MegatronTrainerBuilder and MegatronGPTModel.

    `sequence_length` is in tokens. `global_batch_size` is in sequences of one optimizer step, all ranks together.
    """
    return OmegaConf.create(
        {
            # ranks and rendezvous come from RANK, WORLD_SIZE, ...
            "cluster_type": "BCP",
            "trainer": lightning_trainer(model, devices, num_nodes, on_gpu, optimizer_steps),
            "exp_manager": {"log_tflops_per_sec_per_gpu": False},
            "model": {
                **architecture(learner.shape),
                **execution(model, on_gpu),
                "global_batch_size": global_batch_size,
                "seed": seed,
                "encoder_seq_length": sequence_length,
                "tokenizer": {"library": "huggingface", "type": str(learner.hf_folder), "use_fast": True},
                "optim": optimizer(model.optim, optimizer_steps),
                "data": {"data_prefix": [], "data_impl": "mock"},
            },
        }
    )


def lightning_trainer(
    model: ModelConfig, devices: int, num_nodes: int, on_gpu: bool, optimizer_steps: int
) -> dict[str, Any]:
    """Lightning's trainer. It only carries strategy, precision and checkpoint format."""
    return {
        "num_nodes": num_nodes,
        "devices": devices,
        "accelerator": "gpu" if on_gpu else "cpu",
        "precision": "bf16" if model.precision == Precision.bf16 else "32",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "max_steps": optimizer_steps,
        "max_epochs": 1,
        "max_time": None,
        "gradient_clip_val": model.optim.clip_grad,  # megatron's optimizer reads it from here
    }


def execution(model: ModelConfig, on_gpu: bool) -> dict[str, Any]:
    """How the model is cut, in which precision it runs and what it keeps in memory."""
    bf16 = model.precision == Precision.bf16
    return {
        "tensor_model_parallel_size": model.tensor_model_parallel_size,
        "pipeline_model_parallel_size": model.pipeline_model_parallel_size,
        "virtual_pipeline_model_parallel_size": None,
        "sequence_parallel": model.tensor_model_parallel_size > 1,
        # NeMo wants a divisor of the mini-batch, also where micro-batches are cut by tokens and nothing reads it
        "micro_batch_size": 1 if model.micro_batch_tokens else model.micro_batch_size,
        "megatron_amp_O2": bf16,
        "precision": "bf16" if bf16 else "32",
        "transformer_engine": model.transformer_engine,
        "use_cpu_initialization": not on_gpu,
        "gradient_as_bucket_view": True,
        "activations_checkpoint_granularity": None,
        "activations_checkpoint_method": None,
        "activations_checkpoint_num_layers": None,
        "activations_checkpoint_layers_per_pipeline": None,
        **RECOMPUTE[model.activation_checkpointing],
    }


def optimizer(optim: OptimConfig, optimizer_steps: int) -> dict[str, Any]:
    """Megatron's distributed optimizer. A constant rate is a cosine whose end equals its start."""
    constant = optim.lr_schedule == LrSchedule.constant
    return {
        "name": "mcore_distributed_optim",
        "lr": optim.lr,
        "weight_decay": optim.weight_decay,
        "betas": [optim.beta1, optim.beta2],
        "eps": optim.eps,
        "average_in_collective": False,  # gloo has no average; the sum is scaled by 1/DP instead
        "sched": {
            "name": "CosineAnnealing",
            "warmup_steps": optim.warmup_steps,
            "constant_steps": 0,
            "min_lr": optim.lr if constant else optim.min_lr,
            "max_steps": optimizer_steps,
        },
    }


def nemo_seed(seed: int) -> int:
    """A `run.seed` (0 to 2^32 - 1) as NeMo takes it: positive, and with room for what it adds for pipeline stages.

    Seeds below 2^31 but 0 are kept. Nothing that is sampled depends on it.
    """
    largest = 2**31 - 1
    return seed if 1 <= seed <= largest else seed % largest + 1
