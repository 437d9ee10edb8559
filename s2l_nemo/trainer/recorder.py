"""Everything that a run writes.

All ranks call the same methods. Rank 0 writes. The other ranks take part in checkpoints and give it their rollouts.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from s2l_nemo.actor.protocol import Actor
from s2l_nemo.config.schema import CheckpointConfig, LoggingConfig
from s2l_nemo.files import check_free_space, write_json_atomic
from s2l_nemo.measures.statistics import bootstrap_mean, paired_bootstrap
from s2l_nemo.records.best import best_checkpoint, is_better, link_best
from s2l_nemo.records.checkpoints import prune_checkpoints, publish_checkpoint
from s2l_nemo.records.console import StepConsole
from s2l_nemo.records.directory import RunDir
from s2l_nemo.records.dump import rollout_table, table_bytes, table_of_bytes, write_rollouts
from s2l_nemo.records.metrics import MetricsWriter
from s2l_nemo.records.plots import plot_run
from s2l_nemo.trainer.exchange import StepGroups
from s2l_nemo.trainer.metrics import Metrics
from s2l_nemo.trainer.progress import Progress
from s2l_nemo.trainer.ranks import Ranks
from s2l_nemo.trainer.validation import Validation, named_interval, read_correct, validation_file, write_validation
from s2l_nemo.trainer.validation_sets import BenchmarkSet
from s2l_nemo.types import Prompt

if TYPE_CHECKING:
    import pyarrow as pa

FEW_ANSWERS = 0.05  # of the responses of a step: below, something is wrong with the prompts or with the limit


@dataclass
class Recorder:
    """The run directory and the console of one run, on one rank.

    `writer` and `console` are None on all ranks but 0. `identity` holds what a resumed run must share with this one; it
    goes into every checkpoint and into the summary.
    """

    run_dir: RunDir
    checkpoint: CheckpointConfig
    logging: LoggingConfig
    identity: dict[str, Any]
    sources: Sequence[str]  # names of the policies that sample, by source
    decode: Callable[[Sequence[int]], str]
    ranks: Ranks
    checkpoint_bytes: int  # estimate of one checkpoint, for the check of free space
    writer: MetricsWriter | None
    console: StepConsole | None
    wanted: str | None = None  # what the reward reads in a response; None: anything
    seconds_before: float = 0.0  # of training, in the runs that this one continues
    now: Callable[[], float] = time.perf_counter
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.now()

    def validated(
        self, step: int, validation: Validation, prompts: Sequence[Prompt], sets: Sequence[BenchmarkSet] = ()
    ) -> None:
        """Writes the validation after a step, and says its pass@1, and the same of each benchmark."""
        if self.console is None:
            return
        write_validation(self.run_dir.validation, step, validation, prompts)
        self._say_validation(f"validation after step {step}", validation, "held-out prompts")
        for one in sets:
            found = validation.sets[one.asked.name]
            write_validation(self.run_dir.validation / one.asked.name, step, found, one.asked.prompts)
            self._say_validation(f"  {one.asked.name}", found, f"problems x {one.asked.samples}")

    def _say_validation(self, what: str, validation: Validation, asked: str) -> None:
        right = bootstrap_mean(validation.correct_PK)
        failed = f", {validation.grader_errors} checks failed" if validation.grader_errors else ""
        self.say(
            f"{what}: pass@1 {right.mean:.3f} [{right.low:.3f}, {right.high:.3f}] on {len(validation.correct_PK)} "
            f"{asked}{failed}"
        )

    def stepped(
        self, step: int, metrics: Metrics, groups: StepGroups, advantages_PG: torch.Tensor, seconds: float
    ) -> None:
        """Writes metrics and rollouts of a step and says its line. `seconds` include those of its validation.

        Collective.
        """
        if self.writer is not None:
            metrics["time/step_with_validation"] = seconds
            self.writer.write(step, metrics)
        if self.logging.rollouts_every and step % self.logging.rollouts_every == 0:
            self._dump(step, groups, advantages_PG.tolist())
        if self.console is not None:
            self.console.step(step, metrics)
            self._warn_of_silence(step, metrics)

    def _warn_of_silence(self, step: int, metrics: Metrics) -> None:
        """Says once if nearly no response of a step holds what the reward reads."""
        if self.wanted is None:
            return
        answered, cut = metrics["reward/answered_fraction"], metrics["response_length/truncated_fraction"]
        if answered is None or answered >= FEW_ANSWERS:
            return
        self.say(
            f"warning: {answered:.1%} of the responses of step {step} hold an answer, which the reward looks for in "
            f"{self.wanted}; {cut or 0:.0%} were cut at the limit: read some with tools/show_rollouts.py, and see "
            "data.instruction and rollout.max_response_length"
        )
        self.wanted = None

    def _dump(self, step: int, groups: StepGroups, advantages_PG: Sequence[Sequence[float]]) -> None:
        """Rank 0 writes the rollouts. One rank of each other replica sends its groups, when it is their turn."""
        rank = self.ranks.rank

        def table(p: int) -> pa.Table:
            return rollout_table(step, groups.own[p], advantages_PG[p], self.decode, self.sources)

        if self.writer is None:
            for p, holder in enumerate(groups.holder_P):
                if holder == rank:
                    self.ranks.send(table_bytes(table(p)), 0)
        else:
            tables = (
                table(p) if holder == rank else table_of_bytes(self.ranks.receive(holder))
                for p, holder in enumerate(groups.holder_P)
            )
            write_rollouts(self.run_dir.rollout_file(step), tables)

    def save(self, actor: Actor, progress: Progress) -> None:
        """Writes a checkpoint and removes the oldest. Nothing counts as a checkpoint until it is complete. Collective.

        Raises UserError on every rank if the disk lacks space for one.
        """
        step = progress.step
        temporary = self.run_dir.checkpoint_tmp(step)
        check_free_space(self.run_dir.path, self.checkpoint_bytes)  # on every rank, so that all leave together
        if self.writer is not None:
            if temporary.exists():
                shutil.rmtree(temporary)
            temporary.mkdir(parents=True)
        torch.distributed.barrier()
        actor.save(temporary, {**progress.state(), "seconds": self.elapsed(), **self.identity})
        torch.distributed.barrier()
        if self.writer is not None:
            publish_checkpoint(temporary, self.run_dir.checkpoint(step))
            self._keep_best(step)
        torch.distributed.barrier()

    def is_best(self, step: int) -> bool:
        """Whether `checkpoint.best` wants a checkpoint of this step, after its validation. Collective."""
        if self.checkpoint.best is None:
            return False
        found = [self.writer is not None and is_better(self.run_dir, self.checkpoint.best, step)]
        torch.distributed.broadcast_object_list(found, 0)
        return found[0]

    def _keep_best(self, step: int) -> None:
        """Removes all checkpoints but the newest ones and the best, to which it links."""
        metric = self.checkpoint.best
        best = None if metric is None else best_checkpoint(self.run_dir, metric)
        prune_checkpoints(self.run_dir.checkpoints, self.checkpoint.keep, () if best is None else (best.step,))
        if best is not None:
            link_best(self.run_dir, best.step)
            if best.step == step:
                self.say(f"best checkpoint so far: step {step}, {metric} {best.value:.3f}")

    def elapsed(self) -> float:
        """Seconds of training as rank 0 counts them, with those of the runs that this one continues. Collective."""
        seconds = [self.seconds_before + self.now() - self.started]
        torch.distributed.broadcast_object_list(seconds, 0)
        return seconds[0]

    def summarize(self, steps: int) -> None:
        """Writes `summary.json` and the plots, from validation files and metrics of the whole run. Collective."""
        seconds = self.elapsed()
        if self.console is None:
            return
        gain, text = self._gain(steps)
        of_run = {"steps": steps, "seconds": seconds, **self._of_sets(steps), **self._best(), **self.identity}
        write_json_atomic(self.run_dir.summary, {**gain, **of_run})
        plots = plot_run(self.run_dir)
        self.say(text)
        self.say(f"summary {self.run_dir.summary}, {len(plots)} plots in {self.run_dir.plots}")

    def _gain(self, steps: int) -> tuple[Metrics, str]:
        """pass@1 before and after training, and in words. Nothing if a validation is missing: it may be off."""
        if not all(validation_file(self.run_dir.validation, step).exists() for step in (0, steps)):
            return {}, "no pass@1: there is no validation before and after training (validation.prompts)"
        before_PK, after_PK = (read_correct(self.run_dir.validation, step) for step in (0, steps))
        before, after = bootstrap_mean(before_PK), bootstrap_mean(after_PK)
        gain = paired_bootstrap(before_PK, after_PK)
        figures = {
            **named_interval("pass@1/before", before),
            **named_interval("pass@1/after", after),
            **named_interval("pass@1/difference", gain),
        }
        return {**figures}, (
            f"pass@1 {before.mean:.3f} -> {after.mean:.3f}, "
            f"difference {gain.mean:+.3f} (95 % paired bootstrap {gain.low:+.3f} to {gain.high:+.3f})"
        )

    def _of_sets(self, steps: int) -> dict[str, float | None]:
        """Before, after and gain of each benchmark that was asked both times, under its name."""
        found: dict[str, float | None] = {}
        for folder in sorted(path for path in self.run_dir.validation.iterdir() if path.is_dir()):
            if all(validation_file(folder, step).is_file() for step in (0, steps)):
                before_PK, after_PK = (read_correct(folder, step) for step in (0, steps))
                found |= named_interval(f"{folder.name}/pass@1/before", bootstrap_mean(before_PK))
                found |= named_interval(f"{folder.name}/pass@1/after", bootstrap_mean(after_PK))
                found |= named_interval(f"{folder.name}/pass@1/difference", paired_bootstrap(before_PK, after_PK))
        return found

    def _best(self) -> dict[str, Any]:
        metric = self.checkpoint.best
        best = None if metric is None else best_checkpoint(self.run_dir, metric)
        return {} if best is None else {"best/metric": metric, "best/step": best.step, "best/value": best.value}

    def save_nemo(self, actor: Actor) -> None:
        """Writes `final.nemo` beside the checkpoints, all or nothing. Collective."""
        final = self.run_dir.path / "final.nemo"
        temporary = final.with_name("tmp_final.nemo")
        actor.save_nemo(temporary)
        if self.writer is not None:
            temporary.replace(final)
        self.say(f"trained learner {final}")

    def export_hf(self, actor: Actor) -> None:
        """Writes the Hugging Face folder `hf` beside the checkpoints, all or nothing. Collective."""
        folder = self.run_dir.path / "hf"
        actor.save_hugging_face(folder)
        self.say(f"trained learner {folder}")

    def say(self, text: str) -> None:
        """Prints a line, on rank 0 alone."""
        if self.console is not None:
            self.console.message(text)

    def close(self) -> None:
        """Ends the progress bar and flushes the metrics."""
        if self.console is not None:
            self.console.__exit__(None, None, None)
        if self.writer is not None:
            self.writer.close()
