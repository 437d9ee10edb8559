"""One job of sampling, from the configuration to its files. If it is cut off, it continues where it stopped."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import OmegaConf
from rich.console import Console

from s2l_nemo.config.schema import RolloutConfig
from s2l_nemo.config.store import SampleConfig, StoredRollout, shard_of
from s2l_nemo.data.prompts import PromptSet, load_prompts
from s2l_nemo.engines.build import EngineFactory, Servers
from s2l_nemo.engines.kinds import ENGINES
from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.engines.protocol import RolloutEngine
from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.console import console, print_facts, progress_bar
from s2l_nemo.models.open import Model, open_model, tokenizer_hash
from s2l_nemo.models.precision import Precision
from s2l_nemo.records.versions import versions
from s2l_nemo.rewards.asked import start_warnings
from s2l_nemo.rewards.grader import GradeItem, Grader, check_any_worked, make_grader
from s2l_nemo.store.facts import StoreFacts, hash_prompts
from s2l_nemo.store.sampling.folder import check_fits, claimed, create_or_check, stored_samples
from s2l_nemo.store.sampling.opened import open_shown
from s2l_nemo.store.sampling.plan import Chunk, Share, chunk_prompts, plan
from s2l_nemo.store.shards import FOLDER, Rollout, Shard, write_shard
from s2l_nemo.types import Completion, Prompt, SamplingParams


@dataclass(frozen=True)
class Job:
    """All that a chunk needs to become a file."""

    folder: Path
    facts: StoreFacts
    engine: RolloutEngine
    kind: str  # of the engine
    grader: Grader
    decode: Callable[[Sequence[int]], str]

    def sample(self, chunk: Chunk) -> tuple[int, str | None]:
        """Samples, grades and writes a chunk. Returns its tokens, and why the first check failed.

        Raises UserError if all checks have failed; nothing is then written.
        """
        assert self.facts.seed is not None
        assert self.facts.explorer is not None
        requests = chunk.requests(self.facts.seed, self.facts.explorer)
        completions = self.engine.generate(requests, self.facts.sampling)
        by_id = {prompt.prompt_id: prompt for prompt in chunk.prompts}
        grades = self.grader.grade([self._item(one, by_id[one.prompt_id]) for one in completions])
        failed = [grade.error for grade in grades if grade.error is not None]
        why_failed = failed[0] if failed else None
        check_any_worked(chunk.name, len(failed), len(grades), why_failed, "then run the same command")
        rollouts = [
            Rollout(
                prompt_id=completion.prompt_id,
                sample=completion.sample_id,
                token_ids=completion.token_ids,
                logprobs=completion.logprobs,
                finish_reason=completion.finish_reason,
                reward=grade.reward or 0.0,
                answer=grade.answer,
                grader_error=grade.error,
                seed=request.seed,
            )
            for request, completion, grade in zip(requests, completions, grades, strict=True)
        ]
        write_shard(self.folder / FOLDER / chunk.name, Shard.of(rollouts), self.facts, self.kind)
        return sum(len(rollout.token_ids) for rollout in rollouts), why_failed

    def _item(self, completion: Completion, prompt: Prompt) -> GradeItem:
        return GradeItem(prompt.prompt_id, prompt.text, prompt.answer, self.decode(completion.token_ids.tolist()))


def sample(cfg: SampleConfig) -> None:
    """Samples what the store in `output` lacks of this job's share.

    Raises UserError if model, data and settings do not fit each other or the store.
    """
    out, folder = console(), Path(cfg.output)
    model = open_model("model", cfg.model)
    check_length(cfg.rollout, model)
    read = load_prompts(cfg.data, model.tokenizer, cfg.rollout.max_prompt_length, "train")
    on_gpu = torch.cuda.is_available()
    precision = cfg.precision or (Precision.bf16 if on_gpu else Precision.fp32)
    facts = make_facts(cfg, model, read.prompts, precision)
    share = Share(*shard_of(cfg.shard), cfg.chunk or chunk_prompts(cfg.samples, cfg.rollout.max_batch_rows))
    print_facts(out, "Explorer store", _shown(cfg, read, precision, on_gpu))
    for warning in start_warnings(cfg.data, cfg.rewards, model.tokenizer, [read]):
        out.print(f"warning: {warning}", soft_wrap=True)

    check_fits(folder, facts, read.prompts)  # before the model is loaded: mistakes show at once
    with contextlib.closing(make_grader(cfg.data, cfg.rewards)) as grader, claimed(folder, share):
        model.fetch()
        engine = make_engine(cfg, model, precision, "cuda" if on_gpu else "cpu", share, folder)
        try:
            facts = replace(facts, weight_hash=engine.weight_hash())
            create_or_check(folder, facts, read.prompts)
            mine = read.prompts[share.job - 1 :: share.jobs]
            stored = stored_samples(folder, facts, [prompt.prompt_id for prompt in mine])
            chunks, done = plan(read.prompts, share, cfg.samples, stored)
            if chunks:
                if done:
                    out.print(f"continues: {done:,} rollouts of this job are there", soft_wrap=True)
                job = Job(folder, facts, engine, cfg.engine.kind, grader, _decoder(model))
                sample_chunks(job, chunks, done, out)
                out.print(f"written to {folder}", soft_wrap=True)
            else:
                most = min(map(len, stored.values()), default=0)
                out.print(
                    f"complete: {folder} has {most} samples of each of this job's {len(mine)} prompts", soft_wrap=True
                )
        finally:
            engine.close()
        stored = stored_samples(folder, facts, [prompt.prompt_id for prompt in read.prompts])
        if all(len(samples) >= cfg.samples for samples in stored.values()):  # other jobs may still be at work
            check_and_index(folder, out)


def check_and_index(folder: Path, out: Console) -> None:
    """Opens the store, which checks every rollout, and leaves the index that its reader wants (`store/index.py`)."""
    with contextlib.closing(open_shown(folder, out)) as store:
        out.print(f"checked: {folder} has {store.rollouts:,} whole rollouts", soft_wrap=True)


def sample_chunks(job: Job, chunks: Sequence[Chunk], done: int, out: Console) -> None:
    """Samples chunk after chunk, with a bar on a terminal and a line for each elsewhere."""
    total, told = done + sum(map(len, chunks)), False
    with progress_bar(out, after="rollouts  {task.fields[rate]}") as progress:
        task = progress.add_task("", total=total, completed=done, rate="")
        for number, chunk in enumerate(chunks, start=1):
            started = time.perf_counter()
            tokens, why_failed = job.sample(chunk)
            done, seconds = done + len(chunk), time.perf_counter() - started
            rate = f"{tokens / seconds:,.0f} tokens/s"
            progress.update(task, completed=done, rate=rate)
            out.print(
                f"chunk {number}/{len(chunks)}  {done:,}/{total:,} rollouts  {tokens:,} tokens in {seconds:.1f} s "
                f"({rate})"
            )
            if why_failed is not None and not told:
                told = True
                out.print(f"warning: checks failed, the first with {why_failed!r}; rewards are 0", soft_wrap=True)


def make_facts(cfg: SampleConfig, model: Model, prompts: Sequence[Prompt], precision: Precision) -> StoreFacts:
    """The facts of the store, as far as they are known before the weights are loaded."""
    return StoreFacts(
        model=cfg.model,
        weight_hash=None,
        precision=precision.value,
        vocab_size=model.shape.vocab,
        tokenizer_hash=tokenizer_hash(model),
        sampling=sampling_params(cfg.rollout, model),
        prompts=len(prompts),
        prompts_hash=hash_prompts(prompts),
        seed=cfg.seed,
        explorer=cfg.explorer,
        rewards={"answer": cfg.rewards.answer.value, "fn": cfg.rewards.fn},
        has_logprobs=True,
        versions=versions(),
    )


def sampling_params(rollout: StoredRollout | RolloutConfig, model: Model) -> SamplingParams:
    """As a training run with these keys samples."""
    limit, stops = rollout.max_response_length, model.stop_token_ids
    return SamplingParams(limit, stops, rollout.temperature, rollout.top_p, rollout.top_k)


def check_length(rollout: StoredRollout, model: Model) -> None:
    """Raises UserError if prompt and response together may exceed the model's positions."""
    longest, positions = rollout.max_prompt_length + rollout.max_response_length, model.shape.max_positions
    if longest > positions:
        raise UserError(
            f"rollout.max_prompt_length={rollout.max_prompt_length} + rollout.max_response_length="
            f"{rollout.max_response_length} is more than the {positions} positions of {model.path}: lower one of them "
            f"by {longest - positions}"
        )


def make_engine(
    cfg: SampleConfig, model: Model, precision: Precision, device: str, share: Share, folder: Path
) -> RolloutEngine:
    """A frozen engine of any kind. Raises UserError if it cannot be made."""
    factory = EngineFactory(
        config=cast(EngineConfig, OmegaConf.to_object(cast(Any, cfg.engine))),
        precision=precision,
        device=torch.device(device),
        max_batch_rows=cfg.rollout.max_batch_rows,
        max_sequence_length=cfg.rollout.max_prompt_length + cfg.rollout.max_response_length,
        servers=Servers(0, folder / "engines", share.job) if ENGINES[cfg.engine.kind].served else None,
    )
    return factory.explorer(model)


def _decoder(model: Model) -> Callable[[Sequence[int]], str]:
    return lambda token_ids: str(model.tokenizer.decode(token_ids, skip_special_tokens=True))


def _shown(cfg: SampleConfig, read: PromptSet, precision: Precision, on_gpu: bool) -> dict[str, object]:
    rollout = cfg.rollout
    left_out = read.left_out(rollout.max_prompt_length)
    return {
        "model": f"{cfg.model} on {'GPU' if on_gpu else 'CPU'}, {precision.value}, engine.kind={cfg.engine.kind}",
        "prompts": f"{len(read.prompts)}{left_out}; this job has shard={cfg.shard}",
        "samples": f"{cfg.samples} of each prompt, seed {cfg.seed}, explorer {cfg.explorer}",
        "sampling": f"temperature {rollout.temperature:g}, top-p {rollout.top_p:g}, top-k {rollout.top_k}, "
        f"up to {rollout.max_response_length} tokens",
        "store": cfg.output,
    }
