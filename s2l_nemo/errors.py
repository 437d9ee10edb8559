"""The error that a user sees. Apart from `types` so that reading a config does not import torch."""


class UserError(ValueError):
    """A mistake of the user: one line that says what is wrong, the value, and what to do. Shown without a traceback."""

    def __init__(self, message: str) -> None:
        # Values of the user may hold line breaks.
        super().__init__(" ".join(message.splitlines()))
