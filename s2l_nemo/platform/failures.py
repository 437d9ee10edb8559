"""What a rank says when it fails, in one line where a person can mend it, and which of several failures came first."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec

from s2l_nemo.errors import UserError, let_any_text_be_printed, system_refusal

Arguments = ParamSpec("Arguments")

CRASHED = 1  # exit code: nobody knows what to do about it, but starting again may help
USER_ERROR = 2  # exit code of a run that a mistake of the user has ended, or the disk
# How libraries say that another rank has gone: Gloo, NCCL, torch's store.
SIGNS_OF_AFTERMATH = (
    "gloo/transport",
    "Connection closed by peer",
    "Connection reset by peer",
    "NCCL error",
    "Broken pipe",
)

SIGN_OF_HALF_A_FILE = "inline_container.cc"  # torch's writer of archives, which keeps the reason to itself


@dataclass(frozen=True)
class Failure:
    """How a rank has ended: exit code, what to print, and whether the end of another rank is what it tells of."""

    code: int
    text: str = ""
    aftermath: bool = False


def command(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """Makes a function that returns an exit code say in one line what a person can mend, and return 2 then."""

    @wraps(main)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
        let_any_text_be_printed()
        try:
            return main(*args, **kwargs)
        except Exception as error:
            line = str(error) if isinstance(error, UserError) else about_files(error)
            if line is None:
                raise
        print(f"error: {line}", file=sys.stderr)
        return USER_ERROR

    return run


def attempt(main: Callable[[], None]) -> Failure | None:
    """Runs `main`. Returns how it failed, None if it did not. An exit with a code and no words has no text."""
    try:
        main()
    except UserError as error:
        return Failure(USER_ERROR, f"error: {error}")
    except SystemExit as end:
        return Failure(end.code if isinstance(end.code, int) else CRASHED) if end.code else None
    except BaseException as error:
        line = about_files(error)
        if line is not None:
            return Failure(USER_ERROR, f"error: {line}; run the same command to continue")
        text = f"rank {os.environ.get('RANK', '0')} failed:\n{traceback.format_exc()}"
        return Failure(CRASHED, text, _is_aftermath(error))
    return None


def about_files(error: BaseException) -> str | None:
    """One line for a file that cannot be read or written, if that is what an exception comes from; None otherwise.

    Libraries wrap the OSError in errors of their own, and threads of a checkpoint hand over several at once.
    """
    for cause in _causes(error):
        if isinstance(cause, OSError) and (line := system_refusal(cause)) is not None:
            return line
    if any(SIGN_OF_HALF_A_FILE in str(cause) for cause in _causes(error)):
        return "a checkpoint file could not be written to its end: free some space, or raise the quota or ulimit -f"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and all that it was raised from, each once."""
    seen: set[int] = set()
    rest = [error]
    while rest:
        one = rest.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        rest += [one.__cause__] if one.__cause__ is not None else []
        # a file that could not be written is closed, which fails again
        rest += [one.__context__] if one.__context__ is not None and SIGN_OF_HALF_A_FILE in str(one) else []
        # torch's CheckpointException maps ranks to pairs of an exception and its traceback
        failures = getattr(one, "failures", None)
        if isinstance(failures, dict):
            rest += [pair[0] for pair in failures.values() if isinstance(pair, tuple)]
        rest += [argument for argument in one.args if isinstance(argument, BaseException)]


def _is_aftermath(error: BaseException) -> bool:
    """Whether the end of another rank has caused this error."""
    return isinstance(error, RuntimeError | ConnectionError) and any(sign in str(error) for sign in SIGNS_OF_AFTERMATH)
