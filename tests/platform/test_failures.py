"""What a rank says at its end: one line where a person can mend it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from s2l_nemo.errors import UserError
from s2l_nemo.platform.failures import CRASHED, REMEDIES, USER_ERROR, Failure, about_files, attempt


def raised(error: BaseException) -> Failure | None:
    def main() -> None:
        raise error

    return attempt(main)


def test_how_ranks_end() -> None:
    assert attempt(lambda: None) is None
    assert raised(SystemExit(0)) is None
    assert raised(SystemExit(None)) is None
    assert raised(SystemExit(143)) == Failure(143)
    assert raised(SystemExit("words")) == Failure(CRASHED)
    assert raised(UserError("x=1 is wrong; set it")) == Failure(USER_ERROR, "error: x=1 is wrong; set it")
    crash = raised(KeyError("lost"))
    assert crash is not None
    assert (crash.code, crash.aftermath) == (CRASHED, False)
    assert crash.text.startswith("rank 0 failed:\nTraceback")


@pytest.mark.parametrize("number", REMEDIES, ids=lambda number: errno.errorcode[number])
def test_r06_what_is_wrong_with_a_file_is_one_line(number: int) -> None:
    failure = raised(OSError(number, os.strerror(number), "/runs/x"))
    line = f"error: /runs/x: {os.strerror(number)}: {REMEDIES[number]}; run the same command to continue"
    assert failure == Failure(USER_ERROR, line)


def test_a_real_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        (tmp_path / "no" / "such").write_text("")
    assert about_files(caught.value) == (
        f"{tmp_path}/no/such: No such file or directory: see whether someone has moved or removed it"
    )


class CheckpointException(Exception):
    """As that of torch: exceptions of ranks with their tracebacks."""

    def __init__(self, failures: dict[int, tuple[BaseException, object]]) -> None:
        super().__init__("CheckpointException ranks:dict_keys([0])", failures)
        self.failures = failures


def test_an_error_of_a_file_that_a_library_has_wrapped() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = RuntimeError("Worker failure")
    wrapped.__cause__ = full
    for error in (wrapped, RuntimeError("failed", full), CheckpointException({0: (wrapped, None)})):
        assert about_files(error) == "No space left on device: free some space"


def test_torchs_archives_keep_the_reason_to_themselves() -> None:
    closing = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")
    assert about_files(closing) == (
        "a checkpoint file could not be written to its end: free some space, or raise the quota or ulimit -f"
    )
    closing.__context__ = OSError(errno.ENOSPC, "No space left on device")
    wrapped = RuntimeError("Worker failure")
    wrapped.__cause__ = closing
    assert about_files(wrapped) == "No space left on device: free some space"


def test_what_is_not_about_files_keeps_its_traceback() -> None:
    circle = RuntimeError("a")
    circle.__cause__ = RuntimeError("b", circle)
    while_handling = KeyError("a bug")
    while_handling.__context__ = OSError(errno.ENOENT, "No such file", "/optional")
    for error in (circle, while_handling, OSError("without a number"), OSError(errno.ECHILD, "No child processes")):
        assert about_files(error) is None


@pytest.mark.parametrize(
    ("error", "aftermath"),
    [
        (RuntimeError("[/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:9"), True),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), True),
        (RuntimeError("shapes do not fit"), False),
        (KeyError("Broken pipe"), False),
    ],
)
def test_what_the_loss_of_another_rank_looks_like(error: BaseException, aftermath: bool) -> None:
    failure = raised(error)
    assert failure is not None
    assert failure.aftermath == aftermath
