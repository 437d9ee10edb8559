"""Which device is a rank of the actor, and which devices an engine has; and configurations of other sizes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from s2l_nemo.config.checks import check_config
from s2l_nemo.config.schema import Config
from s2l_nemo.engines.options import Placement
from s2l_nemo.errors import UserError
from s2l_nemo.models.shape import ModelShape
from s2l_nemo.planner.cost import kind_of
from s2l_nemo.planner.memory import explorer_engines, explores, gpus_of_engine, shapes_of_models
from s2l_nemo.planner.simulation.lengths import Model
from s2l_nemo.planner.simulation.rates import apart


@dataclass(frozen=True)
class Layout:
    """Devices are numbered node by node: the ranks of the node, then GPUs of the explorer's and learner's engines."""

    devices: int
    rank_devices: tuple[int, ...]  # of each rank
    engine_devices: dict[Model, list[list[int]]]  # of each engine
    leaders: dict[Model, tuple[int, ...]]  # the rank that speaks to each engine

    @property
    def users(self) -> dict[int, str]:
        """What each device is for."""
        found = dict.fromkeys(self.rank_devices, "actor, engines")
        shared = {device for engines in self.engine_devices.values() for its in engines for device in its}
        found |= dict.fromkeys(set(found) - shared, "actor")
        for model, engines in self.engine_devices.items():
            found |= {device: model.value for its in engines for device in its if device not in found}
        return found


def played_shapes(cfg: Config) -> tuple[ModelShape, ModelShape | None]:
    """The shapes of learner and explorer. Raises UserError if one is unknown, or if explorers are of several models."""
    learner, explorers = shapes_of_models(cfg)
    if len(explorers) > 1:
        names = ", ".join(one.name for one in explorer_engines(cfg))
        raise UserError(
            f"explorers {names} are {len(explorers)} models, and a simulation plays one: give that one as "
            "explorer.path; tools/plan.py counts all of them"
        )
    return learner, explorers[0] if explorers else None


def layout_of(cfg: Config, spare: int = 0) -> Layout:
    """The devices of a run. A run without an explorer has no GPUs for one.

    `spare` GPUs of each node, beyond those of the configuration, belong to the explorer's engines.
    """
    ranks, nodes, size = cfg.trainer.devices, cfg.trainer.num_nodes, gpus_of_engine(cfg)
    engines = cfg.engine.replicas_per_node if kind_of(cfg).served else ranks
    counts = {Model.explorer: spare // size or engines, Model.learner: engines}  # on a node
    if not explores(cfg):
        del counts[Model.explorer]
    first, per_node = dict.fromkeys(counts, 0), ranks
    for model in counts:
        if apart(cfg) or (spare and model is Model.explorer):
            first[model] = per_node
            per_node += counts[model] * size

    def of(node: int, model: Model, engine: int) -> list[int]:
        begin = node * per_node + first[model] + engine * size
        return list(range(begin, begin + size))

    return Layout(
        devices=nodes * per_node,
        rank_devices=tuple(node * per_node + rank for node in range(nodes) for rank in range(ranks)),
        engine_devices={
            model: [of(node, model, engine) for node in range(nodes) for engine in range(count)]
            for model, count in counts.items()
        },
        leaders={
            model: tuple(node * ranks + engine % ranks for node in range(nodes) for engine in range(count))
            for model, count in counts.items()
        },
    )


def gpus_of_node(cfg: Config) -> int:
    """GPUs of a node: those of the ranks, and those that engines have to themselves."""
    return layout_of(cfg).devices // cfg.trainer.num_nodes


def at_size(cfg: Config, gpus: int) -> Config:
    """The same run on `gpus` GPUs: as many nodes as that makes. Raises UserError if it cannot run there."""
    of_node = gpus_of_node(cfg)
    if gpus % of_node:
        raise UserError(
            f"gpus={gpus}: a node of this configuration has {of_node} GPUs: give multiples of {of_node}, or change "
            "trainer.devices"
        )
    changed = copy.deepcopy(cfg)
    changed.trainer.num_nodes = gpus // of_node
    try:
        check_config(changed)
    except UserError as error:
        raise UserError(f"gpus={gpus}: {error}") from None
    return changed


def with_own_gpus(cfg: Config, memory_fraction: float) -> Config:
    """The same engines on GPUs that the actor does not use, of whose memory they may take another fraction."""
    changed = copy.deepcopy(cfg)
    changed.engine.placement = Placement.separate
    changed.engine.memory_fraction = memory_fraction
    return changed


def with_engines_apart(cfg: Config, gpus: int, memory_fraction: float) -> Config | None:
    """The same nodes with `gpus` of the GPUs of each for the engines of each model, the rest for the actor.

    `cfg` has colocated engine servers of two models. None if the rest of the GPUs cannot train.
    """
    ranks = cfg.trainer.devices - 2 * gpus
    changed = with_own_gpus(cfg, memory_fraction)
    changed.trainer.devices = ranks
    changed.engine.replicas_per_node = gpus // gpus_of_engine(cfg)
    changed.engine.explorer_devices = _names(range(ranks, ranks + gpus))
    changed.engine.learner_devices = _names(range(ranks + gpus, ranks + 2 * gpus))
    try:
        check_config(changed)
    except UserError:  # it is no configuration of the user: the table says that it cannot be
        return None
    return changed


def _names(devices: Sequence[int]) -> str:
    return ",".join(map(str, devices))
