"""Every command of README.md and docs/ with a mistake in any one argument, as a new user makes it: one line, code 2.

A command has begun to work when it first starts a process, opens a connection, writes outside of temporary files or
has computed for some seconds. Nothing here lets it. All mistakes are tried with `DOCUMENTED=all`, a sample of them
otherwise.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from s2l_nemo.data.benchmarks import BENCHMARKS
from s2l_nemo.toy_worlds.publish import FACTS
from tests.character_tokenizer import TEMPLATE
from tests.commands import Done, run_here
from tests.distributed.models import write_qwen3
from tests.documented import NOWHERE, PAGES, ROOT, Command, Kind, Mistake, commands_of, documented, mistakes, swapped

SAMPLE = 40
WORK_S = 8.0  # of processor time; a check takes less
COMMANDS = [command for command in documented() if command.program != "make"]
ALL = [mistake for command in COMMANDS for mistake in mistakes(command)]
SHOWN = COMMANDS if os.environ.get("DOCUMENTED") == "all" else Random(5).sample(COMMANDS, SAMPLE // 4)
TRIED = ALL if os.environ.get("DOCUMENTED") == "all" else Random(5).sample(ALL, SAMPLE)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_STARTS = frozenset({
    "subprocess.Popen", "os.fork", "os.posix_spawn", "os.system", "socket.connect", "socket.getaddrinfo", "os.mkdir",
    "os.rename", "os.remove", "os.rmdir",
})  # fmt: skip
_MAY_WRITE = ("/dev/", "/proc/", tempfile.gettempdir(), str(Path.home()))  # and caches of libraries


class WorkBeganError(BaseException):
    """No Exception, so that no command takes it for one of its own errors."""


@dataclass
class Watch:
    """Ends what a command does with the first deed that leaves a trace."""

    on: bool = False
    inside: str = ""

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        path = os.path.abspath(os.fsdecode(arguments[0])) if arguments and isinstance(arguments[0], str | bytes) else ""
        ours = path.startswith(self.inside)
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITES):
            return
        if event in _STARTS or event == "open":
            if path and not ours and path.startswith(_MAY_WRITE):
                return
            self.on = False
            raise WorkBeganError(f"{event} {path or arguments[:1]}")


WATCH = Watch()
sys.addaudithook(WATCH)


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    def computed(_signum: int, _frame: object) -> None:
        raise WorkBeganError(f"computes for {WORK_S} s")

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())  # a command that is about to fork holds signals back
    signal.signal(signal.SIGPROF, computed)
    signal.setitimer(signal.ITIMER_PROF, WORK_S)
    WATCH.on, WATCH.inside = True, f"{folder}/"
    try:
        yield
    finally:
        WATCH.on = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def tried(folder: Path, program: str, arguments: tuple[str, ...]) -> Done | str:
    """How a command ended, or with what it began to work. Raises whatever it raises: a user would see a traceback."""
    try:
        with watched(folder):
            return run_here(program, *arguments, inside=folder)
    except WorkBeganError as began:
        return str(began)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone as the pages take it to be: models, data and benchmarks under the names that they use."""
    home = tmp_path_factory.mktemp("clone")
    (home / "models" / "tiny").mkdir(parents=True)
    (home / "models" / "tiny" / FACTS).write_text('{"key": "of an older recipe", "learner": {}, "explorer": {}}')
    large, small = (
        write_qwen3(home / "models" / "tiny" / "learner", max_position_embeddings=8192),
        write_qwen3(home / "models" / "tiny" / "explorer", seed=1, hidden=32, max_position_embeddings=8192),
    )
    for model in (large, small):  # as the real ones
        settings = json.loads((model / "tokenizer_config.json").read_text())
        (model / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": TEMPLATE}))
    for name, model in (
        ("Qwen3-8B-Base", large),
        ("Qwen3-8B-S2L", large),
        ("Qwen3-1.7B-Base", small),
        ("Qwen3-4B-Base", small),
    ):
        (home / "models" / name).symlink_to(model)
    rows = "".join(f'{{"prompt": "What is {n} + 1?", "question": "{n}?", "answer": "{n + 1}"}}\n' for n in range(100))
    for name in ("dapo_17k/train", "math_500/test", *(f"benchmarks/{name}" for name in BENCHMARKS)):
        (home / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "data" / f"{name}.jsonl").write_text(rows)
    (home / "rollouts.jsonl").write_text('{"prompt": "What is 0 + 1?", "responses": ["1"], "scores": [1]}\n')
    return home


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@functools.cache
def as_shown(folder: Path, command: Command) -> Done | str:
    return tried(folder, command.program, command.arguments)


def line_of(done: Done) -> str:
    """The one line of a refusal."""
    assert done.returncode == 2, done
    (line,) = done.stderr.splitlines()
    assert re.match(r"error: \S", line), line
    assert done.stdout == ""
    return line


@pytest.mark.parametrize("command", SHOWN, ids=str)
def test_a_documented_command_is_understood(folder: Path, command: Command) -> None:
    """It works, begins to, or names a file of its own or of its preset that is not here."""
    outcome = as_shown(folder, command)
    if isinstance(outcome, str) or not outcome.stderr or command.is_part:
        return
    line = line_of(outcome)
    values = [part for argument in command.arguments for part in re.split(r"[=\[\],]", argument) if part]
    values += [word for word in re.split(r"[=\s]", line) if word.startswith("/")]  # of the image, in a preset
    absent = [value for value in values if not (folder / value).exists()]
    assert any(value in line for value in absent), line


@pytest.mark.parametrize("mistake", TRIED, ids=str)
def test_a_mistake_in_one_argument_is_one_line(folder: Path, mistake: Mistake) -> None:
    outcome = tried(folder, mistake.command.program, mistake.arguments)
    if mistake.kind in (Kind.PATH, Kind.EMPTY):
        was_read = mistake.kind is Kind.PATH and (folder / mistake.before).exists()
        if isinstance(outcome, str):
            assert not was_read or NOWHERE in outcome, outcome
            return
        if not outcome.stderr:
            assert not was_read or NOWHERE in outcome.stdout, outcome
            return
        line, shown = line_of(outcome), as_shown(folder, mistake.command)
        if isinstance(shown, Done) and shown.returncode and line == line_of(shown):
            return  # another file of the command is not here
    else:
        assert isinstance(outcome, Done), outcome
        line = line_of(outcome)
    assert any(name in line for name in mistake.named), (mistake.named, line)


def test_every_line_of_a_block_is_a_command() -> None:
    assert sum(1 for page in PAGES for _ in commands_of(page)) > 60
    assert len(COMMANDS) > 50
    assert {mistake.kind for mistake in ALL} == set(Kind)


@pytest.mark.parametrize("target", [command for command in documented() if command.program == "make"], ids=str)
def test_a_documented_target_exists(target: Command) -> None:
    variables = [argument for argument in target.arguments if "=" in argument]
    for name in (argument for argument in target.arguments if "=" not in argument):
        ask = ["make", "--dry-run", "--always-make", name, *variables]
        assert subprocess.run(ask, cwd=ROOT, capture_output=True, timeout=100, check=False).returncode == 0
        typo = subprocess.run(
            ["make", swapped(name)], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
        )
        assert (typo.returncode, typo.stderr.count("\n")) == (2, 1)
        assert swapped(name) in typo.stderr


def test_letters_are_swapped() -> None:
    assert swapped("algorithm.steps") == "algorithm.stesp"
    assert swapped("aa") == "aax"
    assert swapped("bf16") == "fb16" or swapped("bf16") != "bf16"
