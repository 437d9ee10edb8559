from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from s2l_nemo.records.checkpoints import (
    MARKER,
    Checkpoint,
    complete_checkpoints,
    fault,
    latest_checkpoint,
    prune_checkpoints,
    publish_checkpoint,
    set_aside,
    unfit_checkpoints,
)

P = ParamSpec("P")
T = TypeVar("T")


def publish(checkpoints: Path, step: int, content: str = "weights") -> None:
    tmp = checkpoints / f".tmp-step_{step:06d}"
    (tmp / "shards").mkdir(parents=True)
    (tmp / "shards" / "0.bin").write_text(content)
    (tmp / "state.json").write_text("{}")
    publish_checkpoint(tmp, checkpoints / f"step_{step:06d}")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_publish_writes_a_marker_with_step_and_sizes(tmp_path: Path) -> None:
    publish(tmp_path, 3)
    path = tmp_path / "step_000003"
    marker = json.loads((path / "COMPLETE.json").read_text())
    checksums = {"shards/0.bin": zlib.crc32(b"weights"), "state.json": zlib.crc32(b"{}")}
    assert marker == {"step": 3, "files": {"shards/0.bin": 7, "state.json": 2}, "crc32": checksums}
    assert names(tmp_path) == ["step_000003"]
    assert latest_checkpoint(tmp_path) == Checkpoint(3, path)


def test_order_is_that_of_steps(tmp_path: Path) -> None:
    for step in (10, 9, 1_000_000):
        publish(tmp_path, step)
    assert [step for step, _ in complete_checkpoints(tmp_path)] == [9, 10, 1_000_000]


def test_no_folder_no_checkpoint(tmp_path: Path) -> None:
    assert complete_checkpoints(tmp_path / "none") == []
    assert latest_checkpoint(tmp_path / "none") is None


def damage_marker(path: Path) -> None:
    (path / "COMPLETE.json").unlink()


def damage_size(path: Path) -> None:
    (path / "shards" / "0.bin").write_text("wei")


def damage_missing(path: Path) -> None:
    (path / "state.json").unlink()


def damage_name(path: Path) -> None:
    path.rename(path.with_name("step_000007"))


def damage_marker_text(path: Path) -> None:
    (path / "COMPLETE.json").write_text("")


def damage_marker_content(path: Path) -> None:
    (path / "COMPLETE.json").write_text('{"step": 2, "files": 7}')


DAMAGES = [damage_marker, damage_size, damage_missing, damage_name, damage_marker_text, damage_marker_content]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_does_not_count(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    publish(tmp_path, 1)
    publish(tmp_path, 2)
    damage(tmp_path / "step_000002")
    assert [step for step, _ in complete_checkpoints(tmp_path)] == [1]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_size, "shards/0.bin has 3 bytes, 7 were written"),
        (damage_missing, "state.json is missing"),
        (damage_marker_text, "COMPLETE.json is damaged"),
        (damage_marker_content, "COMPLETE.json is damaged"),
    ],
)
def test_r05_what_was_complete_and_is_not_is_named(tmp_path: Path, damage: Callable[[Path], None], reason: str) -> None:
    publish(tmp_path, 1)
    publish(tmp_path, 2)
    assert unfit_checkpoints(tmp_path) == {}
    damage(tmp_path / "step_000002")
    assert unfit_checkpoints(tmp_path) == {tmp_path / "step_000002": f"{tmp_path}/step_000002/{reason}"}


@pytest.mark.parametrize("name", ["shards/0.bin", "state.json"])
def test_a_flipped_bit_is_found_and_the_file_named(tmp_path: Path, name: str) -> None:
    publish(tmp_path, 1)
    checkpoint = Checkpoint(1, tmp_path / "step_000001")
    assert fault(checkpoint) is None
    content = bytearray((checkpoint.path / name).read_bytes())
    content[1] ^= 4
    (checkpoint.path / name).write_bytes(content)
    assert fault(checkpoint) == f"{checkpoint.path / name} holds other bytes than were written"


def test_a_checkpoint_of_an_earlier_version_has_no_checksums(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    marker = tmp_path / "step_000001" / "COMPLETE.json"
    marker.write_text(json.dumps({"step": 1, "files": json.loads(marker.read_text())["files"]}))
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert fault(found) is None


def test_what_is_set_aside_counts_no_more(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    for _ in range(2):
        publish(tmp_path, 2)
        assert set_aside(tmp_path / "step_000002") == tmp_path / "step_000002.damaged"
    assert latest_checkpoint(tmp_path) == (1, tmp_path / "step_000001")
    prune_checkpoints(tmp_path, keep=1)
    assert names(tmp_path) == ["step_000001", "step_000002.damaged"]


def test_r03_the_same_step_is_replaced(tmp_path: Path) -> None:
    publish(tmp_path, 1, "old")
    publish(tmp_path, 1, "newer")
    assert names(tmp_path) == ["step_000001"]
    assert (tmp_path / "step_000001" / "shards" / "0.bin").read_text() == "newer"
    assert latest_checkpoint(tmp_path) == (1, tmp_path / "step_000001")


class Killed(BaseException):
    """Not an Exception: nothing may catch and tidy it, as nothing can after SIGKILL."""


@pytest.mark.parametrize("call", range(40))
def test_r02_a_kill_while_saving_a_step_again_leaves_a_complete_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    publish(tmp_path, 1, "old")
    calls = 0

    def counted(function: Callable[P, T]) -> Callable[P, T]:
        def run(*arguments: P.args, **options: P.kwargs) -> T:
            nonlocal calls
            calls += 1
            if calls > call:
                raise Killed
            return function(*arguments, **options)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", counted(Path.rename))
        patch.setattr(Path, "write_text", counted(Path.write_text))
        patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
        patch.setattr(os, "replace", counted(os.replace))
        patch.setattr(os, "fsync", counted(os.fsync))
        try:
            publish(tmp_path, 1, "newer")
        except Killed:
            pass
        else:
            assert call > 5  # the kill came after the end
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert (found.path / "shards" / "0.bin").read_text() in ("old", "newer")
    # and the next save of that step tidies up
    shutil.rmtree(tmp_path / ".tmp-step_000001", ignore_errors=True)
    publish(tmp_path, 1, "third")
    prune_checkpoints(tmp_path, keep=2)
    assert names(tmp_path) == ["step_000001"]
    assert (tmp_path / "step_000001" / "shards" / "0.bin").read_text() == "third"


@pytest.mark.parametrize(("keep", "kept"), [(0, [1, 2, 3]), (1, [3]), (2, [2, 3]), (5, [1, 2, 3])])
def test_prune_keeps_the_newest(tmp_path: Path, keep: int, kept: list[int]) -> None:
    for step in (1, 2, 3):
        publish(tmp_path, step)
    (tmp_path / ".tmp-step_000004").mkdir()
    shutil.copytree(tmp_path / "step_000003", tmp_path / "step_000003.old")
    prune_checkpoints(tmp_path, keep)
    assert names(tmp_path) == [f"step_{step:06d}" for step in kept]


def test_a_kill_while_pruning_leaves_no_half_checkpoint_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, 1)
    publish(tmp_path, 2)

    def killed(_: Path) -> None:
        raise Killed

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(Killed):
        prune_checkpoints(tmp_path, keep=1)
    assert [step for step, _ in complete_checkpoints(tmp_path)] == [2]


def test_prune_spares_the_only_copy_of_a_step(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    (tmp_path / "step_000001").rename(tmp_path / "step_000001.old")
    prune_checkpoints(tmp_path, keep=1)
    assert latest_checkpoint(tmp_path) == (1, tmp_path / "step_000001.old")


@pytest.mark.parametrize("name", ["../precious", "/etc/passwd", "", ".", "a\0b"])
def test_a_marker_that_names_files_elsewhere_is_damaged(tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").write_text("1")
    folder = tmp_path / "step_000001"
    folder.mkdir()
    (folder / MARKER).write_text(json.dumps({"step": 1, "files": {name: 1}, "crc32": {name: 5}}))
    assert complete_checkpoints(tmp_path) == []
    assert "damaged" in unfit_checkpoints(tmp_path)[folder]
