"""Whether all ranks have taken the same commits from the hub. Under torchrun or Slurm each node asks it by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from s2l_nemo.errors import UserError
from s2l_nemo.hub.commits import commits


def check_same_commits() -> None:
    """Raises UserError on every rank if a branch has moved between the questions of two of them. Collective."""
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, commits())
    compare_commits(everyone)


def compare_commits(of_ranks: Sequence[Mapping[str, str]]) -> None:
    """Raises UserError for the first name of which two ranks have taken different commits."""
    for name in sorted({name for taken in of_ranks for name in taken}):
        found = sorted({taken[name] for taken in of_ranks if name in taken})
        if len(found) > 1:
            raise UserError(
                f"{name.partition('/')[2]} moved while the ranks started: they have its commits {' and '.join(found)}; "
                "start again, or name one with @COMMIT"
            )
