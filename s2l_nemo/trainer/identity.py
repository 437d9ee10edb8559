"""What a resumed run must share with the run that it continues: its explorers, and what stands in for the learner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from s2l_nemo.actor.protocol import Actor
from s2l_nemo.config.explorers import Explorer, explorers_of
from s2l_nemo.config.schema import Config, Part
from s2l_nemo.errors import UserError
from s2l_nemo.records.checkpoints import Checkpoint
from s2l_nemo.records.identity import Difference, record_changes
from s2l_nemo.trainer.rollouts import Rollouts
from s2l_nemo.trainer.stored import REPLAY


def weight_hashes(rollouts: Rollouts, explorers: Sequence[Explorer]) -> dict[str, str | None]:
    """SHA-256 of the weights of each explorer, the same on every rank.

    With one explorer, or none, the name is `explorer_weight_hash`, else each has its name behind it.

    Raises UserError if the nodes hold different models.
    """
    ranks = rollouts.ranks
    if not explorers:
        return {"explorer_weight_hash": None}
    hashes: dict[str, str | None] = {}
    for source, explorer in enumerate(explorers, start=1):
        mine = ranks.work(*([rollouts.explorers[source].weight_hash] if ranks.rank in ranks.leaders else []))
        found = {one for one in ranks.gather(mine[0] if mine else None) if one is not None}
        if len(found) > 1:
            raise UserError(
                f"{explorer.key}.path has {len(found)} different models on the nodes: copy one to all of them"
            )
        name = "explorer_weight_hash" if len(explorers) == 1 else f"explorer_weight_hash/{explorer.name}"
        hashes[name] = found.pop()
    return hashes


def restored_state(actor: Actor, resumed: Checkpoint | None, identity: dict[str, Any], cfg: Config) -> dict[str, Any]:
    """Loads the checkpoint into the actor, if there is one. Returns the step and the seconds to go on from.

    Rank 0 records another explorer, if `run.allow_changed` has it.
    """
    if resumed is None:
        return {"step": 0, "seconds": 0.0}
    state = actor.load(resumed.path)
    changed = check_identity(state, identity, cfg)
    if changed and torch.distributed.get_rank() == 0:
        record_changes(Path(cfg.run.dir), changed, resumed.step)
    return state


def check_identity(state: dict[str, Any], identity: dict[str, Any], cfg: Config) -> list[Difference]:
    """Refuses to continue with another explorer than the one the run began with. Returns those that are allowed."""
    changed = []
    for key, value in identity.items():
        if key.startswith("explorer_samples/") and state.get(key) != value:
            section = next(one.key for one in explorers_of(cfg) if one.name == key.partition("/")[2])
            raise UserError(
                f"{section}.path gives {value} samples of each prompt, the run in {cfg.run.dir} began with "
                f"{state.get(key)}: set {section}.samples={state.get(key)}"
            )
        if key == REPLAY and state.get(key) != value:
            raise UserError(
                f"rollout.replay={cfg.rollout.replay} is another store than that with which the run in {cfg.run.dir} "
                "began; restore it or choose another run.dir"
            )
        if state[key] != value:
            changed.append(_other_explorer(key, str(state[key]), str(value), cfg))
    return changed


def _other_explorer(key: str, before: str, after: str, cfg: Config) -> Difference:
    """The difference, if it is allowed. Raises UserError if it is not."""
    paths = {one.name: f"{one.key}.path={one.options.path}" for one in explorers_of(cfg)}
    name = key.partition("/")[2]
    what = paths.get(name) or next(iter(paths.values()), "explorer.path=null")
    if Part.explorer not in cfg.run.allow_changed:
        raise UserError(
            f"{what} has weights {after[:12]}, the run in {cfg.run.dir} began with {before[:12]}; restore the "
            "explorer, choose another run.dir, or set run.allow_changed=[explorer]"
        )
    part = f"{Part.explorer.name}/{name}" if name else Part.explorer.name
    return Difference(part, what, f"weights {before[:12]}", f"weights {after[:12]}")
