"""Rules for the controls of the paper's experiments. They read no file."""

from __future__ import annotations

from s2l_nemo.algorithm.schedule import SCHEDULES
from s2l_nemo.config.explorers import explorers_of
from s2l_nemo.config.schema import Config, ExplorerFilter, ExplorerSource
from s2l_nemo.errors import UserError


def check_controls(cfg: Config) -> None:
    """Raises UserError if a control lacks what it needs, or would do nothing."""
    _check_candidates(cfg)
    _check_learner_explores(cfg)


def explorer_draws(cfg: Config, explorer: int) -> int:
    """Samples of a prompt that explorers draw in a step in which they give `explorer` of each group."""
    candidates = cfg.rollout.filter_candidates
    return explorer if candidates is None or explorer < 2 else candidates  # of one there is nothing to choose


def learner_explores(cfg: Config) -> bool:
    """Whether the learner samples the explorer's share: GRPO with the optimizer steps of S2L-PO."""
    return not cfg.explorers and cfg.explorer.source is ExplorerSource.learner


def _check_learner_explores(cfg: Config) -> None:
    for one in explorers_of(cfg):
        if one.options.source is ExplorerSource.learner:
            wanted = "set explorer.path=null" if one.key == "explorer" else "only explorer.source may be learner"
            raise UserError(f"{one.key}.path={one.options.path} with {one.key}.source=learner: no explorer, {wanted}")
    if not learner_explores(cfg):
        return
    options = cfg.explorer
    own = {"temperature": options.temperature, "top_p": options.top_p, "top_k": options.top_k,
           "max_response_length": options.max_response_length, "samples": options.samples}  # fmt: skip
    given = [f"explorer.{name}={value}" for name, value in own.items() if value is not None]
    algorithm, control = cfg.algorithm, cfg.rollout.explorer_filter
    if algorithm.rescue_first is not None:
        given.append(f"algorithm.rescue_first={algorithm.rescue_first}")
    if control is not ExplorerFilter.none:
        given.append(f"rollout.explorer_filter={control.name}")
    if not SCHEDULES[algorithm.schedule.name].explores:
        given.append(f"algorithm.schedule.name={algorithm.schedule.name}")
    if given:
        raise UserError(f"{given[0]} with explorer.source=learner: there is no explorer; leave one of them out")


def _check_candidates(cfg: Config) -> None:
    candidates, rollout = cfg.rollout.filter_candidates, cfg.rollout
    if candidates is None:
        return
    given = f"rollout.filter_candidates={candidates}"
    if rollout.explorer_filter is ExplorerFilter.none:
        raise UserError(
            f"{given} with rollout.explorer_filter=none: nothing is chosen; set "
            "rollout.explorer_filter=match_learner_diversity"
        )
    if candidates <= cfg.algorithm.group_size:
        raise UserError(
            f"{given} leaves no choice in groups of algorithm.group_size={cfg.algorithm.group_size}: raise it"
        )
    if len(explorers_of(cfg)) > 1:
        raise UserError(f"{given} with several explorers: that control knows one; leave out explorers or the key")
