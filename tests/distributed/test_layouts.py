"""The same numbers whatever the parallel layout: log-probs, loss, gradient norm, weights, refit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.losses.policy import PolicyLoss
from s2l_nemo.algorithm.options import AlgorithmConfig
from s2l_nemo.config.schema import ActivationCheckpointing, ModelConfig
from s2l_nemo.models.open import open_model
from s2l_nemo.types import Source, TrainBatch
from tests.distributed.models import fixed_batch, write_qwen3
from tests.distributed.ranks import run_ranks

LAYOUTS = [(1, 1, 1), (2, 1, 2), (1, 2, 2), (2, 2, 4), (1, 1, 2)]  # TP, PP, ranks
TEMPERATURE = 0.8


def build(folder: Path, tp: int, pp: int, *, lr: float = 1e-3, micro_batch_size: int = 2, **model: Any) -> Any:
    from s2l_nemo.actor.build import build_actor, init_process_groups

    config = ModelConfig(
        path=str(folder),
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        micro_batch_size=micro_batch_size,
        **model,
    )
    config.optim.lr = lr
    config.optim.clip_grad = 0.1  # below the norm, so that clipping is part of what must agree
    init_process_groups(config, timeout_s=1800)
    return build_actor(
        config,
        open_model("model.path", str(folder)),
        num_nodes=1,
        sequence_length=64,
        global_batch_size=8,
        optimizer_steps=10,
        refit_bucket_bytes=40_000,  # several buckets
        seed=1,
    )


def own_rows(actor: Any, batch: Any) -> Any:
    rank, size = actor.data_parallel()
    rows = len(batch) // size
    return batch.select(slice(rank * rows, (rank + 1) * rows))


def two_updates(actor: Any) -> list[dict[str, float]]:
    whole = fixed_batch()
    batch = own_rows(actor, whole)
    scale = LossScale(int(whole.mask_BS.sum()), len(whole), 64)
    loss = PolicyLoss.of(AlgorithmConfig(kl_coef=0.05, importance="truncated"))
    results = []
    for old_BS in (None, batch.old_logprobs_BS):  # the first update computes its own
        actor.prepare_for_training()
        actor.prepare_for_training_step()
        sums = actor.get_loss_and_metrics(batch.with_logprobs(old_BS, batch.ref_logprobs_BS), loss, scale, TEMPERATURE)
        actor.finish_training_step()
        results.append({**sums, **actor.optimizer_step(sums["loss_sum"])})
        actor.finish_training()
    return results


def everything(folder: Path, tp: int, pp: int, model: dict[str, Any]) -> dict[str, Any]:
    actor = build(folder, tp, pp, **model)
    batch = own_rows(actor, fixed_batch())
    actor.release_memory()  # as the trainer does before engines generate
    actor.prepare_for_inference()
    logprobs_BS, entropy_BS = actor.infer(batch, TEMPERATURE)
    actor.finish_inference()
    actor.release_memory()
    updates = two_updates(actor)
    reference_BS = actor.get_init_policy_logprobs(batch, TEMPERATURE)
    actor.release_memory()
    weights = {name: tensor for bucket in actor.export_weights() for name, tensor in bucket.items()}
    after_BS, _ = actor.infer(batch, TEMPERATURE)
    return {
        "replica": actor.data_parallel()[0],
        "logprobs": logprobs_BS,
        "entropy": entropy_BS,
        "reference": reference_BS,
        "updates": updates,
        "weights": weights,
        "after": after_BS,
        "engine": engine_logprobs(folder, weights, batch),
    }


def engine_logprobs(folder: Path, weights: dict[str, torch.Tensor], batch: Any) -> torch.Tensor:
    """Log-probs that a refitted learner engine's model gives the same tokens."""
    from s2l_nemo.engines.embedded.engine import EmbeddedLearnerEngine

    engine = EmbeddedLearnerEngine.from_pretrained(
        folder, source=Source.LEARNER, device=torch.device("cpu"), dtype=torch.float32, max_batch_rows=8
    )
    engine.update_weights(iter([weights]), version=2)
    return hugging_face_logprobs(engine._model, batch)[0]


@torch.no_grad()
def hugging_face_logprobs(model: Any, batch: TrainBatch) -> tuple[torch.Tensor, torch.Tensor]:
    return padded_logprobs(model, batch)


def padded_logprobs(model: Any, batch: TrainBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs and entropy of the response tokens from padded rows, 0 elsewhere."""
    logprobs_BSV = (model(batch.tokens_BT).logits[:, :-1] / TEMPERATURE).log_softmax(-1)
    entropy_BS = -(logprobs_BSV.exp() * logprobs_BSV).sum(-1)
    target_BS = logprobs_BSV.gather(-1, batch.tokens_BT[:, 1:, None]).squeeze(-1)
    return target_BS * batch.mask_BS, entropy_BS * batch.mask_BS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3(tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="module")
def single(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = run_ranks(everything, 1, folder, 1, 1, {})[0]
    return result


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(("tp", "pp", "world"), LAYOUTS)
def test_layouts_agree(folder: Path, single: dict[str, Any], tp: int, pp: int, world: int) -> None:
    from transformers import AutoModelForCausalLM

    ranks = run_ranks(everything, world, folder, tp, pp, {})
    expected, entropy = hugging_face_logprobs(AutoModelForCausalLM.from_pretrained(folder).eval(), fixed_batch())
    replicas = world // (tp * pp)
    for result in ranks:
        rows = slice(result["replica"] * 8 // replicas, (result["replica"] + 1) * 8 // replicas)
        assert (result["logprobs"] - expected[rows]).abs().max() < 1e-5
        assert (result["entropy"] - entropy[rows]).abs().max() < 1e-5
        # the reference policy is the one before training, although the weights have moved
        assert torch.equal(result["reference"], result["logprobs"])
        assert (result["after"] - result["logprobs"]).abs().max() > 1e-2
        assert (result["engine"] - result["after"]).abs().max() < 1e-5
        for update, wanted in zip(result["updates"], single["updates"], strict=True):
            assert update == pytest.approx(wanted, rel=1e-5)
        first, second = result["updates"]
        assert first["entropy_sum"] == pytest.approx(entropy.sum().item(), rel=1e-5)
        assert first["ratio_sum"] == first["tokens"]
        assert "entropy_sum" not in second
        for name, tensor in result["weights"].items():
            assert relative(tensor, single["weights"][name]) < 1e-5, name
            assert torch.equal(tensor, ranks[0]["weights"][name]), name


@pytest.mark.parametrize(
    "model",
    [
        {"activation_checkpointing": ActivationCheckpointing.full},
        {"activation_checkpointing": ActivationCheckpointing.selective},
        {"offload_optimizer": True},
        {"offload_weights": True},
        {"micro_batch_tokens": 40},
    ],
    ids=lambda model: "-".join(f"{key}={getattr(value, 'value', value)}" for key, value in model.items()),
)
@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (1, 2)])
def test_switches_change_no_number(
    folder: Path, single: dict[str, Any], tp: int, pp: int, model: dict[str, Any]
) -> None:
    result = run_ranks(everything, 2, folder, tp, pp, model)[0]
    assert (result["logprobs"] - single["logprobs"]).abs().max() < 1e-5
    assert result["updates"][1] == pytest.approx(single["updates"][1], rel=1e-5)
    assert all(relative(tensor, single["weights"][name]) < 1e-5 for name, tensor in result["weights"].items())


def bytes_held(folder: Path) -> list[int]:
    """Of the storages of weights and gradients: at first, released, released again, and restored by an export."""
    actor = build(folder, 1, 1, offload_weights=True)
    parameters = list(actor.parameters_by_name().values())
    tensors = [*(parameter.data for parameter in parameters), *(parameter.main_grad for parameter in parameters)]

    def held() -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    sizes = [held()]
    for _ in range(2):
        actor.release_memory()
        sizes.append(held())
    list(actor.export_weights())
    return [*sizes, held()]


def test_released_memory_is_really_free(folder: Path) -> None:
    (sizes,) = run_ranks(bytes_held, 1, folder)
    assert sizes[0] > 0
    assert sizes == [sizes[0], 0, 0, sizes[0]]


@pytest.mark.parametrize(("tp", "pp", "world"), [(2, 1, 2), (1, 2, 2)])
def test_untied_output_layer(tmp_path: Path, tp: int, pp: int, world: int) -> None:
    folder = write_qwen3(tmp_path, tied=False)
    single = run_ranks(everything, 1, folder, 1, 1, {})[0]
    result = run_ranks(everything, world, folder, tp, pp, {})[-1]
    assert "lm_head.weight" in result["weights"]
    assert (result["engine"] - result["after"]).abs().max() < 1e-5
    assert result["updates"][1] == pytest.approx(single["updates"][1], rel=1e-5)
    assert all(relative(tensor, single["weights"][name]) < 1e-5 for name, tensor in result["weights"].items())


def test_the_batch_exercises_clipping_and_both_sources(single: dict[str, Any]) -> None:
    update = single["updates"][1]
    assert 0 < update["clipped"] < update["tokens"]
    assert update["tokens_explorer"] > 0
    assert update["tokens_learner"] > 0
    assert update["grad_norm"] > 0.1
