"""What the conversion commands share: checks of arguments, a progress bar, errors on one line."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from s2l_nemo.errors import UserError, let_any_text_be_printed, system_refusal
from s2l_nemo.models.formats.dtypes import BFLOAT16, FLOAT16, FLOAT32
from s2l_nemo.models.formats.output import Output, check_output, new_output

DTYPES = {"bf16": BFLOAT16, "fp16": FLOAT16, "fp32": FLOAT32}
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def run_command(command: Callable[[], int]) -> int:
    """The exit code of a command: 2 and one line for a mistake of the user or what the system refuses, 128 + n for a
    signal.
    """

    def interrupt(signum: int, _frame: object) -> None:
        raise SystemExit(128 + signum)

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, interrupt)
    let_any_text_be_printed()
    try:
        return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        line = system_refusal(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 2
    except MemoryError:
        print("error: memory ran out: free some and try again", file=sys.stderr)
        return 2
    except SystemExit as end:
        if isinstance(end.code, int) and end.code > 128:
            print("interrupted: no output was written", file=sys.stderr)
        raise


def check_paths(source: Path, output: Path, *, tar: bool, force: bool) -> None:
    """Raises UserError if the output may not be written, before anything is read."""
    # unlike Path.resolve, which raises RuntimeError for links that lead in a circle (before Python 3.13)
    inside, outside = (Path(os.path.realpath(path)) for path in (output, source))
    if inside == outside or outside in inside.parents or inside in outside.parents:
        raise UserError(f"--output {output} and --input {source} overlap: choose an output beside the input")
    check_output(output, tar=tar, force=force)


def parse_size(text: str) -> int:
    """Bytes of `5GB`, `200MB`, ... Raises argparse's error for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|KB|MB|GB)", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give for instance 5GB")
    return size


def write_output(
    path: Path, files: Mapping[str, int], write: Callable[[Output], None], *, tar: bool, force: bool
) -> None:
    """Runs `write` with a progress bar, all or nothing, and says what was written and how fast."""
    started = time.perf_counter()
    with (
        byte_progress(f"writing {path.name}", sum(files.values())) as progress,
        new_output(path, files, tar=tar, force=force, progress=progress) as output,
    ):
        write(output)
    seconds, size = time.perf_counter() - started, sum(files.values())
    print(f"wrote {path}: {len(files)} files, {decimal(size)} in {seconds:.1f} s ({decimal(int(size / seconds))}/s)")


@contextmanager
def byte_progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar of bytes, rate and time left on standard error; yields the function that is told of more bytes."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
               TimeRemainingColumn())  # fmt: skip
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)
