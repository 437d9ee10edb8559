"""A double of ray: one cluster that exists or not, with the arguments of `init` and a session folder as the real one.

What `init` and `shutdown` take stands in tensorrt_llm/facts.json.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

started: dict[str, Any] | None = None  # the arguments of the cluster that runs


def init(*args: Any, **kwargs: Any) -> None:
    """Starts a cluster. If one runs, it stays as it is, or RuntimeError is raised without `ignore_reinit_error`."""
    from tensorrt_llm._facts import bind

    global started
    arguments = bind("ray.init", args, kwargs)
    if started is not None:
        if not arguments["ignore_reinit_error"]:
            raise RuntimeError("Maybe you called ray.init twice by accident?")
        return
    started = arguments
    if arguments["_temp_dir"]:
        Path(arguments["_temp_dir"], "session_of_the_double").mkdir(parents=True)


def is_initialized(*args: Any, **kwargs: Any) -> bool:
    from tensorrt_llm._facts import bind

    bind("ray.is_initialized", args, kwargs)
    return started is not None


def cluster_resources() -> dict[str, float]:
    assert started is not None, "Ray has not been started yet"
    return {"CPU": float(started["num_cpus"] or os.cpu_count() or 1)}


def shutdown(*args: Any, **kwargs: Any) -> None:
    """Ends the cluster. Its folder stays, as the real one's does."""
    from tensorrt_llm._facts import bind

    global started
    bind("ray.shutdown", args, kwargs)
    started = None
