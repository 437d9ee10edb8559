"""An engine in a process of its own: `python -m s2l_nemo.engines.served.server`, started and watched by `process`.

Its setup is one JSON object on standard input. Standard output gets one line once the model is loaded and the server
listens, {"port": n}, or {"error": "..."}; everything else that the engine prints goes to standard error, a log file.

What it answers is in `endpoints`. This module imports next to nothing, for the supervisor that it forks from.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from typing import Any

from s2l_nemo.engines.served.supervisor import supervise


def main() -> int:
    status = supervise()
    return serve() if status is None else status


def serve() -> int:
    """Loads the engine that standard input asks for and answers until /close."""
    answers = _take_over_output()
    setup = json.loads(sys.stdin.buffer.readline())
    try:
        engine = make_hosted_engine(setup)
    except BaseException as error:  # whatever it is, the trainer is told, and shows it
        traceback.print_exc()
        text = str(error) if type(error).__name__ == "UserError" else f"{type(error).__name__}: {error}"
        _answer(answers, {"error": " ".join(text.split())[:1000]})
        return 1
    from s2l_nemo.engines.served.endpoints import EngineServer
    from s2l_nemo.engines.served.host import EngineHost

    gc.freeze()  # what has been imported is never looked through again, which makes the end six times as fast
    host = EngineHost(engine)
    server = EngineServer(host, setup["token"])
    server.start()
    _answer(answers, {"port": server.port})
    host.run()  # here, because some engines want the main thread
    return 0


def make_hosted_engine(setup: dict[str, Any]) -> Any:
    """The engine of a setup; imports only what its kind needs."""
    import torch

    from s2l_nemo.types import Source

    source = Source[setup["role"].upper()]
    if setup["kind"] == "tensorrt_llm":
        from s2l_nemo.engines.tensorrt_llm.engine import TensorRTExplorer, TensorRTLearner

        adapter = TensorRTLearner if source is Source.LEARNER else TensorRTExplorer
        return adapter(
            setup["path"],
            source=source,
            dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[setup["dtype"]],
            tensor_parallel_size=setup["tensor_parallel_size"],
            max_batch_rows=setup["max_batch_rows"],
            max_sequence_length=setup["max_sequence_length"],
            memory_fraction=setup["memory_fraction"],
        )

    from s2l_nemo.config.schema import Precision
    from s2l_nemo.engines.build import make_engine
    from s2l_nemo.engines.embedded.engine import EmbeddedEngine, EmbeddedLearnerEngine
    from s2l_nemo.models.open import open_model

    return make_engine(
        EmbeddedLearnerEngine if source is Source.LEARNER else EmbeddedEngine,
        open_model(setup["key"], setup["path"]),
        source=source,
        device=torch.device(setup["device"]),
        precision=Precision(setup["dtype"]),
        max_batch_rows=setup["max_batch_rows"],
    )


def _take_over_output() -> int:
    """Standard output on a descriptor of its own: what the engine prints goes to the log."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def _answer(answers: int, message: dict[str, Any]) -> None:
    os.write(answers, json.dumps(message).encode() + b"\n")
    os.close(answers)


if __name__ == "__main__":
    sys.exit(main())
