"""The run directory: the names in it, who may write into it, and from where a run continues."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from omegaconf.errors import OmegaConfBaseException
from typing_extensions import assert_never

from s2l_nemo.config.load import read_plain, with_defaults
from s2l_nemo.config.resume import check_resume
from s2l_nemo.config.schema import Config, Resume
from s2l_nemo.errors import UserError
from s2l_nemo.files import TEMPORARY, check_writable, read_json_object, write_json_atomic, write_text_atomic
from s2l_nemo.hub.commits import pin
from s2l_nemo.records.checkpoints import (
    CHECKPOINTS,
    DAMAGED,
    Checkpoint,
    fault,
    latest_checkpoint,
    prune_checkpoints,
    set_aside,
    unfit_checkpoints,
)
from s2l_nemo.records.versions import versions

_RESTORE = "restore it, or choose another run.dir"
LOCK = f"{TEMPORARY}lock"  # in the folder itself: that beside it may be read-only


@dataclass(frozen=True)
class RunDir:
    """The names of everything in one run directory. Asking for a name creates nothing."""

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
    def save_now(self) -> Path:
        """A file that asks the run for a checkpoint after its step."""
        return self.path / "save_now"

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

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


def step_of(file: Path) -> int:
    """The step of a file `step_N`. Raises UserError if its name is another one."""
    number = file.stem.removeprefix("step_")
    if not (number.isascii() and number.isdecimal()):
        raise UserError(f"{file} has no number of a step in its name: move it out of the run's folder")
    return int(number)


def read_config(key: str, path: str | Path) -> Config:
    """The configuration of a run. Raises UserError, which names `key`, if it is not there, or not of this version."""
    file = RunDir(Path(path)).config
    try:
        return with_defaults(Config, read_plain(file, file.read_bytes()))
    except OSError as error:
        raise UserError(f"{key}={path} is no folder of a run ({file}: {error.strerror}): give a run.dir") from None
    except (ValueError, OmegaConfBaseException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{key}={path}: cannot read {file}: {reason}") from None


def say_on_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def create_run_dir(
    path: str | Path, resume: Resume, config_yaml: str, say: Callable[[str], None] = say_on_stderr
) -> tuple[RunDir, Checkpoint | None]:
    """Makes the directory of a new run, or opens the one to continue, and returns the checkpoint to continue from.

    `config_yaml` is the resolved configuration. If a run has no complete checkpoint, `auto` removes what it has left
    and starts anew. A damaged checkpoint is told to `say`, set aside, and the one before it is used.

    Raises UserError if the directory is not ours, if `resume` or the configuration does not allow to continue the run
    in it, or if it cannot be written. The directory is then untouched.
    """
    run_dir = RunDir(Path(path))
    with _usable(run_dir):
        _inspect(run_dir, resume, config_yaml)  # nothing is made in a folder that is not ours
        _lock(run_dir)
        _inspect(run_dir, resume, config_yaml)
        _set_damaged_aside(run_dir, say)
        ours, checkpoint = _inspect(run_dir, resume, config_yaml)
        if checkpoint is not None:
            _remove_after(run_dir, checkpoint.step)
        elif ours:
            _remove_leftovers(run_dir)
        # versions.json comes first. It marks the directory as ours, even if this start is killed.
        write_json_atomic(run_dir.versions, versions(earlier=run_dir.versions if checkpoint else None))
        write_text_atomic(run_dir.config, config_yaml)
    return run_dir, checkpoint


def begun_config(path: str | Path) -> str | None:
    """The configuration of the run that this directory holds and that can be continued; None if there is none."""
    run_dir = RunDir(Path(path))
    with _usable(run_dir):
        if not _holds_run(run_dir) or latest_checkpoint(run_dir.checkpoints) is None:
            return None
        return run_dir.config.read_text(encoding="utf-8", errors="surrogateescape")


def check_run_dir(path: str | Path, resume: Resume, config_yaml: str) -> None:
    """Raises UserError for what `create_run_dir` would refuse, as far as reading tells. Changes nothing."""
    run_dir = RunDir(Path(path))
    with _usable(run_dir):
        _inspect(run_dir, resume, config_yaml)
        check_writable(run_dir.path)


def pin_commits(path: str | Path) -> None:
    """Makes this process take the commits of the hub that the run to be continued in this directory began with."""
    run_dir = RunDir(Path(path))
    with _usable(run_dir):
        if not run_dir.versions.is_file() or latest_checkpoint(run_dir.checkpoints) is None:
            return
        try:
            pin(read_json_object(run_dir.versions, _RESTORE).get("hub", {}))
        except ValueError as error:
            raise UserError(f"{run_dir.versions} is damaged ({error}): {_RESTORE}") from None


@contextmanager
def _usable(run_dir: RunDir) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"run.dir={run_dir.path} cannot be used ({error.strerror}: {error.filename}); choose another run.dir"
        ) from error


def _inspect(run_dir: RunDir, resume: Resume, config_yaml: str) -> tuple[bool, Checkpoint | None]:
    """Whether the directory holds a run, and the checkpoint to continue from."""
    ours = _holds_run(run_dir)
    checkpoint = latest_checkpoint(run_dir.checkpoints) if ours else None
    _refuse(run_dir, resume, ours, checkpoint)
    if checkpoint is not None:
        check_resume(
            run_dir.path,
            run_dir.config.read_text(encoding="utf-8", errors="surrogateescape"),
            config_yaml,
            checkpoint.step,
        )
    return ours, checkpoint


def _set_damaged_aside(run_dir: RunDir, say: Callable[[str], None]) -> None:
    """Leaves the newest checkpoint whole, if there is a whole one."""
    for path, reason in unfit_checkpoints(run_dir.checkpoints).items():
        say(f"damaged: {reason}; the checkpoint is set aside as {set_aside(path)}")
    while (newest := latest_checkpoint(run_dir.checkpoints)) and (found := fault(newest)):
        say(f"damaged: {found}; the checkpoint is set aside as {set_aside(newest.path)}")


def _lock(run_dir: RunDir) -> None:
    """Keeps other processes out until this one ends. The kernel releases the lock, however it ends."""
    run_dir.path.mkdir(parents=True, exist_ok=True)
    file = os.open(run_dir.path / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(file)
        raise UserError(f"run.dir={run_dir.path} is in use by another process; wait for it or choose another") from None


def _holds_run(run_dir: RunDir) -> bool:
    """Whether the directory is one of ours. Raises UserError if it holds something else."""
    if not run_dir.path.exists():
        return False
    if not run_dir.path.is_dir():
        raise UserError(f"run.dir={run_dir.path} is a file; choose a directory")
    if run_dir.versions.is_file() and b'"s2l_nemo"' in run_dir.versions.read_bytes():
        return True
    foreign = sorted(entry.name for entry in run_dir.path.iterdir() if not entry.name.startswith(TEMPORARY))
    if foreign:
        raise UserError(
            f"run.dir={run_dir.path} is not a run of S2L-PO and holds {foreign[0]!r}; choose another run.dir"
        )
    return False


def _refuse(run_dir: RunDir, resume: Resume, ours: bool, checkpoint: Checkpoint | None) -> None:
    where = f"run.dir={run_dir.path}"
    match resume:
        case Resume.never:
            if ours:
                raise UserError(
                    f"{where} already holds a run and run.resume=never; choose another run.dir or run.resume=auto"
                )
        case Resume.must:
            if checkpoint is None:
                raise UserError(
                    f"{where} holds no complete checkpoint and run.resume=must; set run.resume=auto to start anew"
                )
        case Resume.auto:
            pass
        case _:
            assert_never(resume)
    if ours and checkpoint is None and any(run_dir.checkpoints.glob(f"*{DAMAGED}")):
        raise UserError(
            f"{where} holds nothing but damaged checkpoints: restore one, or choose another run.dir to start anew"
        )
    if ours and checkpoint is None and _is_finished(run_dir):
        raise UserError(f"{where} holds a finished run whose checkpoints are gone; choose another run.dir")


def _is_finished(run_dir: RunDir) -> bool:
    if not run_dir.summary.exists():
        return False
    return read_json_object(run_dir.summary, _RESTORE).get("steps") is not None


def _remove_leftovers(run_dir: RunDir) -> None:
    for folder in (run_dir.checkpoints, run_dir.rollouts, run_dir.validation, run_dir.tensorboard, run_dir.plots):
        if folder.exists():
            shutil.rmtree(folder)
    for file in (run_dir.metrics, run_dir.summary):
        file.unlink(missing_ok=True)


def _remove_after(run_dir: RunDir, step: int) -> None:
    """Removes the rollouts of steps that will be done again, and unfinished checkpoints."""
    for file in run_dir.rollouts.glob("step_*.parquet"):
        if file.name > run_dir.rollout_file(step).name:
            file.unlink()
    prune_checkpoints(run_dir.checkpoints, keep=0)
