"""Packed micro-batches against padded rows in Hugging Face's model: random groups, lengths, masks and sizes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.losses.policy import PolicyLoss
from s2l_nemo.algorithm.options import AlgorithmConfig
from s2l_nemo.config.schema import ActivationCheckpointing
from s2l_nemo.types import TrainBatch
from tests.distributed.models import VOCAB, write_qwen3
from tests.distributed.ranks import run_ranks
from tests.distributed.test_layouts import TEMPERATURE, build, padded_logprobs

SEEDS = range(8)
# By whether the seed is odd. Of even ones the entropy has no gradient.
LOSSES = [
    PolicyLoss.of(AlgorithmConfig(kl_coef=0.05, importance="truncated", entropy_coef=coef)) for coef in (0.0, 0.2)
]


def random_batch(seed: int) -> tuple[TrainBatch, int | None]:
    """1 to 4 groups of 1 to 5 rows, and `micro_batch_tokens`. Masks have holes, and some rows have none at all."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    groups = [rng.randint(1, 5) for _ in range(rng.randint(1, 4))]
    rows = sum(groups)
    prompts = [torch.randint(0, VOCAB, (rng.randint(1, 9),), generator=generator) for _ in groups]
    group_B = [group for group, size in enumerate(groups) for _ in range(size)]
    prompt_length_B = torch.tensor([len(prompts[group]) for group in group_B])
    length_B = prompt_length_B + torch.tensor([rng.randint(1, 14) for _ in group_B])
    T = int(length_B.max()) + rng.randint(0, 2)
    tokens_BT, mask_BS = torch.randint(0, VOCAB, (rows, T), generator=generator), torch.zeros(rows, T - 1)
    for row, group in enumerate(group_B):
        start, end = len(prompts[group]), int(length_B[row])
        tokens_BT[row, :start] = prompts[group]
        mask_BS[row, start - 1 : end - 1] = float(rng.random() < 0.8)
        if rng.random() < 0.3:
            mask_BS[row, rng.randrange(start - 1, end - 1)] = 0
    mask_BS[0, len(prompts[0]) - 1] = 1

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    batch = TrainBatch(
        tokens_BT=tokens_BT,
        mask_BS=mask_BS,
        sampler_logprobs_BS=-6 * uniform(rows, T - 1),
        advantages_B=2 * uniform(rows) - 0.4,
        source_B=torch.arange(rows) % 2,
        prompt_length_B=prompt_length_B,
        length_B=length_B,
        prompt_id_B=torch.tensor(group_B),
        sample_id_B=torch.arange(rows),
        old_logprobs_BS=-6 + 0.4 * uniform(rows, T - 1),
        ref_logprobs_BS=-6 + 0.4 * uniform(rows, T - 1),
    )
    return batch, rng.choice([None, 8, 24, 64, 400])


def scale_of(batch: TrainBatch) -> LossScale:
    return LossScale(int(batch.mask_BS.sum()), len(batch), 64)


def computed(folder: Path, tp: int, pp: int, model: dict[str, Any]) -> list[dict[str, Any]]:
    """Log-probs, entropy, sums of the loss and gradient norm of each batch. The weights stay as they are."""
    actor = build(folder, tp, pp, lr=1e-30, micro_batch_size=1, **model)
    results = []
    for seed in SEEDS:
        batch, actor.micro_batch_tokens = random_batch(seed)
        actor.prepare_for_inference()
        logprobs_BS, entropy_BS = actor.infer(batch, TEMPERATURE)
        actor.finish_inference()
        actor.prepare_for_training()
        actor.prepare_for_training_step()
        sums = actor.get_loss_and_metrics(batch, LOSSES[seed % 2], scale_of(batch), TEMPERATURE)
        actor.finish_training_step()
        sums |= actor.optimizer_step(sums["loss_sum"])
        actor.finish_training()
        results.append({"logprobs": logprobs_BS, "entropy": entropy_BS, "sums": sums})
    return results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3(tmp_path_factory.mktemp("qwen3"))


@pytest.mark.parametrize(
    ("tp", "pp", "model"),
    [
        (1, 1, {}),
        (2, 1, {"activation_checkpointing": ActivationCheckpointing.full}),
        (1, 2, {"activation_checkpointing": ActivationCheckpointing.selective}),
        (2, 2, {}),
    ],
)
def test_packed_equals_padded(folder: Path, tp: int, pp: int, model: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    ranks = run_ranks(computed, tp * pp, folder, tp, pp, model)
    for seed in SEEDS:
        batch, _ = random_batch(seed)
        plain.zero_grad()
        logprobs_BS, entropy_BS = padded_logprobs(plain, batch)
        value, sums = LOSSES[seed % 2](logprobs_BS, batch, scale_of(batch), entropy_BS)
        value.backward()
        norm = torch.stack([parameter.grad.norm() for parameter in plain.parameters()]).norm().item()
        for result in (found[seed] for found in ranks):
            assert (result["logprobs"] - logprobs_BS).abs().max() < 1e-5
            assert (result["entropy"] - entropy_BS).abs().max() < 1e-5
            assert result["sums"]["loss_sum"] == pytest.approx(value.item(), rel=1e-5, abs=1e-6)
            assert result["sums"]["grad_norm"] == pytest.approx(norm, rel=1e-5)
            for name, total in sums.items():
                assert result["sums"][name] == pytest.approx(total.item(), rel=1e-5, abs=1e-5), name
