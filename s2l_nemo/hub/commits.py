"""The commits that this process has taken from the hub.

They are kept in its environment. So the processes that it starts, ranks and engine servers, take the same ones and need
not ask the hub again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

VARIABLE = "S2L_NEMO_HUB_COMMITS"


def commits() -> dict[str, str]:
    """Commit by name, as in `HubName.pin`."""
    found: dict[str, str] = json.loads(os.environ.get(VARIABLE, "{}"))
    return found


def pin(taken: Mapping[str, str]) -> None:
    """Makes this process, and those that it starts, take these commits. Raises ValueError for what are none."""
    if not isinstance(taken, Mapping) or not all(isinstance(one, str) for pair in taken.items() for one in pair):
        raise ValueError(f"{taken!r:.80} are no commits by name")
    if taken:
        os.environ[VARIABLE] = json.dumps(commits() | dict(taken), sort_keys=True)
