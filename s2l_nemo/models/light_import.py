"""Imports Transformers without scikit-learn and scipy, which it would import and nothing here uses."""

from __future__ import annotations

import sys

_UNUSED = ("scipy", "sklearn")


def import_transformers() -> None:
    """Imports `transformers` as if scikit-learn and scipy were not installed. Call it before anything else imports it.

    Transformers looks once which packages are there. It would import these two for assisted generation and for losses
    of object detection, and every process that loads a model would wait for them.
    """
    if "transformers" in sys.modules:
        return
    hidden = [name for name in _UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is Python's own sign of no such module
    try:
        import transformers  # noqa: F401  for its look at what is installed
    finally:
        for name in hidden:
            del sys.modules[name]
