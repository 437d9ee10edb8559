"""The error that a user sees. Apart from `types` so that reading a config does not import torch."""

LONGEST = 2000  # characters of a message; a list of names may be long, a value of a damaged file may be anything


class UserError(ValueError):
    """A mistake of the user: one line that says what is wrong, the value, and what to do. Shown without a traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(message: str) -> str:
    """A text that may hold values of a stranger as one line for a terminal.

    Line breaks become spaces. What does not print, such as the escapes that move a cursor, is written out. The middle
    of a very long text is left out: its begin names the place, its end says what to do.
    """
    text = " ".join(message.splitlines())
    if not text.isprintable():
        text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST * 3 // 4]} ... {text[-LONGEST // 4 :]}"
    return text
