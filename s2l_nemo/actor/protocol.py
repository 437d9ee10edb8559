"""What others need of the actor, so that they import neither it nor NeMo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.losses.policy import PolicyLoss
from s2l_nemo.types import TrainBatch


class Trained(Protocol):
    """The parts of an actor that a checkpoint keeps, as NeMo and Megatron define them."""

    trainer: Any  # of Lightning

    def optimizer_and_scheduler(self) -> tuple[Any, Any]: ...
    def sharded_state_dict(self) -> dict[str, Any]: ...
    def get_model_module_list(self) -> list[torch.nn.Module]: ...


class Actor(Protocol):
    """A sharded policy with its optimizer, in the shape of NeMo-Aligner's AlignableGenerativeInterface.

    Every method is collective: all ranks call it, in the same order. The caller need not know how the model is cut.
    """

    @property
    def device(self) -> torch.device: ...

    def data_parallel(self) -> tuple[int, int]:
        """(rank, size) among the replicas; ranks of one replica hold the same rows."""
        ...

    def sum_over_replicas(self, values: Mapping[str, float]) -> dict[str, float]: ...

    def prepare_for_inference(self) -> None: ...
    def infer(self, batch: TrainBatch, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probs [B, S] of the targets and entropy [B, S]."""
        ...

    def get_init_policy_logprobs(self, batch: TrainBatch, temperature: float) -> torch.Tensor: ...
    def finish_inference(self) -> None: ...

    def prepare_for_training(self) -> None: ...
    def prepare_for_training_step(self) -> None: ...
    def get_loss_and_metrics(
        self, batch: TrainBatch, loss: PolicyLoss, scale: LossScale, temperature: float
    ) -> dict[str, float]:
        """Gradients of a mini-batch. Returns the sums of `loss`, `loss_sum`, and `entropy_sum` (nats) if the batch has
        no old log-probs, which are then those of this forward pass. All of them over all replicas."""
        ...

    def finish_training_step(self) -> None: ...
    def optimizer_step(self, loss: float) -> dict[str, float]:
        """Returns `grad_norm` before clipping, `lr`, and `skipped`: 1 if `loss` or a gradient was not finite on some
        rank. Weights and optimizer then stay as they are, on all ranks."""
        ...

    def finish_training(self) -> None: ...

    def release_memory(self) -> None:
        """Gives what the config allows of the device's memory to the engines, until the actor is used again."""
        ...

    def release_cache(self) -> None:
        """Gives back the device's memory that the actor holds and does not use, so that other processes can take it."""
        ...

    def weights_are_finite(self) -> bool: ...
    def export_weights(self) -> Iterator[dict[str, torch.Tensor]]:
        """Full tensors under the Hugging Face names that engines know, bucket by bucket, on every rank."""
        ...

    def save(self, folder: Path, trainer_state: dict[str, Any]) -> None: ...
    def load(self, folder: Path) -> dict[str, Any]: ...
    def save_nemo(self, path: Path) -> None: ...
    def save_hugging_face(self, path: Path) -> None: ...
