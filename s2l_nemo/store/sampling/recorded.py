"""A store from what one policy has sampled in a run, for `rollout.replay` or `explorer.source=store`.

Sample n of a prompt is the n-th that the policy drew of it in that run. So a run of the same configuration that draws
from such stores, in stored order, has that run's groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from s2l_nemo.config.explorers import explorers_of
from s2l_nemo.config.schema import Config, ExplorerFilter
from s2l_nemo.config.store import RunStoreConfig
from s2l_nemo.data.prompts import load_prompts
from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.console import console
from s2l_nemo.models.open import open_model, tokenizer_hash
from s2l_nemo.records.directory import RunDir, read_config, step_of
from s2l_nemo.records.dump import rollout_batches
from s2l_nemo.records.versions import versions
from s2l_nemo.store.facts import StoreFacts, hash_prompts
from s2l_nemo.store.sampling.imported import publish
from s2l_nemo.store.sampling.run import check_and_index, sampling_params
from s2l_nemo.store.shards import Rollout
from s2l_nemo.types import SamplingParams

if TYPE_CHECKING:
    import pyarrow as pa

LEARNER = "learner"
_COLUMNS = [
    "prompt_id", "source", "token_ids", "logprobs", "finish_reason", "reward", "extracted", "grader_error",
]  # fmt: skip


def store_of_run(cfg: RunStoreConfig) -> None:
    """Makes the store `output` of what `source` has sampled in `run`. It appears complete or not at all.

    Raises UserError if there is no such run or source, or if the run has not written all that was sampled.
    """
    assert cfg.run is not None
    out, folder, run = console(), Path(cfg.output), RunDir(Path(cfg.run))
    if folder.exists():
        raise UserError(f"output={folder} exists: an import makes a new store; give another folder")
    config = read_config("run", cfg.run)
    _check_whole(config, cfg.run)
    files = sorted(run.rollouts.glob("step_*.parquet"))
    if not files:
        raise UserError(f"run={cfg.run} has no rollouts/step_*.parquet: give the folder of a run")
    learner = open_model("model.path", config.model.path)
    path, params = _sampler(config, cfg.source, sampling_params(config.rollout, learner))
    read = load_prompts(config.data, learner.tokenizer, config.rollout.max_prompt_length, "train")
    facts = StoreFacts(
        model=path,
        weight_hash=None,
        precision=None,
        vocab_size=learner.shape.vocab,
        tokenizer_hash=tokenizer_hash(learner),
        sampling=params,
        prompts=len(read.prompts),
        prompts_hash=hash_prompts(read.prompts),
        seed=None,
        explorer=None,
        rewards={"run": cfg.run, "source": cfg.source},
        has_logprobs=_has_logprobs(files, cfg.source),
        versions=versions(),
    )
    known = {prompt.prompt_id for prompt in read.prompts}
    drawn: Counter[int] = Counter()
    rollouts = (one for file in files for one in _rollouts(file, cfg.source, facts.has_logprobs, known, drawn))
    count = publish(folder, facts, read.prompts, rollouts)
    last = step_of(files[-1])
    out.print(
        f"{folder}: {count:,} rollouts of {len(drawn):,} prompts by {cfg.source}, steps 1 to {last} of {cfg.run}",
        soft_wrap=True,
    )
    check_and_index(folder, out)
    if len(files) < last:
        out.print(
            f"{last - len(files)} of these steps have no rollouts (logging.rollouts_every): training from this store "
            "is not that run",
            soft_wrap=True,
        )


def _check_whole(config: Config, run: str) -> None:
    """Raises UserError if the run has sampled more answers than it has written."""
    algorithm, control = config.algorithm, config.rollout.explorer_filter
    for name, used in (
        (f"algorithm.refill_rounds={algorithm.refill_rounds}", algorithm.refill_rounds > 0),
        (f"rollout.explorer_filter={control.name}", control is not ExplorerFilter.none),
    ):
        if used:
            raise UserError(f"run={run} had {name}: not all that it sampled was written; give a run without")


def _sampler(config: Config, source: str, learner: SamplingParams) -> tuple[str, SamplingParams]:
    """The model's path, and how it sampled."""
    if source == LEARNER:
        return config.model.path, learner
    explorers = {one.name: one for one in explorers_of(config)}
    if source not in explorers:
        raise UserError(f"source={source}: that run had {', '.join([LEARNER, *explorers])}; choose one of them")
    return str(explorers[source].options.path), explorers[source].sampling(learner)


def _has_logprobs(files: Sequence[Path], source: str) -> bool:
    """Whether the sampler's log-probs are known. Where they are not, all are exactly 0."""
    for file in files:
        for batch in _batches(file, source):
            return bool(batch.column("logprobs").flatten().to_numpy().any())
    raise UserError(f"source={source} has sampled nothing in the run: choose another")


def _rollouts(file: Path, source: str, has_logprobs: bool, known: set[int], drawn: Counter[int]) -> Iterator[Rollout]:
    """The source's rollouts of a step in their order. `drawn` counts those of each prompt."""
    for batch in _batches(file, source):
        lengths = batch.column("token_ids").value_lengths().to_numpy()
        ends = np.cumsum(lengths)[:-1]
        tokens = np.split(batch.column("token_ids").flatten().to_numpy(), ends)
        logprobs = np.split(batch.column("logprobs").flatten().to_numpy(), ends)
        names = ("prompt_id", "finish_reason", "reward", "extracted", "grader_error")
        columns: Any = [batch.column(name).to_pylist() for name in names]
        for ids, its, prompt_id, finish, reward, answer, error in zip(tokens, logprobs, *columns, strict=True):
            if finish not in ("stop", "length") or reward is None:
                raise UserError(f"{file}: a rollout of prompt {prompt_id} was not graded, or ended by {finish!r:.40}")
            if prompt_id not in known:
                raise UserError(f"{file}: prompt {prompt_id} is not in the run's data: restore the data of the run")
            yield Rollout(
                prompt_id=prompt_id,
                sample=drawn[prompt_id],
                token_ids=ids,
                logprobs=its if has_logprobs else None,
                finish_reason=finish,
                reward=reward,
                answer=answer,
                grader_error=error,
                seed=None,
            )
            drawn[prompt_id] += 1


def _batches(file: Path, source: str) -> Iterator[pa.RecordBatch]:
    """The source's rows of a file, some thousand at a time. Raises UserError if the file holds no rollouts."""
    import pyarrow as pa
    import pyarrow.compute

    for batch in rollout_batches(file, _COLUMNS):
        its = batch.filter(pa.compute.equal(batch.column("source"), source))
        if len(its):
            yield its
