"""Checkpoints of the actor: bit for bit on the same layout, the same numbers on any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.models import write_qwen3
from tests.distributed.ranks import run_ranks
from tests.distributed.test_layouts import build, two_updates

SAVED = (2, 1, 2)  # TP, PP, ranks


def train_and_save(folder: Path, tp: int, pp: int, checkpoint: Path) -> dict[str, Any]:
    actor = build(folder, tp, pp)
    two_updates(actor)
    torch.manual_seed(7 + torch.distributed.get_rank())
    checkpoint.mkdir(exist_ok=True)
    actor.save(checkpoint, {"step": 2, "note": "hello"})
    drawn = torch.rand(3)
    return {"updates": two_updates(actor), "weights": weights_of(actor), "drawn": drawn}


def load_and_train(folder: Path, tp: int, pp: int, checkpoint: Path) -> dict[str, Any]:
    actor = build(folder, tp, pp)
    state = actor.load(checkpoint)
    drawn = torch.rand(3)
    return {"state": state, "updates": two_updates(actor), "weights": weights_of(actor), "drawn": drawn}


def load_before_engines_sample(folder: Path, tp: int, pp: int, checkpoint: Path) -> tuple[list[str], Any]:
    """Where the optimizer states go when an actor is loaded that has given its memory away. And its next updates."""
    actor = build(folder, tp, pp, offload_optimizer=True, offload_weights=True)
    actor.release_memory()
    devices: list[str] = []
    move = actor._move_optimizer_states

    def move_and_note(device: torch.device) -> None:
        devices.append(str(device))
        move(device)

    actor._move_optimizer_states = move_and_note
    actor.load(checkpoint)
    return list(devices), two_updates(actor)


def weights_of(actor: Any) -> dict[str, torch.Tensor]:
    return {name: tensor for bucket in actor.export_weights() for name, tensor in bucket.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3(tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="module")
def saved(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    checkpoint = tmp_path_factory.mktemp("run") / "step_000002"
    tp, pp, world = SAVED
    return checkpoint, run_ranks(train_and_save, world, folder, tp, pp, checkpoint)


def test_same_layout_continues_bit_for_bit(folder: Path, saved: tuple[Path, list[dict[str, Any]]]) -> None:
    checkpoint, expected = saved
    tp, pp, world = SAVED
    resumed = run_ranks(load_and_train, world, folder, tp, pp, checkpoint)
    for after, before in zip(resumed, expected, strict=True):
        assert after["state"] == {"step": 2, "note": "hello", "world_size": 2}
        assert after["updates"] == before["updates"]
        assert torch.equal(after["drawn"], before["drawn"])
        assert all(torch.equal(tensor, before["weights"][name]) for name, tensor in after["weights"].items())
    assert not torch.equal(resumed[0]["drawn"], resumed[1]["drawn"])  # every rank has a state of its own


def test_a_loaded_optimizer_leaves_the_device_before_engines_sample(
    folder: Path, saved: tuple[Path, list[dict[str, Any]]]
) -> None:
    checkpoint, expected = saved
    tp, pp, world = SAVED
    loaded = run_ranks(load_before_engines_sample, world, folder, tp, pp, checkpoint)
    assert loaded == [(["cpu"], rank["updates"]) for rank in expected]


@pytest.mark.parametrize(("tp", "pp", "world"), [(1, 1, 1), (1, 1, 2), (2, 2, 4)])
def test_r08_another_layout_continues_with_the_same_numbers(
    folder: Path, saved: tuple[Path, list[dict[str, Any]]], tp: int, pp: int, world: int
) -> None:
    checkpoint, expected = saved
    resumed = run_ranks(load_and_train, world, folder, tp, pp, checkpoint)[0]
    for update, wanted in zip(resumed["updates"], expected[0]["updates"], strict=True):
        assert update == pytest.approx(wanted, rel=1e-5)


def test_it_is_a_distributed_checkpoint_of_megatron(saved: tuple[Path, list[dict[str, Any]]]) -> None:
    names = {file.name for file in saved[0].iterdir()}
    assert {"metadata.json", "common.pt", ".metadata"} <= names
    assert any(name.endswith(".distcp") for name in names)


def nemo_round_trip(folder: Path, file: Path) -> dict[str, Any]:
    """Trains, writes a .nemo, and restores it with NeMo-Aligner's own function into a model that had other weights."""
    from nemo_aligner.utils.utils import load_from_nemo

    from s2l_nemo.actor.actor import S2LActor

    actor = build(folder, 2, 1)
    two_updates(actor)
    actor.save_nemo(file)
    restored = load_from_nemo(S2LActor, actor.cfg, actor.trainer, strict=True, restore_path=str(file))
    mine, theirs = actor.parameters_by_name(), restored.parameters_by_name()
    return {name: (mine[name].detach(), theirs[name].detach()) for name in mine}


def test_nemo_file_restores_with_nemo_aligner(folder: Path, tmp_path: Path) -> None:
    for pairs in run_ranks(nemo_round_trip, 2, folder, tmp_path / "final.nemo"):
        assert len(pairs) == 34
        assert all(torch.equal(mine, theirs) for mine, theirs in pairs.values())


def replaced_metadata() -> tuple[object, object]:
    from torch.distributed.checkpoint import filesystem
    from torch.distributed.checkpoint.metadata import Metadata

    import s2l_nemo.actor.checkpoint  # noqa: F401  it mends torch's module

    torch.distributed.init_process_group("gloo")
    metadata = Metadata({}, planner_data="old")
    metadata.mcore_data = {"weight": 1}  # type: ignore[attr-defined]  # as Megatron does
    copy = filesystem.dataclasses.replace(metadata, planner_data="new")  # type: ignore[attr-defined]
    return copy.mcore_data, copy.planner_data


def test_metadata_that_torch_copies_keeps_what_megatron_added() -> None:
    """torch 2.9 to 2.11 write a copy of it. With the torch of the lock file nothing else can show the mend."""
    (found,) = run_ranks(replaced_metadata, 1)
    assert found == ({"weight": 1}, "new")
