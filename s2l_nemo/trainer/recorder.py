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
from s2l_nemo.measures.statistics import bootstrap_mean
from s2l_nemo.records.best import best_checkpoint, is_better, link_best
from s2l_nemo.records.checkpoints import prune_checkpoints, publish_checkpoint
from s2l_nemo.records.console import StepConsole
from s2l_nemo.records.directory import RunDir
from s2l_nemo.records.dump import rollout_table, table_bytes, table_of_bytes, write_rollouts
from s2l_nemo.records.identity import changed_parts
from s2l_nemo.records.metrics import MetricsWriter
from s2l_nemo.records.plots import plot_run
from s2l_nemo.trainer.exchange import StepGroups
from s2l_nemo.trainer.metrics import Metrics
from s2l_nemo.trainer.progress import Progress
from s2l_nemo.trainer.ranks import Ranks
from s2l_nemo.trainer.summary import compare, figures_of_sets
from s2l_nemo.trainer.validation import Validation, validation_file, write_validation
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
    failed_reports: list[str] = field(default_factory=list)
    told_failures: bool = False  # why checks fail has been said

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
        failed = f", {_failures(validation.grader_errors, validation.why_failed)}" if validation.grader_errors else ""
        self.say(
            f"{what}: pass@1 {right.mean:.3f} [{right.low:.3f}, {right.high:.3f}] on {len(validation.correct_PK)} "
            f"{asked}{failed}"
        )

    def lacks_validation(self, step: int) -> bool:
        """Whether the run has no validation after this step, as one that ends earlier than planned. Collective."""
        lacks = [self.writer is not None and not validation_file(self.run_dir.validation, step).exists()]
        torch.distributed.broadcast_object_list(lacks, 0)
        return lacks[0]

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
            self._warn_of_failures(step, groups)
            self._warn_of_silence(step, metrics)

    def _warn_of_failures(self, step: int, groups: StepGroups) -> None:
        """Says why checks fail, once. `reward/grader_errors` counts on."""
        failed = int(groups.failed_PG.sum().item())
        if failed and not self.told_failures:
            self.told_failures = True
            self.say(f"warning: step {step}: {_failures(failed, groups.why_failed)}; their rewards are 0")

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

    def save_requested(self) -> bool:
        """Whether someone has put a file `save_now` into the run directory. It is taken away. Collective."""
        found = [False]
        if self.writer is not None and self.run_dir.save_now.exists():
            self.run_dir.save_now.unlink()
            found = [True]
        torch.distributed.broadcast_object_list(found, 0)
        return found[0]

    def elapsed(self) -> float:
        """Seconds of training as rank 0 counts them, with those of the runs that this one continues. Collective."""
        seconds = [self.seconds_before + self.now() - self.started]
        torch.distributed.broadcast_object_list(seconds, 0)
        return seconds[0]

    def summarize(self, steps: int) -> bool:
        """Writes `summary.json` and the plots, from validation files and metrics of the whole run. Collective.

        The run has delivered its weights before. So a report that fails says so in a line, and nothing is raised.
        Returns whether there is none, the same on every rank.
        """
        seconds = self.elapsed()
        if self.console is not None:
            self._report("the summary", lambda: self._write_summary(steps, seconds))
            self._report("plots", self._plot)
        failed: list[list[str]] = [self.failed_reports]
        torch.distributed.broadcast_object_list(failed, 0)
        return not failed[0]

    def _report(self, what: str, make: Callable[[], None]) -> None:
        try:
            make()
        except Exception as error:  # whatever it is: the exit code of the run tells of it
            reason = " ".join(str(error).split()) or type(error).__name__
            self.say(f"failed: {what} ({reason}); the trained weights are complete")
            self.failed_reports.append(what)

    def _write_summary(self, steps: int, seconds: float) -> None:
        changed = changed_parts(self.run_dir.path)
        compared = compare(self.run_dir.validation, steps, changed)
        of_sets = figures_of_sets(self.run_dir.validation, steps, changed)
        of_run = {"steps": steps, "seconds": seconds, **of_sets, **self._best(), **self.identity}
        write_json_atomic(self.run_dir.summary, {**compared.figures(), **of_run})
        self.say(compared.in_words())
        self.say(f"summary {self.run_dir.summary}")

    def _plot(self) -> None:
        drawn = plot_run(self.run_dir)
        self.say(f"plots {self.run_dir.plots}, {len(drawn)} of them")

    def _best(self) -> dict[str, Any]:
        metric = self.checkpoint.best
        best = None if metric is None else best_checkpoint(self.run_dir, metric)
        return {} if best is None else {"best/metric": metric, "best/step": best.step, "best/value": best.value}

    def save_nemo(self, actor: Actor) -> None:
        """Writes `final.nemo` beside the checkpoints, all or nothing. Collective."""
        final = self.run_dir.path / "final.nemo"
        temporary = final.with_name("tmp_final.nemo")
        try:
            actor.save_nemo(temporary)
            if self.writer is not None:
                temporary.replace(final)
        finally:
            if self.writer is not None:
                temporary.unlink(missing_ok=True)  # half of a file takes the space that another try needs
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


def _failures(failed: int, reason: str | None) -> str:
    return f"{failed} checks failed" + ("" if reason is None else f", the first with {reason!r}")
