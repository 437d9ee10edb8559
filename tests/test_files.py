"""Files are whole or as they were, and a refusal names the path that a person has given."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from s2l_nemo.errors import REMEDIES, system_refusal
from s2l_nemo.files import check_writable, replacing, write_text_atomic


def test_a_refusal_names_the_path_and_not_the_temporary_one(tmp_path: Path) -> None:
    folder, missing = tmp_path / "folder", tmp_path / "missing" / "file"
    folder.mkdir()
    for path, number, words in (
        (folder, errno.EISDIR, "Is a directory"),
        (missing, errno.ENOENT, "No such file or directory"),
    ):
        with pytest.raises(OSError) as caught:
            write_text_atomic(path, "text")
        assert system_refusal(caught.value) == f"{path}: {words}: {REMEDIES[number]}"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_refusal_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    other = tmp_path / "other"
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "file"):
        other.read_bytes()
    assert caught.value.filename == str(other)
    assert not any(tmp_path.iterdir())


def test_what_cannot_be_written_is_found_without_writing(tmp_path: Path) -> None:
    file, circle, dangling = tmp_path / "file", tmp_path / "circle", tmp_path / "dangling"
    file.touch()
    circle.symlink_to(circle)
    dangling.symlink_to(tmp_path / "missing")
    for path, existing, number in (
        (file / "a", file, errno.ENOTDIR),
        (circle / "a" / "b", circle, errno.ENOENT),
        (dangling, dangling, errno.ENOENT),
    ):
        with pytest.raises(OSError) as caught:
            check_writable(path)
        assert (caught.value.errno, caught.value.filename) == (number, str(existing))
    check_writable(tmp_path / "a" / "b")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "circle", "dangling"}
