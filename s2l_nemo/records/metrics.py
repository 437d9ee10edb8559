"""Writes the metrics of every step: a JSON line, TensorBoard scalars and, if configured, Weights & Biases."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2l_nemo.config.schema import WandbMode
from s2l_nemo.errors import UserError
from s2l_nemo.files import write_text_atomic
from s2l_nemo.records.directory import RunDir
from s2l_nemo.records.wandb_start import mode_of, start_wandb

REQUIRED_KEYS = (
    "alpha",
    "group/explorer",
    "group/learner",
    "reward/mean",
    "reward/explorer",
    "reward/learner",
    "group/zero_variance_fraction",
    "loss",
    "kl",
    "entropy",
    "clip_fraction",
    "grad_norm",
    "lr",
    "response_length/mean",
    "response_length/truncated_fraction",
    "logprob_diff/learner",
    "time/rollout_explorer",
    "time/rollout_learner",
    "time/reward",
    "time/logprobs",
    "time/update",
    "time/refit",
    "time/step",
    "throughput/rollout_tokens_per_s",
    "throughput/train_tokens_per_s",
)
Value = float | int | None
_LARGEST = 1e100  # that is read: more is no figure of a run, and sums and squares of it overflow
log = logging.getLogger(__name__)


class MetricsWriter:
    """Writes one line a step to `metrics.jsonl`, and the same values to TensorBoard and Weights & Biases.

    `resume_step` is the step of the checkpoint from which the run continues. Lines of later steps are removed, because
    these steps will be done again. So is a line that a kill has torn. None starts an empty file.

    Raises UserError if Weights & Biases is asked for and not installed.
    """

    def __init__(
        self,
        run_dir: RunDir,
        *,
        wandb_project: str | None = None,
        wandb_mode: WandbMode | None = None,
        resume_step: int | None = None,
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        mode = mode_of(wandb_mode, os.environ)
        sends = wandb_project is not None and mode is not WandbMode.disabled
        self._wandb = start_wandb(run_dir.path, str(wandb_project), mode) if sends else None
        kept = [] if resume_step is None else [m for m in read_metrics(run_dir.metrics) if m["step"] <= resume_step]
        write_text_atomic(run_dir.metrics, "".join(json.dumps(values) + "\n" for values in kept))
        self._last_step = kept[-1]["step"] if kept else -1
        self._file = run_dir.metrics.open("a", encoding="utf-8")
        # With purge_step TensorBoard forgets what a killed run wrote after the checkpoint.
        self._tensorboard = SummaryWriter(str(run_dir.tensorboard), purge_step=self._last_step + 1)

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Appends the metrics of one step. None becomes null. So do NaN and infinities, with a warning.

        Raises ValueError if a key of REQUIRED_KEYS is missing, or if the step does not come after the last one.
        """
        missing = [key for key in REQUIRED_KEYS if key not in values]
        if missing:
            raise ValueError(f"metrics of step {step} lack {', '.join(missing)}")
        if step <= self._last_step:
            raise ValueError(f"metrics of step {step} come after those of step {self._last_step}")
        finite = {key: _finite_or_none(step, key, value) for key, value in values.items()}
        self._file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
        self._file.flush()
        self._last_step = step
        present = {key: value for key, value in finite.items() if value is not None}
        for key, value in present.items():
            self._tensorboard.add_scalar(key, value, step)
        self._tensorboard.flush()
        if self._wandb is not None:
            self._wandb.log({"step": step, **present})

    def close(self) -> None:
        self._file.close()
        self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, without a last line that a kill has torn. [] if there is no file.

    Raises UserError for any other line that is not JSON, or no metrics of a step.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines()
    metrics = []
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number < len(lines):
                raise UserError(f"{path} line {number} is not JSON ({error}); remove that line") from error
            break
        if (
            not isinstance(values, dict)
            or type(values.get("step")) is not int
            or not all(map(_is_value, values.values()))
        ):
            raise UserError(f"{path} line {number} has no step, or a value that is no number; remove that line")
        metrics.append(values)
    return metrics


def _is_value(value: object) -> bool:
    return value is None or (type(value) in (int, float) and abs(value) < _LARGEST)  # type: ignore[arg-type]


def _finite_or_none(step: int, key: str, value: Value) -> Value:
    if value is None or math.isfinite(value):
        return value
    log.warning("step %d: %s is %s, written as null", step, key, value)
    return None
