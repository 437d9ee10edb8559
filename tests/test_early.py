"""Mistakes that need no model are one line, code 2, before any heavy package is imported, and leave nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from tests.commands import ROOT
from tests.distributed.models import write_qwen3

Command = Callable[[dict[str, str], list[str]], list[Any]]
HEAVY = ("torch", "transformers", "megatron", "nemo", "nemo_aligner", "lightning", "tensorboard", "matplotlib")
# A process that has imported the command and nothing else. It forks for each case, runs the command there, and writes
# [exit code, output, errors, heavy packages that were imported] as a line.
SERVER = f"""
import json, os, sys, tempfile
sys.path.insert(0, {str(ROOT)!r})
from recipes import train_s2l

for line in sys.stdin:
    environment, arguments = json.loads(line)
    files = [tempfile.TemporaryFile() for _ in range(2)]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.environ.update(environment)
        sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
        for number, file in enumerate(files, start=1):
            os.dup2(file.fileno(), number)
        code = train_s2l.main(arguments)
        sys.stdout.flush()
        os.write(writer, json.dumps([name for name in {HEAVY!r} if name in sys.modules]).encode())
        os._exit(code)
    os.close(writer)
    imported = os.fdopen(reader, "rb").read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    texts = []
    for file in files:
        file.seek(0)
        texts.append(file.read().decode())
    print(json.dumps([code, *texts, imported.decode()]), flush=True)
"""


@dataclass
class Case:
    """A mistake: arguments and variables, what is changed in a folder before, and what the line must say."""

    message: str
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[Path], object] = lambda folder: None


def rewards(folder: Path) -> None:
    (folder / "early_rewards.py").write_text(
        "import json\nnumber = 3\ndef two(response, answer):\n    return 1.0\n"
        "def more(response, answer, prompt, weight):\n    return weight\n"
    )
    (folder / "early_broken.py").write_text("import json\nraise KeyError('left over')\n")


def data(folder: Path) -> None:
    good = '{"prompt": "1 + 1", "answer": "2"}\n'
    (folder / "good.jsonl").write_text(good * 8)
    (folder / "bad.jsonl").write_text(good + '{"prompt": "1 + 2"}\n' + "{\n")
    (folder / "empty.jsonl").write_text("")
    (folder / "two.jsonl").write_text(good * 2)
    (folder / "cut.parquet").write_bytes(b"PAR1")


def change_tokenizer(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    file = folder / "learner" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    change(tokenizer)
    file.write_text(json.dumps(tokenizer))


def add_token(tokenizer: dict[str, object]) -> None:
    added = tokenizer["added_tokens"]
    assert isinstance(added, list)
    added.append({**added[-1], "content": "<extra>", "id": 5000})


def of_data(train: str, valid: str = "good.jsonl") -> tuple[str, ...]:
    return f"data.path={{folder}}/{train}", f"data.valid_path={{folder}}/{valid}"


WANDB = {"WANDB_API_KEY": "", "WANDB_MODE": ""}
CASES = {
    "run folder of something else": Case(
        "is not a run of S2L-PO", ("run.dir={folder}",), prepare=lambda folder: (folder / "x").touch()
    ),
    "run folder below a file": Case("Not a directory: {folder}/x)", ("run.dir={folder}/x/run",), prepare=lambda folder:
        (folder / "x").touch()),
    "run folder that is a broken link": Case(
        "No such file or directory: {folder}/link)", ("run.dir={folder}/link",),
        prepare=lambda folder: (folder / "link").symlink_to(folder / "nowhere"),
    ),
    "run that must be there": Case("run.resume=must", ("run.resume=must",)),
    "f16 wandb is not installed": Case(
        "pip install wandb", ("logging.wandb_project=x", "logging.wandb_mode=offline"), WANDB
    ),
    "f17 unknown WANDB_MODE": Case("WANDB_MODE=loud is unknown", ("logging.wandb_project=x",), {"WANDB_MODE": "loud"}),
    "rewards.fn without a module": Case("there is no module no_such", ("rewards.fn=no_such:f",)),
    "rewards.fn that is no path": Case("is no import path", ("rewards.fn=even",)),
    "rewards.fn without the name": Case("early_rewards has no none", ("rewards.fn=early_rewards:none",), {}, rewards),
    "rewards.fn that is a number": Case("must be a function", ("rewards.fn=early_rewards:number",), {}, rewards),
    "f20 rewards.fn of two arguments": Case(
        "takes (response, answer), must take (response, answer, prompt)", ("rewards.fn=early_rewards:two",), {}, rewards
    ),
    "f20 rewards.fn of four arguments": Case(
        "missing a required argument: 'weight'", ("rewards.fn=early_rewards:more",), {}, rewards
    ),
    "rewards.fn whose module fails": Case("KeyError: 'left over'", ("rewards.fn=early_broken:f",), {}, rewards),
    "no data file": Case("{folder}/none.jsonl", of_data("none.jsonl"), {}, data),
    "bad row": Case("{folder}/bad.jsonl:2: no key 'answer'", of_data("bad.jsonl"), {}, data),
    "bad held-out row": Case("{folder}/bad.jsonl:2: no key 'answer'", of_data("good.jsonl", "bad.jsonl"), {}, data),
    "empty data": Case("empty.jsonl: it has none", of_data("empty.jsonl"), {}, data),
    "damaged parquet": Case("cut.parquet: no parquet file", of_data("cut.parquet"), {}, data),
    "fewer prompts than a step": Case("algorithm.prompts_per_step=4, but", of_data("two.jsonl"), {}, data),
    "no such benchmark": Case("no benchmark 'aime99'", ("validation.sets=[aime99]", "validation.data={folder}")),
    "f11 token without a row": Case(
        "has '<extra>' as token 5000, and vocab_size=", (), {}, lambda folder: change_tokenizer(folder, add_token)
    ),
    "damaged tokenizer.json": Case(
        "its tokenizer.json is damaged", (), {}, lambda folder: change_tokenizer(folder, lambda one: one.pop("model"))
    ),
    "parallelism against heads": Case(
        "does not divide num_key_value_heads=2",
        ("model.tensor_model_parallel_size=4", "trainer.devices=4"),
    ),
    "layers against stages": Case(
        "model.pipeline_model_parallel_size=2 does not divide num_hidden_layers=1",
        ("model.pipeline_model_parallel_size=2", "trainer.devices=2"),
    ),
    "left-over launcher": Case("WORLD_SIZE=8, but", (), {"RANK": "0", "WORLD_SIZE": "8", "LOCAL_RANK": "0"}),
    "no interpreter for servers": Case("cannot be run", ("engine.kind=server", "engine.python={folder}/python")),
    "time limit": Case("run.save_before=soon: must be a time of day", ("run.save_before=soon",)),
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_qwen3(folder / "learner", layers=1)
    write_qwen3(folder / "explorer", layers=1, hidden=32, seed=1)
    return folder


@pytest.fixture(scope="module")
def command() -> Iterator[Command]:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], cwd=ROOT, env=environment, text=True, stdin=PIPE, stdout=PIPE
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        requests, replies = server.stdin, server.stdout

        def run(environment: dict[str, str], arguments: list[str]) -> list[Any]:
            requests.write(json.dumps([environment, arguments]) + "\n")
            requests.flush()
            reply: list[Any] = json.loads(replies.readline())
            return reply

        yield run
        requests.close()


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_seen_early(models: Path, tmp_path: Path, command: Command, name: str) -> None:
    case = CASES[name]
    learner = tmp_path / "learner"
    learner.mkdir()
    for file in (models / "learner").iterdir():
        (learner / file.name).write_bytes(file.read_bytes())
    case.prepare(tmp_path)
    before = sorted(path for path in tmp_path.rglob("*"))
    arguments = [
        f"model.path={learner}", f"explorer.path={models / 'explorer'}", f"run.dir={tmp_path / 'run'}",
        "trainer.devices=1", "algorithm.prompts_per_step=4", "algorithm.group_size=2", "model.micro_batch_size=2",
        *(one.format(folder=tmp_path) for one in case.arguments),
    ]  # fmt: skip
    code, out, err, imported = command({"PYTHONPATH": str(tmp_path), **case.environment}, arguments)
    (line,) = err.splitlines()
    assert (code, out) == (2, "")
    assert line.startswith("error: ")
    assert case.message.format(folder=tmp_path) in line
    assert json.loads(imported) == []
    assert sorted(path for path in tmp_path.rglob("*")) == before
