"""An engine in a process of its own: `python -m s2l_nemo.engines.served.server FOLDER`, which `process` starts.

FOLDER takes the engine's temporary files and is removed with it.
Standard input brings one JSON object: {"maker": the name of an EngineMaker, "settings": EngineSettings, "token": ...}.
Standard output gets one line once the model is loaded and the server listens: {"port": n}, or {"error": "..."}.
Everything else that the engine prints goes to standard error, a log file. What the server answers is in `endpoints`.

This module imports next to nothing, for the supervisor that it forks from.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

from s2l_nemo.engines.served.supervisor import supervise
from s2l_nemo.errors import UserError
from s2l_nemo.registry import imported

if TYPE_CHECKING:
    from s2l_nemo.engines.protocol import RolloutEngine

# An engine that does not stream gets this many times as many requests at once as it decodes. Its batch empties at the
# end of each part, so a small number is slow. With a large one more is repeated if the engine is lost.
_WAVES = 8


def main() -> int:
    status = supervise(sys.argv[1])
    return serve() if status is None else status


def serve() -> int:
    """Loads the engine that standard input asks for and answers until /close."""
    answers = _take_over_output()
    message = json.loads(sys.stdin.buffer.readline())
    try:
        engine = make_hosted_engine(message["maker"], message["settings"])
    except BaseException as error:  # whatever it is, the trainer is told, and shows it
        traceback.print_exc()
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        _answer(answers, {"error": " ".join(text.split())[:1000]})
        return 1
    from s2l_nemo.engines.served.endpoints import EngineServer
    from s2l_nemo.engines.served.host import EngineHost

    gc.freeze()  # what has been imported is never looked through again, which makes the end six times as fast
    host = EngineHost(engine, _WAVES * int(message["settings"]["max_batch_rows"]))
    server = EngineServer(host, message["token"])
    server.start()
    _answer(answers, {"port": server.port})
    host.run()  # here, because some engines want the main thread
    return 0


def make_hosted_engine(maker: str, settings: dict[str, Any]) -> RolloutEngine:
    """The engine of these settings, a LearnerEngine if they ask for the learner's. Imports only what its maker needs.

    `maker` is the name of an EngineMaker, `package.module:name`.
    """
    from s2l_nemo.engines.settings import EngineSettings
    from s2l_nemo.models.open import open_model
    from s2l_nemo.types import Source

    parsed = EngineSettings.from_json(settings)
    model, make = open_model(parsed.key, parsed.path), imported(maker)
    made = make.learner if parsed.source is Source.LEARNER else make.explorer
    engine: RolloutEngine = made(parsed, model)
    return engine


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
