"""The run directory: who may write into it, which checkpoints count, and writes that a kill cannot tear."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from s2l_nemo.errors import UserError
from s2l_nemo.files import TEMPORARY, check_free_space, write_json_atomic, write_text_atomic
from s2l_nemo.records.checkpoints import (
    Checkpoint,
    complete_checkpoints,
    latest_checkpoint,
    prune_checkpoints,
    publish_checkpoint,
)
from s2l_nemo.records.versions import versions

__all__ = [
    "Checkpoint",
    "RunDir",
    "check_free_space",
    "complete_checkpoints",
    "create_run_dir",
    "latest_checkpoint",
    "prune_checkpoints",
    "publish_checkpoint",
    "write_json_atomic",
    "write_text_atomic",
]

# What may differ on resume changes where, how fast or how often, not what is learned. `run.seed` is not among it.
MAY_CHANGE_SECTIONS = ("validation", "checkpoint", "logging", "engine")
MAY_CHANGE = (
    "run.dir",
    "run.dry_run",
    "run.export_hf",
    "run.resume",
    "run.save_nemo",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "model.tensor_model_parallel_size",
    "model.pipeline_model_parallel_size",
    "model.micro_batch_size",
    "model.activation_checkpointing",
    "model.offload_optimizer",
    "model.offload_weights",
    "algorithm.steps",
    "rollout.max_batch_rows",
    "rollout.refit_bucket_mb",
    "data.cache_dir",
    "rewards.workers",
    "rewards.cpu_s",
    "rewards.wall_s",
    "rewards.memory_mb",
    "rewards.batch_s",
)


@dataclass(frozen=True)
class RunDir:
    """Names of everything in one run directory. Nothing is created by asking for a name."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def versions(self) -> Path:
        return self.path / "versions.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def rollouts(self) -> Path:
        return self.path / "rollouts"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def validation(self) -> Path:
        return self.path / "validation"

    def rollout_file(self, step: int) -> Path:
        return self.rollouts / f"step_{step:06d}.parquet"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step_{step:06d}"

    def checkpoint_tmp(self, step: int) -> Path:
        """Where to write a checkpoint before `publish_checkpoint` gives it its name."""
        return self.checkpoints / f"{TEMPORARY}step_{step:06d}"


def create_run_dir(path: str | Path, resume: str, config_yaml: str) -> tuple[RunDir, Checkpoint | None]:
    """Makes the directory of a new run, or opens the one to continue, and returns the checkpoint to continue from.

    `resume` is `auto`, `never` or `must`; `config_yaml` is the resolved configuration. What a start without a complete
    checkpoint has left behind is removed in `auto`. Raises UserError, with the directory untouched, where it is not
    ours, holds a run that `resume` or the configuration does not allow to continue, or cannot be written.
    """
    run_dir = RunDir(Path(path))
    try:
        _lock(run_dir)
        ours = _holds_run(run_dir)
        checkpoint = latest_checkpoint(run_dir.checkpoints) if ours else None
        _refuse(run_dir, resume, ours, checkpoint)
        if checkpoint is not None:
            _check_same_config(run_dir, config_yaml, checkpoint)
            _remove_after(run_dir, checkpoint.step)
        elif ours:
            _remove_leftovers(run_dir)
        run_dir.path.mkdir(parents=True, exist_ok=True)
        # versions.json comes first: from here on the directory is known as ours, even if this start is killed.
        write_json_atomic(run_dir.versions, versions(earlier=run_dir.versions if checkpoint else None))
        write_text_atomic(run_dir.config, config_yaml)
    except OSError as error:
        raise UserError(
            f"run.dir={run_dir.path} cannot be used ({error.strerror}: {error.filename}); choose another run.dir"
        ) from error
    return run_dir, checkpoint


def _lock(run_dir: RunDir) -> None:
    """Keeps a second process out until this one ends, however it ends; the kernel releases the lock."""
    run_dir.path.parent.mkdir(parents=True, exist_ok=True)
    name = run_dir.path.resolve()
    file = os.open(name.with_name(f".{name.name}.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(file)
        raise UserError(f"run.dir={run_dir.path} is in use by another process; wait for it or choose another") from None


def _holds_run(run_dir: RunDir) -> bool:
    """Whether the directory is one of ours. Raises UserError where something else is in it."""
    if not run_dir.path.exists():
        return False
    if not run_dir.path.is_dir():
        raise UserError(f"run.dir={run_dir.path} is a file; choose a directory")
    if run_dir.versions.is_file() and '"s2l_nemo"' in run_dir.versions.read_text(encoding="utf-8"):
        return True
    foreign = sorted(entry.name for entry in run_dir.path.iterdir() if not entry.name.startswith(TEMPORARY))
    if foreign:
        raise UserError(
            f"run.dir={run_dir.path} is not a run of S2L-PO and holds {foreign[0]!r}; choose another run.dir"
        )
    return False


def _refuse(run_dir: RunDir, resume: str, ours: bool, checkpoint: Checkpoint | None) -> None:
    where = f"run.dir={run_dir.path}"
    if resume == "never" and ours:
        raise UserError(f"{where} already holds a run and run.resume=never; choose another run.dir or run.resume=auto")
    if resume == "must" and checkpoint is None:
        raise UserError(f"{where} holds no complete checkpoint and run.resume=must; set run.resume=auto to start anew")
    if ours and checkpoint is None and _is_finished(run_dir):
        raise UserError(f"{where} holds a finished run whose checkpoints are gone; choose another run.dir")


def _is_finished(run_dir: RunDir) -> bool:
    if not run_dir.summary.exists():
        return False
    return json.loads(run_dir.summary.read_text(encoding="utf-8")).get("pass@1/after") is not None


def _remove_leftovers(run_dir: RunDir) -> None:
    for folder in (run_dir.checkpoints, run_dir.rollouts, run_dir.validation, run_dir.tensorboard, run_dir.plots):
        if folder.exists():
            shutil.rmtree(folder)
    for file in (run_dir.metrics, run_dir.summary):
        file.unlink(missing_ok=True)


def _remove_after(run_dir: RunDir, step: int) -> None:
    """Removes rollouts of steps that will be done again, and half-written checkpoints."""
    for file in run_dir.rollouts.glob("step_*.parquet"):
        if file.name > run_dir.rollout_file(step).name:
            file.unlink()
    prune_checkpoints(run_dir.checkpoints, keep=0)


def _check_same_config(run_dir: RunDir, config_yaml: str, checkpoint: Checkpoint) -> None:
    old, new = _comparable(run_dir.config.read_text(encoding="utf-8")), _comparable(config_yaml)
    for key in [*new, *(key for key in old if key not in new)]:
        before, after = old.get(key), new.get(key)
        if before != after:
            raise UserError(
                f"run.dir={run_dir.path} was started with {key}={_shown(before)}, now {_shown(after)}; "
                f"set {key}={_shown(before)} to continue it, or choose another run.dir"
            )
    steps = (yaml.safe_load(config_yaml).get("algorithm") or {}).get("steps")
    if steps is not None and steps < checkpoint.step:
        raise UserError(f"algorithm.steps={steps}, but run.dir={run_dir.path} has done {checkpoint.step}; raise it")


def _comparable(config_yaml: str) -> dict[str, object]:
    """Dotted keys that must not change, with the values that the run really used."""
    config = _flatten(yaml.safe_load(config_yaml) or {})
    kept = {
        key: value
        for key, value in config.items()
        if key not in MAY_CHANGE and key.split(".")[0] not in MAY_CHANGE_SECTIONS
    }
    steps, t_mix = config.get("algorithm.steps"), "algorithm.schedule.t_mix"
    if config.get("algorithm.schedule.name") in ("constant", "none"):
        kept.pop(t_mix, None)
    elif isinstance(steps, int) and t_mix in config and config[t_mix] is None:
        kept[t_mix] = steps // 2  # so more steps with t_mix=null would move the annealing
    if config.get("model.optim.lr_schedule") == "cosine":
        kept["algorithm.steps"] = steps  # the cosine ends at the last step
    return kept


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in config.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
