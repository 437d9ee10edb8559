"""`checkpoints/` of a run, as docs/security.md has it: Megatron's own loader believes them, this project's does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from s2l_nemo.errors import UserError
from s2l_nemo.models.checkpoints.open import open_checkpoint
from tests.models.formats.torch_dist import write_by_torch


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    write_by_torch(folder, {"a": (torch.zeros(2), [((0,), (2,))])})
    torch.save({"x": Touch(tmp_path / "ran")}, folder / "common.pt")
    return folder


def test_a_checkpoint_of_a_run_runs_code_when_the_run_goes_on(hostile: Path) -> None:
    from megatron.core.dist_checkpointing import load_common_state_dict

    load_common_state_dict(str(hostile))
    assert (hostile.parent / "ran").exists()


def test_the_same_checkpoint_is_only_data_as_a_model(hostile: Path) -> None:
    with pytest.raises(UserError):
        open_checkpoint(hostile)
    assert not (hostile.parent / "ran").exists()
