"""What a resumed run must share with the run that it continues, besides its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from s2l_nemo.actor.protocol import Actor
from s2l_nemo.config.explorers import Explorer, explorers_of
from s2l_nemo.config.schema import Config
from s2l_nemo.errors import UserError
from s2l_nemo.records.checkpoints import Checkpoint
from s2l_nemo.trainer.rollouts import Rollouts


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
    """Loads the checkpoint into the actor, if there is one. Returns the step and the seconds to go on from."""
    if resumed is None:
        return {"step": 0, "seconds": 0.0}
    state = actor.load(resumed.path)
    check_identity(state, identity, cfg)
    return state


def check_identity(state: dict[str, Any], identity: dict[str, Any], cfg: Config) -> None:
    """Refuses to continue with another explorer than the one the run began with."""
    paths = {one.name: f"{one.key}.path={one.options.path}" for one in explorers_of(cfg)}
    for key, value in identity.items():
        if key.startswith("explorer_samples/") and state.get(key) != value:
            section = next(one.key for one in explorers_of(cfg) if one.name == key.partition("/")[2])
            raise UserError(
                f"{section}.path gives {value} samples of each prompt, the run in {cfg.run.dir} began with "
                f"{state.get(key)}: set {section}.samples={state.get(key)}"
            )
        if state[key] != value:
            named = paths.get(key.partition("/")[2]) or next(iter(paths.values()), "explorer.path=null")
            raise UserError(
                f"{named} has weights {str(value)[:12]}, the run in {cfg.run.dir} began with "
                f"{str(state[key])[:12]}; restore the explorer or choose another run.dir"
            )
