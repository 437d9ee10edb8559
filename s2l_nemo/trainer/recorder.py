"""Everything a run writes. Rank 0 writes; the other ranks call the same methods and only take part in checkpoints."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from s2l_nemo.actor.protocol import Actor
from s2l_nemo.config.schema import CheckpointConfig, LoggingConfig
from s2l_nemo.files import check_free_space, write_json_atomic
from s2l_nemo.measures.statistics import bootstrap_mean, paired_bootstrap
from s2l_nemo.records.checkpoints import prune_checkpoints, publish_checkpoint
from s2l_nemo.records.console import StepConsole
from s2l_nemo.records.directory import RunDir
from s2l_nemo.records.dump import rollout_rows, write_rollouts
from s2l_nemo.records.metrics import MetricsWriter
from s2l_nemo.records.plots import plot_run
from s2l_nemo.trainer.metrics import Metrics
from s2l_nemo.trainer.validation import Correct, Validation, write_validation
from s2l_nemo.types import Group, Prompt


@dataclass
class Recorder:
    """`writer` and `console` are None on all ranks but 0. `identity` is what a resumed run must share with this one."""

    run_dir: RunDir
    checkpoint: CheckpointConfig
    logging: LoggingConfig
    identity: dict[str, Any]
    decode: Callable[[Sequence[int]], str]
    checkpoint_bytes: int  # estimate of one checkpoint, for the check of free space
    writer: MetricsWriter | None
    console: StepConsole | None
    started: float = field(default_factory=time.perf_counter)
    seconds_before: float = 0.0  # of the runs that this one continues

    def validated(self, step: int, validation: Validation, prompts: Sequence[Prompt]) -> None:
        if self.console is None:
            return
        write_validation(self.run_dir.validation, step, validation, prompts)
        mean, low, high = bootstrap_mean(validation.correct_PK)
        interval = f"{mean:.3f} [{low:.3f}, {high:.3f}]"
        failed = f", {validation.grader_errors} checks failed" if validation.grader_errors else ""
        self.console.message(
            f"validation after step {step}: pass@1 {interval} on {len(prompts)} held-out prompts{failed}"
        )

    def stepped(
        self, step: int, metrics: Metrics, groups: list[Group], advantages_PG: torch.Tensor, seconds: float
    ) -> None:
        """Writes metrics and rollouts of a step. `seconds` is the step with its validation."""
        if self.writer is None or self.console is None:
            return
        metrics["time/step_with_validation"] = seconds
        self.writer.write(step, metrics)
        if self.logging.rollouts_every and step % self.logging.rollouts_every == 0:
            rows = rollout_rows(step, groups, advantages_PG.reshape(-1).tolist(), self.decode)
            write_rollouts(self.run_dir.rollout_file(step), rows)
        self.console.step(step, metrics)

    def save(self, actor: Actor, step: int) -> None:
        """Writes and publishes a checkpoint; nothing counts as one until it is complete. Collective."""
        temporary = self.run_dir.checkpoint_tmp(step)
        check_free_space(self.run_dir.path, self.checkpoint_bytes)  # on every rank, so that all leave together
        if self.writer is not None:
            if temporary.exists():
                shutil.rmtree(temporary)
            temporary.mkdir(parents=True)
        torch.distributed.barrier()
        actor.save(temporary, {"step": step, "seconds": self.elapsed(), **self.identity})
        torch.distributed.barrier()
        if self.writer is not None:
            publish_checkpoint(temporary, self.run_dir.checkpoint(step))
            prune_checkpoints(self.run_dir.checkpoints, self.checkpoint.keep)
        torch.distributed.barrier()

    def elapsed(self) -> float:
        """Seconds of training, earlier parts of a resumed run included, as rank 0 counts them."""
        seconds = [self.seconds_before + time.perf_counter() - self.started]
        torch.distributed.broadcast_object_list(seconds, 0)
        return seconds[0]

    def summarize(self, steps: int) -> None:
        """`summary.json` and the plots, from the validation files and metrics of the whole run. Collective."""
        seconds = self.elapsed()
        if self.console is None or self.writer is None:
            return
        before = self._correct(0)
        after = self._correct(steps)
        difference, low, high = paired_bootstrap(before, after)
        summary: dict[str, Any] = {}
        for when, correct_PK in (("before", before), ("after", after)):
            keys = (f"pass@1/{when}", f"pass@1/{when}_low", f"pass@1/{when}_high")
            summary.update(zip(keys, bootstrap_mean(correct_PK), strict=True))
        summary |= {
            "pass@1/difference": difference,
            "pass@1/difference_low": low,
            "pass@1/difference_high": high,
            "steps": steps,
            "seconds": seconds,
            **self.identity,
        }
        write_json_atomic(self.run_dir.summary, summary)
        plots = plot_run(self.run_dir)
        self.console.message(
            f"pass@1 {summary['pass@1/before']:.3f} -> {summary['pass@1/after']:.3f}, "
            f"difference {difference:+.3f} (95 % paired bootstrap {low:+.3f} to {high:+.3f})"
        )
        self.console.message(f"summary {self.run_dir.summary}, {len(plots)} plots in {self.run_dir.plots}")

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
        if self.console is not None:
            self.console.message(text)

    def close(self) -> None:
        """Ends the progress bar and flushes the metrics."""
        if self.console is not None:
            self.console.__exit__(None, None, None)
        if self.writer is not None:
            self.writer.close()

    def _correct(self, step: int) -> Correct:
        path = self.run_dir.validation / f"step_{step:06d}.json"
        correct_PK: Correct = json.loads(path.read_text(encoding="utf-8"))["correct"]
        return correct_PK
