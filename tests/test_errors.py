"""What a user sees of an error: one line, with what to do."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.errors import OTHERWISE, REMEDIES, UserError, system_refusal


def refused(act: Callable[[], object]) -> str | None:
    with pytest.raises(OSError) as caught:
        act()
    return system_refusal(caught.value)


def test_real_refusals(tmp_path: Path) -> None:
    file, folder, circle = tmp_path / "file", tmp_path / "folder", tmp_path / "circle"
    file.touch()
    folder.mkdir()
    (folder / "one").touch()
    circle.symlink_to(circle)
    long = tmp_path / ("x" * 256)
    missing = tmp_path / "missing"
    assert refused(folder.read_bytes) == f"{folder}: Is a directory: {REMEDIES[errno.EISDIR]}"
    assert refused(lambda: os.mkdir(file)) == f"{file}: File exists: {REMEDIES[errno.EEXIST]}"
    assert refused(folder.rmdir) == f"{folder}: Directory not empty: {REMEDIES[errno.ENOTEMPTY]}"
    assert refused((file / "a").read_bytes) == f"{file}/a: Not a directory: {REMEDIES[errno.ENOTDIR]}"
    assert refused(circle.read_bytes) == (f"{circle}: Too many levels of symbolic links: {REMEDIES[errno.ELOOP]}")
    assert refused(long.read_bytes) == f"{long}: File name too long: {REMEDIES[errno.ENAMETOOLONG]}"
    assert refused(lambda: os.open(os.fsencode(missing), os.O_RDONLY)) == (
        f"{missing}: No such file or directory: {REMEDIES[errno.ENOENT]}"
    )
    assert refused(lambda: os.replace(file, folder)) == (
        f"{file} -> {folder}: Is a directory: {REMEDIES[errno.EISDIR]}"
    )
    assert refused(file.readlink) == f"{file}: Invalid argument: {OTHERWISE}"


def test_what_names_no_file_and_is_in_no_table_is_none() -> None:
    of_a_number = OSError(errno.EINVAL, "Invalid argument", 3)  # a descriptor
    http = HTTPError("http://x", 500, "down", None, None)  # type: ignore[arg-type]
    for error in (
        of_a_number, http, OSError("words"), OSError(errno.ECHILD, "No child processes"),
        socket.gaierror(-2, "unknown"), BrokenPipeError(errno.EPIPE, "Broken pipe", "/x"), TimeoutError("late"),
    ):  # fmt: skip
        assert system_refusal(error) is None
    assert system_refusal(OSError(errno.EMFILE, "Too many open files")) == (
        "Too many open files: raise the limit of open files (ulimit -n)"
    )


@given(st.sampled_from([*errno.errorcode]), st.text(min_size=1) | st.binary(min_size=1))
def test_any_refusal_that_names_a_file_is_one_printable_line(number: int, name: str | bytes) -> None:
    error = OSError(number, os.strerror(number), name)
    line = system_refusal(error)
    assert (line is None) == isinstance(error, ConnectionError)
    assert line is None or (line.isprintable() and REMEDIES.get(number, OTHERWISE) in line)


def test_a_mistake_is_one_line() -> None:
    assert str(UserError("a\nb\x1b[2J" + "c" * 3000)).startswith("a b\\x1b[2Jccc")
    assert len(str(UserError("c" * 3000))) < 2100
