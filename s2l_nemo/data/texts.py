"""What a text may hold."""

from __future__ import annotations


def check_text(text: str, key: str) -> None:
    """Raises ValueError if `text` cannot be stored or tokenised: NUL characters, halves of surrogate pairs."""
    if "\0" in text:
        raise ValueError(f"{key!r} holds a NUL character; correct or remove the row")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{key!r} holds half of a surrogate pair at character {error.start + 1}, which is no text; correct or "
            "remove the row"
        ) from error
