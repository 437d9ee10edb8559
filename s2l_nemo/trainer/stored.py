"""Rollouts that were sampled ahead of training: what of a store a run needs, and the engines that answer from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from s2l_nemo.algorithm.order import batches
from s2l_nemo.algorithm.schedule import make_schedule
from s2l_nemo.algorithm.sharing import apportion
from s2l_nemo.config.checks import Models
from s2l_nemo.config.controls import explorer_draws
from s2l_nemo.config.explorers import Explorer, explorers_of
from s2l_nemo.config.schema import Config, DrawOrder, ExplorerSource
from s2l_nemo.errors import UserError
from s2l_nemo.models.shape import ModelShape
from s2l_nemo.store.engine import ReplayedLearner, StoreEngine
from s2l_nemo.store.reader import Store
from s2l_nemo.trainer.rollouts import Rollouts
from s2l_nemo.types import Prompt, SamplingParams, Source

REPLAY = "replay_store"  # in the identity of a run: which store stands for the learner
_WITHOUT_SAMPLER = ("learner_old", "luffy")  # importance rules that never read the sampler's log-probs
_WITHOUT_SAMPLER_BY_DEFAULT = ("gspo", "cispo")  # those that read them with `ratio_to_sampler` only


def stored(cfg: Config) -> dict[int, Explorer]:
    """The explorers that are read from a store, by source."""
    explorers = enumerate(explorers_of(cfg), start=1)
    return {source: one for source, one in explorers if one.options.source is ExplorerSource.store}


def check_stores(
    cfg: Config, prompts: Sequence[Prompt], tokenizer: str, sampling: Mapping[int, SamplingParams]
) -> None:
    """Raises UserError, with the difference named, if a store does not fit the run.

    `prompts` are those of training, `tokenizer` is the hash of the learner's, `sampling` that of each source. A store
    must have as many rollouts of each prompt as the run will draw, unless rewards decide that (`draws_of`).
    """
    folders = {source: (f"{one.key}.path", str(one.options.path)) for source, one in stored(cfg).items()}
    if cfg.rollout.replay is not None:
        folders[Source.LEARNER.value] = "rollout.replay", cfg.rollout.replay
    for source, (key, folder) in folders.items():
        store = Store.open(folder)
        try:
            store.check(
                tokenizer_hash=tokenizer,
                prompts=prompts,
                params=sampling[source],
                needs_logprobs=needs_logprobs(cfg),
            )
            usable = store.most if source == Source.LEARNER else _usable(stored(cfg)[source], store)
            _check_draws(f"{key}={folder}", store, draws_of(cfg, source, prompts), usable)
        finally:
            store.close()


def store_engines(cfg: Config) -> dict[int, StoreEngine]:
    """An engine for each stored explorer, by source."""
    engines = {}
    for source, explorer in stored(cfg).items():
        store = Store.open(str(explorer.options.path))
        engines[source] = StoreEngine(
            store,
            samples=_usable(explorer, store),
            order=explorer.options.draw,
            seed=cfg.run.seed,
            needs_logprobs=needs_logprobs(cfg),
            source=source,
        )
    return engines


def stored_samples(cfg: Config, engines: Mapping[int, StoreEngine]) -> dict[str, int]:
    """How many samples of each prompt a run may use, for its identity: the order of draws depends on it."""
    return {f"explorer_samples/{one.name}": engines[source].samples for source, one in stored(cfg).items()}


def replaying(cfg: Config, engines: Rollouts) -> Rollouts:
    """The same, but with `rollout.replay` all samples come from stores, which every rank reads.

    `engines` then have an engine of the learner for validations alone.
    """
    if cfg.rollout.replay is None:
        return engines
    learner = ReplayedLearner(Store.open(cfg.rollout.replay), needs_logprobs=needs_logprobs(cfg))
    ranks = replace(engines.ranks, leaders=tuple(range(engines.ranks.world)))
    return Rollouts(engines.explorers, learner, engines.actor, ranks, engines.grading)


def replay_identity(cfg: Config) -> dict[str, str]:
    """The store of a replay, for the run's identity."""
    if cfg.rollout.replay is None:
        return {}
    store = Store.open(cfg.rollout.replay)
    store.close()
    return {REPLAY: store.facts.hash()}


def sampling_shapes(cfg: Config, models: Models) -> dict[int, ModelShape]:
    """The shapes of the models that sample in training, by source: none of those whose rollouts are stored."""
    shapes = {source: model.shape for source, model in enumerate(models.explorers, start=1) if model is not None}
    return shapes if cfg.rollout.replay is not None else {Source.LEARNER.value: models.learner.shape, **shapes}


def needs_logprobs(cfg: Config) -> bool:
    """Whether the loss reads the log-probs of who sampled."""
    rule = cfg.algorithm.importance
    return not (
        rule in _WITHOUT_SAMPLER or (rule in _WITHOUT_SAMPLER_BY_DEFAULT and not cfg.algorithm.ratio_to_sampler)
    )


def draws_of(cfg: Config, source: int, prompts: Sequence[Prompt]) -> Counter[int]:
    """How many samples of each prompt a policy draws over the run, by prompt id.

    Empty if rewards decide that: `adaptive`, `rescue_first`, `refill_rounds`. Such a run is refused when it draws what
    is not there.
    """
    algorithm, draws = cfg.algorithm, Counter[int]()
    if algorithm.schedule.name == "adaptive" or algorithm.rescue_first is not None or algorithm.refill_rounds:
        return draws
    shares = [one.options.share for one in explorers_of(cfg)]
    schedule = make_schedule(algorithm.schedule, algorithm.steps)
    chosen = batches(algorithm.steps, algorithm.prompts_per_step, len(prompts), cfg.run.seed)
    for step, indices in enumerate(chosen, start=1):
        split = schedule(step, algorithm.group_size)
        of_explorers = explorer_draws(cfg, split.explorer)
        of_learner = split.learner if shares else split.explorer + split.learner
        count = of_learner if source == Source.LEARNER else apportion(of_explorers, shares)[source - 1]
        if count:
            draws.update({prompts[index].prompt_id: count for index in indices})
    return draws


def _check_draws(what: str, store: Store, draws: Counter[int], usable: int) -> None:
    short = [prompt_id for prompt_id, count in draws.items() if count > min(usable, store.count(prompt_id))]
    if short:
        has = min(usable, store.count(short[0]))
        raise UserError(
            f"{what}: the run draws {draws[short[0]]} samples of prompt {short[0]} and may use {has} ({len(short)} of "
            f"{len(draws)} prompts have too few): sample more with recipes/sample_explorer.py, or lower algorithm.steps"
        )


def _usable(explorer: Explorer, store: Store) -> int:
    """How many samples of a prompt the run may use. A permutation needs as many of every prompt."""
    wanted, shuffled = explorer.options.samples, explorer.options.draw is DrawOrder.shuffled
    there = store.samples if shuffled else store.most
    if wanted is not None and wanted > there:
        raise UserError(
            f"{explorer.key}.samples={wanted}, but {store.folder} has {there} rollouts of each prompt: lower "
            "it, or sample more with recipes/sample_explorer.py"
        )
    if there == 0:
        raise UserError(
            f"{explorer.key}.draw={explorer.options.draw.name}: {store.folder} has no rollouts of some prompts"
            + (f"; set {explorer.key}.draw=stored, or sample them" if shuffled and store.most else ": sample some")
        )
    return there if wanted is None else wanted
