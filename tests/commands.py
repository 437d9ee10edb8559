"""Commands as users type them, but in the process of the tests, which has imported torch and Transformers already."""

from __future__ import annotations

import io
import os
import runpy
import signal
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from s2l_nemo.platform.launch import STOP_SIGNALS

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Done:
    """How a command ended, as in `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def run_here(script: str, *arguments: object) -> Done:
    """Runs `python script arguments...`. Working folder, arguments, environment and signal handlers are put back."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    folder, code = Path.cwd(), None
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ))
        stack.enter_context(mock.patch.object(sys, "argv", [script, *map(str, arguments)]))
        stack.enter_context(mock.patch.object(sys, "path", [*sys.path]))
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        try:
            os.chdir(ROOT)
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            code = end.code
        finally:
            os.chdir(folder)
            for signum, handler in handlers.items():
                signal.signal(signum, handler)
    assert code is None or isinstance(code, int)
    return Done(code or 0, out.getvalue(), err.getvalue())
