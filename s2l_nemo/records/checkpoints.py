"""Which checkpoint folders count. One counts once it has a marker and has been renamed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from s2l_nemo.errors import UserError
from s2l_nemo.files import TEMPORARY, sync, write_json_atomic

CHECKPOINTS = "checkpoints"  # their folder in that of a run
MARKER = "COMPLETE.json"
_NAME = re.compile(r"step_(\d{6,})(\.old)?")


class Checkpoint(NamedTuple):
    """A complete checkpoint: the step after which it was taken, and its folder."""

    step: int
    path: Path


def complete_checkpoints(checkpoints: Path) -> list[Checkpoint]:
    """The checkpoints in a folder, oldest first, that have a marker and whose files have the sizes in it."""
    found: dict[int, Checkpoint] = {}
    # A kill between the two renames of `publish_checkpoint` leaves `step_000001.old`. The plain name sorts first.
    for path in sorted(checkpoints.glob("step_*")):
        match = _NAME.fullmatch(path.name)
        if match and int(match[1]) not in found and _is_complete(path, int(match[1])):
            found[int(match[1])] = Checkpoint(int(match[1]), path)
    return [found[step] for step in sorted(found)]


def latest_checkpoint(checkpoints: Path) -> Checkpoint | None:
    """The complete checkpoint of the largest step; None if there is none."""
    return max(complete_checkpoints(checkpoints), default=None)


def weights_of(path: Path) -> Path:
    """The folder or file that holds a model's weights: `path` itself, or the newest checkpoint if it is a run's folder.

    Raises UserError if the run has no complete checkpoint.
    """
    checkpoints = path / CHECKPOINTS
    if not checkpoints.is_dir():
        return path
    newest = latest_checkpoint(checkpoints)
    if newest is None:
        raise UserError(f"{path} is the folder of a run without a complete checkpoint: wait for one")
    return newest.path


def publish_checkpoint(tmp_dir: Path, final_dir: Path) -> None:
    """Makes the finished folder `tmp_dir` the checkpoint `final_dir` (`.../step_000001`), on the same file system.

    Whenever it is killed, the old or the new checkpoint of this step is complete. One process calls it, after all ranks
    have closed their files.
    """
    match = _NAME.fullmatch(final_dir.name)
    assert match is not None, final_dir
    entries = sorted(tmp_dir.rglob("*"))
    files = [path for path in entries if path.is_file() and path != tmp_dir / MARKER]
    for path in [*files, *(path for path in entries if path.is_dir())]:
        sync(path)
    sizes = {path.relative_to(tmp_dir).as_posix(): path.stat().st_size for path in files}
    write_json_atomic(tmp_dir / MARKER, {"step": int(match[1]), "files": sizes})

    old = final_dir.with_name(f"{final_dir.name}.old")
    if final_dir.exists():
        if _is_complete(final_dir, int(match[1])):
            _remove(old)
            final_dir.rename(old)
        else:
            _remove(final_dir)
    tmp_dir.rename(final_dir)
    sync(final_dir.parent)
    _remove(old)


def prune_checkpoints(checkpoints: Path, keep: int, also: Collection[int] = ()) -> None:
    """Keeps the `keep` newest complete checkpoints (0 keeps all), and those of the steps `also`.

    Removes unfinished ones, which a kill has left.
    """
    complete = complete_checkpoints(checkpoints)
    for checkpoint in [one for one in complete[:-keep] if one.step not in also] if keep else []:
        # The marker goes first, so that a kill half-way leaves no damaged checkpoint that counts.
        (checkpoint.path / MARKER).unlink()
        _remove(checkpoint.path)
    remaining = {checkpoint.path for checkpoint in complete}
    for path in [*checkpoints.glob(f"{TEMPORARY}*"), *checkpoints.glob("step_*.old")]:
        if path not in remaining:
            _remove(path)


def _is_complete(path: Path, step: int) -> bool:
    if not (path / MARKER).is_file():
        return False
    marker = json.loads((path / MARKER).read_text(encoding="utf-8"))
    return marker["step"] == step and all(
        (path / name).is_file() and (path / name).stat().st_size == size for name, size in marker["files"].items()
    )


def _remove(folder: Path) -> None:
    if folder.is_symlink():  # of `best`, half-way to its name
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
