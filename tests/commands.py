"""Commands as users type them: in a process of their own, or here, where torch and Transformers are imported."""

from __future__ import annotations

import io
import os
import runpy
import signal
import subprocess
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


def run_process(*arguments: object, environment: dict[str, str] | None = None) -> Done:
    """Runs `python arguments...` with these variables besides those of this process."""
    command = [sys.executable, *map(str, arguments)]
    variables = os.environ | (environment or {})
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=600, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def run_here(script: str, *arguments: object, inside: Path = ROOT) -> Done:
    """Runs `python script arguments...` in a folder. All that is of the process is put back: working folder, arguments,
    environment, signal handlers."""
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
            os.chdir(inside)
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as end:
            code = end.code
        finally:
            os.chdir(folder)
            for signum, handler in handlers.items():
                signal.signal(signum, handler)
    assert code is None or isinstance(code, int)
    return Done(code or 0, out.getvalue(), err.getvalue())
