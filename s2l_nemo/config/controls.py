"""Rules for the controls of the paper's experiments. They read no file."""

from __future__ import annotations

from s2l_nemo.config.explorers import explorers_of
from s2l_nemo.config.schema import Config, ExplorerFilter
from s2l_nemo.errors import UserError


def check_controls(cfg: Config) -> None:
    """Raises UserError if a control lacks what it needs, or would do nothing."""
    _check_candidates(cfg)


def explorer_draws(cfg: Config, explorer: int) -> int:
    """Samples of a prompt that explorers draw in a step in which they give `explorer` of each group."""
    candidates = cfg.rollout.filter_candidates
    return explorer if candidates is None or explorer < 2 else candidates  # of one there is nothing to choose


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
