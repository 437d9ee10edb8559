"""Which checkpoint folders count. One counts once it has a marker and has been renamed.

The marker lists the files with their sizes, which are compared always, and their CRC-32, which is when a run continues:
a disk may give back other bytes than were written.
"""

from __future__ import annotations

import re
import shutil
import zlib
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from s2l_nemo.errors import UserError
from s2l_nemo.files import TEMPORARY, read_json_object, sync, write_json_atomic

CHECKPOINTS = "checkpoints"  # their folder in that of a run
MARKER = "COMPLETE.json"
DAMAGED = ".damaged"  # behind the name of a checkpoint that was set aside
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
    marker = {"step": int(match[1]), "files": sizes, "crc32": _checksums(tmp_dir, list(sizes))}
    write_json_atomic(tmp_dir / MARKER, marker)

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


def fault(checkpoint: Checkpoint) -> str | None:
    """What is wrong with the bytes of a complete checkpoint; None if they are those that were written. Reads them all.

    One that an earlier version has written has no checksums, and passes.
    """
    _, path = checkpoint
    written = _Marker.of(path / MARKER).crc32
    read = _checksums(path, list(written))
    damaged = next((name for name in written if written[name] != read[name]), None)
    return None if damaged is None else f"{path / damaged} holds other bytes than were written"


def unfit_checkpoints(checkpoints: Path) -> dict[Path, str]:
    """Folders that were complete once and are not any more, with what is wrong with them."""
    unfit = {}
    for path in sorted(checkpoints.glob("step_*")):
        match = _NAME.fullmatch(path.name)
        # half of `step_000001.old` is what a kill leaves while it is removed
        if match and match[2] is None and (path / MARKER).is_file() and (reason := _unfit(path, int(match[1]))):
            unfit[path] = reason
    return unfit


def set_aside(path: Path) -> Path:
    """Renames a damaged checkpoint, so that it neither counts nor ousts good ones. Returns its new name."""
    aside = path.with_name(path.name + DAMAGED)
    _remove(aside)
    return path.rename(aside)


def _is_complete(path: Path, step: int) -> bool:
    return (path / MARKER).is_file() and _unfit(path, step) is None


def _unfit(path: Path, step: int) -> str | None:
    """What the sizes of the files say against a folder with a marker."""
    try:
        marker = _Marker.of(path / MARKER)
    except UserError:
        return f"{path / MARKER} is damaged"
    if marker.step != step:
        return f"{path / MARKER} is of step {marker.step}"
    for name, size in marker.files.items():
        found = (path / name).stat().st_size if (path / name).is_file() else None
        if found != size:
            return f"{path / name} {'is missing' if found is None else f'has {found} bytes, {size} were written'}"
    return None


class _Marker(NamedTuple):
    """What a marker lists, by names of files inside of its folder."""

    step: int
    files: dict[str, int]  # bytes
    crc32: dict[str, int]  # none if an earlier version has written it

    @classmethod
    def of(cls, path: Path) -> _Marker:
        """Raises UserError for what `publish_checkpoint` does not write."""
        remedy = "restore it, or remove the checkpoint"
        content = read_json_object(path, remedy)
        step = content.get("step")
        files: Any = content.get("files")
        sums: Any = content.get("crc32", {})
        if type(step) is not int or not _is_listing(files) or not _is_listing(sums) or not sums.keys() <= files.keys():
            raise UserError(f"{path} lists no files of its folder with their sizes: {remedy}")
        return cls(step, files, sums)


def _is_listing(listed: Any) -> bool:
    """Whether this is a number for each of some files inside of a folder."""
    if not isinstance(listed, dict) or not all(type(number) is int for number in listed.values()):
        return False
    parts = [Path(name).parts for name in listed]
    return not any(not one or one[0] == "/" or ".." in one for one in parts) and not any("\0" in one for one in listed)


def _checksums(folder: Path, names: Sequence[str]) -> dict[str, int]:
    """CRC-32 of files, several at a time: it is computed without the interpreter's lock."""

    def of(name: str) -> int:
        checksum, piece = 0, bytearray(2**22)
        with (folder / name).open("rb", buffering=0) as file:
            while size := file.readinto(piece):
                checksum = zlib.crc32(memoryview(piece)[:size], checksum)
        return checksum

    if not names:
        return {}
    with ThreadPoolExecutor(min(8, len(names))) as pool:
        return dict(zip(names, pool.map(of, names), strict=True))


def _remove(folder: Path) -> None:
    if folder.is_symlink():  # of `best`, half-way to its name
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
