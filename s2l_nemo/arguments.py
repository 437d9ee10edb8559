"""Options of commands: a mistake is one line that names it, as with keys."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from s2l_nemo.errors import UserError

NO_TEXT = "holds bytes that are no text in UTF-8: rename what it names"
_NUMBER = re.compile(r"-\d+(\.\d+)?")


class Parser(argparse.ArgumentParser):
    """argparse's, without abbreviations and without its lines of usage before a message. The exit code is 2."""

    def __init__(self, description: str | None) -> None:
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def parse_known_args(  # type: ignore[override]  # typeshed's overloads say no more
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """As argparse's, but an unknown option is named first: argparse would ask for the one that was meant."""
        args = sys.argv[1:] if args is None else args
        for argument in args:
            if not is_text(argument):
                self.error(f"{argument!a} {NO_TEXT}")
            name = argument.partition("=")[0]
            if name == "--":
                break
            if name.startswith("-") and not _NUMBER.fullmatch(name) and name not in self._option_string_actions:
                near = difflib.get_close_matches(name, self._option_string_actions, n=1)
                self.error(f"unknown option {name}{f': did you mean {near[0]}?' if near else ''}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Ends the command."""
        self.exit(2, f"error: {' '.join(message.split())}; --help lists what there is\n")


def is_text(argument: str) -> bool:
    """Whether it can be written: Python hands over other bytes of a command line as halves of surrogate pairs."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def at_home(text: str) -> str:
    """A path whose `~` or `~user` at its start is replaced by that home. Raises UserError if there is no such home."""
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise UserError(f"{text}: {text.partition('/')[0]} has no home folder: write the path out")
    return expanded


def name_or_path(text: str) -> str:
    """`type=` of an option that takes a path or the name of something elsewhere."""
    if not text:  # an unset variable of a shell; as a path it would be the working directory
        raise argparse.ArgumentTypeError("is empty: give a path")
    try:
        return at_home(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def a_path(text: str) -> Path:
    """`type=` of an option that takes a path."""
    return Path(name_or_path(text))
