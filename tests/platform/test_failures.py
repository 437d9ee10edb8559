"""What a rank says at its end: one line where a person can mend it."""

from __future__ import annotations

import ast
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from s2l_nemo.errors import REMEDIES, UserError
from s2l_nemo.platform.failures import CRASHED, USER_ERROR, Failure, about_files, attempt, command

ROOT = Path(__file__).resolve().parents[2]


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
    assert about_files(caught.value) == (f"{tmp_path}/no/such: No such file or directory: {REMEDIES[errno.ENOENT]}")


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
        assert about_files(error) == f"No space left on device: {REMEDIES[errno.ENOSPC]}"


def test_torchs_archives_keep_the_reason_to_themselves() -> None:
    closing = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")
    assert about_files(closing) == (
        "a checkpoint file could not be written to its end: free some space, or raise the quota or ulimit -f"
    )
    closing.__context__ = OSError(errno.ENOSPC, "No space left on device")
    wrapped = RuntimeError("Worker failure")
    wrapped.__cause__ = closing
    assert about_files(wrapped) == f"No space left on device: {REMEDIES[errno.ENOSPC]}"


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


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("x=1 is wrong; set it"), "x=1 is wrong; set it"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/out"), f"/out: Is a directory: {REMEDIES[errno.EISDIR]}"),
        (RuntimeError("wrapped", OSError(errno.EIO, "I/O", "/x")), f"/x: I/O: {REMEDIES[errno.EIO]}"),
    ],
)
def test_a_command_says_what_a_person_can_mend(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def fails() -> int:
        raise error

    assert fails() == USER_ERROR
    assert capsys.readouterr() == ("", f"error: {line}\n")


@pytest.mark.parametrize("error", [KeyError("a bug"), OSError(errno.ECHILD, "No child processes"), SystemExit(3)])
def test_a_command_raises_all_else(error: BaseException) -> None:
    @command
    def fails() -> int:
        raise error

    with pytest.raises(type(error)) as caught:
        fails()
    assert caught.value is error


def test_a_command_returns_its_own_code_and_keeps_its_name() -> None:
    @command
    def main(argv: list[str], *, more: int) -> int:
        """What it does."""
        return len(argv) + more

    assert main(["a", "b"], more=1) == 3
    assert (main.__name__, main.__doc__) == ("main", "What it does.")


@pytest.mark.parametrize("name", ["command", "run_command"])
@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "\u00fc \\ud800"), ("ascii", r"\xfc \ud800")])
def test_text_that_the_terminal_cannot_show_is_escaped(name: str, encoding: str, shown: str) -> None:
    program = (
        "from s2l_nemo.models.checkpoints.command import run_command\n"
        "from s2l_nemo.platform.failures import command\n"
        "def main(): print('\\xfc \\ud800'); return 0\n"
        f"{'command(main)()' if name == 'command' else 'run_command(main)'}"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert done.stdout.decode(encoding) == f"{shown}\n"


# run_command is the same for conversions, which also leave nothing behind when a signal ends them
IN_ONE_LINE = {"command", "run_command"}
SCRIPTS = sorted({*ROOT.glob("recipes/*.py"), *ROOT.glob("tools/*.py")} - {ROOT / "tools" / "image_check.py"})


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_command_for_users_is_one(path: Path) -> None:
    """What its last line calls is `run_command`, or is marked with `command`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    marked = {
        one.name
        for one in tree.body
        if isinstance(one, ast.FunctionDef)
        and any(isinstance(mark, ast.Name) and mark.id in IN_ONE_LINE for mark in one.decorator_list)
    }
    last = ast.unparse(tree.body[-1]).splitlines()[-1].strip()
    called = last.removeprefix("sys.exit(").partition("(")[0]
    assert called in marked | {"run_command"}, last
