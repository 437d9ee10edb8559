"""Explorers whose rollouts were sampled ahead of training: what of a store a run needs, and its engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from s2l_nemo.algorithm.groups import apportion
from s2l_nemo.algorithm.schedule import make_schedule
from s2l_nemo.config.explorers import Explorer, explorers_of
from s2l_nemo.config.schema import Config, ExplorerSource
from s2l_nemo.errors import UserError
from s2l_nemo.store.engine import StoreEngine
from s2l_nemo.store.reader import Store
from s2l_nemo.types import Prompt, SamplingParams

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

    `prompts` are those of training, `tokenizer` is the hash of the learner's, `sampling` that of each source. Each
    prompt must have as many rollouts as one step may draw of it. A run of several epochs may need more, and is
    refused when it draws them.
    """
    for source, explorer in stored(cfg).items():
        store = Store.open(str(explorer.options.path))
        try:
            store.check(
                tokenizer_hash=tokenizer,
                prompts=prompts,
                samples=_largest_draw(cfg, source),
                params=sampling[source],
                needs_logprobs=needs_logprobs(cfg),
            )
            _usable(explorer, store)
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


def needs_logprobs(cfg: Config) -> bool:
    """Whether the loss reads the log-probs of who sampled."""
    rule = cfg.algorithm.importance
    return not (
        rule in _WITHOUT_SAMPLER or (rule in _WITHOUT_SAMPLER_BY_DEFAULT and not cfg.algorithm.ratio_to_sampler)
    )


def _usable(explorer: Explorer, store: Store) -> int:
    wanted = explorer.options.samples
    if wanted is not None and wanted > store.samples:
        raise UserError(
            f"{explorer.key}.samples={wanted}, but {store.folder} has {store.samples} rollouts of each prompt: lower "
            "it, or sample more with recipes/sample_explorer.py"
        )
    return store.samples if wanted is None else wanted


def _largest_draw(cfg: Config, source: int) -> int:
    """Samples of one prompt that this explorer may draw at a step, at most."""
    schedule, shares = (
        make_schedule(cfg.algorithm.schedule, cfg.algorithm.steps),
        [one.options.share for one in explorers_of(cfg)],
    )
    if cfg.algorithm.schedule.name == "adaptive":
        return 1  # it may draw few or many
    splits = (schedule(step, cfg.algorithm.group_size) for step in range(1, cfg.algorithm.steps + 1))
    return max(apportion(split.explorer, shares)[source - 1] for split in splits)
