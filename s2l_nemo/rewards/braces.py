r"""Arguments of TeX commands that stand without braces: `\frac\pi2`, `x^\frac12`, `\sqrt\pi`, `2^-1`."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\s+|.", re.DOTALL)
_ARGUMENTS = {r"\frac": 2, r"\binom": 2, r"\sqrt": 1}
# `\\frac{1}{2}` and `\\sqrt{2}` have all their braces.
_NEEDED = re.compile(r"\\(?:frac|binom)(?!\{[^{}]*\}\{)(?![A-Za-z])|\\sqrt(?!\{)(?![A-Za-z])|[\^_]\s*[\\-]")
_MARKS = (r"\circ", r"\prime", r"\degree", r"\text", r"\mathrm")  # a raised mark, not an argument
_MAX_DEPTH = 60


class _IncompleteError(Exception):
    """An argument or a bracket is missing, or the nesting is too deep."""


def brace_arguments(text: str) -> str:
    """The text with braces around every argument. Text that lacks an argument or a brace comes back as it is."""
    if not _NEEDED.search(text):
        return text
    try:
        return _Reader(_TOKEN.findall(text)).whole()
    except _IncompleteError:
        return text


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def whole(self) -> str:
        parts = []
        while self._at < len(self._tokens):
            parts.append(self._item())
        return "".join(parts)

    def _next(self) -> str:
        if self._at >= len(self._tokens):
            raise _IncompleteError
        self._at += 1
        return self._tokens[self._at - 1]

    def _peek(self) -> str:
        """The next token that is no space, which stays to be read."""
        while self._at < len(self._tokens) and self._tokens[self._at].isspace():
            self._at += 1
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _until(self, closing: str) -> str:
        parts = []
        while (token := self._next()) != closing:
            self._at -= 1
            parts.append(self._item())
        return "".join(parts) + token

    def _item(self) -> str:
        """One token with its arguments, or one group."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _IncompleteError
        token = self._next()
        if token == "{":
            token += self._until("}")
        elif token == r"\sqrt" and self._peek() == "[":
            self._at += 1
            token += "[" + self._until("]") + self._argument()
        elif token in _ARGUMENTS:
            token += "".join(self._argument() for _ in range(_ARGUMENTS[token]))
        elif token in ("^", "_"):
            token += self._raised()
        self._depth -= 1
        return token

    def _argument(self) -> str:
        following = self._peek()
        if following in ("", "}"):
            raise _IncompleteError
        return self._item() if following == "{" else "{" + self._item() + "}"

    def _raised(self) -> str:
        following = self._peek()
        if following.startswith("\\") and len(following) > 2 and following not in _MARKS:
            return "{" + self._item() + "}"
        if following != "-":
            return ""
        self._at += 1
        digits = "".join(self._digits())
        return "{-" + (digits or self._item()) + "}"

    def _digits(self) -> list[str]:
        start = self._at
        while self._at < len(self._tokens) and self._tokens[self._at].isdigit():
            self._at += 1
        return self._tokens[start : self._at]
