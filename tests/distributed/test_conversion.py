"""What the converters write, restored by the actor and by NeMo-Aligner at any layout; what training wrote, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from s2l_nemo.models.checkpoints.to_nemo import Format
from s2l_nemo.models.open import open_model
from tests.distributed.conversion import to_hf, to_nemo
from tests.distributed.models import VARIANTS, fixed_batch, write_internlm2, write_qwen3, write_variant
from tests.distributed.ranks import run_ranks
from tests.distributed.test_layouts import TEMPERATURE, build, hugging_face_logprobs

LAYOUTS = [(1, 1), (2, 1), (1, 2), (2, 2)]
CASES = [(model, *layout) for model in ("tied", "untied", "internlm2") for layout in LAYOUTS]
CASES += [(model, *layout) for model in ("qwen2", "llama3", "yarn") for layout in ((1, 1), (2, 2))]


def write_model(folder: Path, model: str, seed: int) -> Path:
    if model == "internlm2":
        return write_internlm2(folder, seed=seed)
    if model in VARIANTS:
        return write_variant(folder, model, seed=seed)
    return write_qwen3(folder, tied=model == "tied", seed=seed, shards=3)


def expected_logprobs(folder: Path) -> torch.Tensor:
    """By transformers; an InternLM2.5 in its Llama form."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, attn_implementation="eager")
    return hugging_face_logprobs(model.eval(), fixed_batch())[0]


def restored_logprobs(other: Path, checkpoint: Path, tp: int, pp: int) -> dict[str, Any]:
    """Log-probs of a NeMo checkpoint by both ways in: the actor's own, and NeMo-Aligner's into other weights."""
    from nemo_aligner.utils.utils import load_from_nemo

    from s2l_nemo.actor.actor import S2LActor

    actor = build(other, tp, pp)
    before, _ = actor.infer(fixed_batch(), TEMPERATURE)
    actor.load_weights(open_model("model.path", str(checkpoint)))
    own, _ = actor.infer(fixed_batch(), TEMPERATURE)
    restored = load_from_nemo(S2LActor, actor.cfg, actor.trainer, strict=True, restore_path=str(checkpoint))
    by_nemo, _ = restored.infer(fixed_batch(), TEMPERATURE)
    pairs = zip(actor.parameters_by_name().items(), restored.parameters_by_name().items(), strict=True)
    equal = [name == again and torch.equal(one, other) for (name, one), (again, other) in pairs]
    return {"before": before, "own": own, "by_nemo": by_nemo, "equal": equal}


@pytest.mark.parametrize(("model", "tp", "pp"), CASES)
def test_a_nemo_checkpoint_restores_at_any_layout(tmp_path: Path, model: str, tp: int, pp: int) -> None:
    source, other = (write_model(tmp_path / f"hf{seed}", model, seed) for seed in (1, 2))
    form = Format.NEMO if tp == pp else Format.NEMO_DIR  # both forms, each at two layouts
    checkpoint = to_nemo(source, tmp_path / ("model.nemo" if form.tar else "model"), form)
    reference = to_hf(checkpoint, tmp_path / "llama", engine_form=True) if model == "internlm2" else source
    expected = expected_logprobs(reference)
    for rank in run_ranks(restored_logprobs, tp * pp, other, checkpoint, tp, pp):
        assert (rank["own"] - expected).abs().max() < 1e-5
        assert (rank["by_nemo"] - expected).abs().max() < 1e-5
        assert all(rank["equal"])
        assert len(rank["equal"]) > 10 // pp
        assert (rank["before"] - expected).abs().max() > 1e-2  # the weights were other ones before
    assert not list(tmp_path.rglob("EXECUTED"))


def megatron_logprobs(other: Path, checkpoint: Path) -> torch.Tensor:
    """Restored by Megatron's own loader, without NeMo's prefix: what Megatron-LM does."""
    from megatron.core import dist_checkpointing

    actor = build(other, 1, 1)
    (module,) = actor.get_model_module_list()
    loaded = dist_checkpointing.load({"model": module.sharded_state_dict()}, str(checkpoint))
    module.load_state_dict(loaded["model"])
    logprobs_BS: torch.Tensor = actor.infer(fixed_batch(), TEMPERATURE)[0]
    return logprobs_BS


def test_megatron_loads_its_format(tmp_path: Path) -> None:
    source, other = (write_model(tmp_path / f"hf{seed}", "untied", seed) for seed in (1, 2))
    checkpoint = to_nemo(source, tmp_path / "megatron", Format.MEGATRON)
    assert (checkpoint / "latest_checkpointed_iteration.txt").read_text() == "release"
    (logprobs,) = run_ranks(megatron_logprobs, 1, other, checkpoint / "release")
    assert (logprobs - expected_logprobs(source)).abs().max() < 1e-5
