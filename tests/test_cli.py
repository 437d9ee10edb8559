"""`python recipes/train_s2l.py` as a user runs it: mistakes give one line and a non-zero exit, and leave nothing."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recipes import train_s2l
from s2l_nemo.platform.launch import STOP_SIGNALS
from tests.distributed.models import write_qwen3

ROOT = Path(__file__).resolve().parent.parent
SMALL = [
    "algorithm.steps=2", "algorithm.prompts_per_step=2", "algorithm.group_size=2", "model.micro_batch_size=2",
    "rollout.max_prompt_length=40", "rollout.max_response_length=8", "validation.prompts=2", "validation.samples=1",
]  # fmt: skip

Refusal = Callable[..., str]


def train(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "recipes/train_s2l.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.fixture
def refusal(capfd: pytest.CaptureFixture[str]) -> Iterator[Refusal]:
    """Runs the recipe in this process and returns the one line that it refuses its arguments with.

    A process of its own would import torch and Transformers for every mistake. What a library writes counts too.
    """

    def of(*arguments: str) -> str:
        assert train_s2l.main(list(arguments)) == 2
        captured = capfd.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert line.startswith("error: ")
        return line

    handlers = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    yield of
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("family")
    learner = write_qwen3(folder / "learner", seed=0)
    explorer = write_qwen3(folder / "explorer", seed=1, hidden=32)
    return [f"model.path={learner}", f"explorer.path={explorer}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.path=/nowhere"], "model.path=/nowhere is not a folder"),
        (["explorer.path=/nowhere"], "explorer.path=/nowhere is not a folder"),
        (["algorithm.stepz=3"], "unknown key algorithm.stepz=3: the nearest known key is algorithm.steps"),
        (["algorithm.steps=many"], "algorithm.steps=many: expected integer"),
        (["algorithm.schedule.t_mix=9"], "algorithm.schedule.t_mix=9"),
        (["model.tensor_model_parallel_size=3", "trainer.devices=3"], "model.tensor_model_parallel_size=3"),
        (["trainer.devices=3"], "algorithm.prompts_per_step=2 cannot be shared by 3 data-parallel ranks"),
        (["--config-name", "huge"], "--config-name huge is unknown"),
        (["data.path=/nowhere.jsonl", "data.valid_path=/nowhere.jsonl"], "/nowhere.jsonl"),
        (["rollout.max_prompt_length=3"], "longer than rollout.max_prompt_length=3"),
        (["data.arithmetic.train_prompts=1"], "algorithm.prompts_per_step=2"),
        (["data.task=reasoning_gym"], "reasoning-gym"),
    ],
    ids=lambda value: value[0].partition("=")[0] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(
    family: list[str], tmp_path: Path, refusal: Refusal, arguments: list[str], message: str
) -> None:
    run = tmp_path / "run"
    assert message in refusal(*SMALL, *family, f"run.dir={run}", *arguments)
    assert not run.exists()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"RANK": "0", "WORLD_SIZE": "8", "LOCAL_RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"},
            "WORLD_SIZE=8, but",
        ),
        ({"RANK": "0", "WORLD_SIZE": "1"}, "LOCAL_RANK= is not a number"),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, "SLURM_NTASKS=2 without SLURM_LOCALID: start the run with srun"),
    ],
)
def test_f04_what_another_job_has_left_over_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal, family: list[str], variables: dict[str, str],
    message: str,
) -> None:  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert message in refusal(*SMALL, *family, f"run.dir={tmp_path / 'run'}", "trainer.devices=1")
    assert not (tmp_path / "run").exists()


def test_a_file_that_cannot_be_read_is_one_line(
    family: list[str], tmp_path: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/data/train.jsonl")

    monkeypatch.setattr("s2l_nemo.trainer.setup.load_prompts", unreadable)
    assert refusal(*SMALL, *family, f"run.dir={tmp_path / 'run'}") == (
        "error: /data/train.jsonl: Permission denied: give yourself the right to it, or choose another place"
    )


@pytest.mark.parametrize("argument", ["algorithm.steps=many", "rollout.max_prompt_length=3"])
def test_a_mistake_ends_the_process_with_one_line_and_code_2(family: list[str], tmp_path: Path, argument: str) -> None:
    result = train(*SMALL, *family, f"run.dir={tmp_path / 'run'}", argument)
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert argument in line
    assert not (tmp_path / "run").exists()


def test_empty_data_set(family: list[str], tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    data = [f"data.path={tmp_path / 'empty.jsonl'}", f"data.valid_path={tmp_path / 'empty.jsonl'}"]
    line = refusal(*SMALL, *family, *data, f"run.dir={tmp_path / 'run'}")
    assert line == f"error: no train prompts from {tmp_path / 'empty.jsonl'}: it has none"


def test_r20_explorer_with_another_eos_or_tokenizer_is_refused_with_both_named(
    family: list[str], tmp_path: Path, refusal: Refusal
) -> None:
    explorer = write_qwen3(tmp_path / "other", seed=1, hidden=32)
    learner = family[0].partition("=")[2]
    config = json.loads((explorer / "tokenizer_config.json").read_text())
    (explorer / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<|im_start|>"}))
    line = refusal(*SMALL, family[0], f"explorer.path={explorer}", f"run.dir={tmp_path / 'run'}")
    assert learner in line
    assert str(explorer) in line
    assert "<|im_start|>" in line


def test_a_folder_that_is_not_a_run_is_left_alone(family: list[str], tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert "is not a run of S2L-PO" in refusal(*SMALL, *family, f"run.dir={tmp_path}", "trainer.devices=2")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_help_and_dry_run() -> None:
    help_text = train("--help")
    assert help_text.returncode == 0
    assert "model.tensor_model_parallel_size" in help_text.stdout
    plan = train("--config-name", "paper", "run.dry_run=true")
    assert plan.returncode == 0
    assert "mean   0.262" in plan.stdout  # 67/256, the share of the explorer over 16 steps


@pytest.mark.nemo
def test_torchrun(family: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, "recipes/train_s2l.py", *SMALL, *family, f"run.dir={run}", "run.save_nemo=false"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("2/2") == 1  # rank 0 alone speaks
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.nemo
def test_ctrl_c_while_it_starts(family: list[str], tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-X",
        "importtime",
        "recipes/train_s2l.py",
        *SMALL,
        *family,
        f"run.dir={tmp_path / 'run'}",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while " nemo" not in process.stderr.readline():  # NeMo is being imported
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    messages = [line for line in err.splitlines() if not line.startswith("import time:")]
    assert process.returncode == 130
    assert messages == ["interrupted"]
    assert not (tmp_path / "run").exists()


@pytest.mark.nemo
def test_a_run_from_plain_python_and_again_after_it_has_finished(
    family: list[str], tmp_path: Path, refusal: Refusal
) -> None:
    run = tmp_path / "run"
    first = train(*SMALL, *family, f"run.dir={run}")
    assert (first.returncode, first.stderr) == (0, "")
    assert "2/2" in first.stdout
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "rollouts", "checkpoints", "tensorboard", "summary.json", "plots"} <= names
    assert "final.nemo" in names
    before = (run / "metrics.jsonl").read_text()
    again = train(*SMALL, *family, f"run.dir={run}")
    assert (again.returncode, again.stderr) == (0, "")
    assert (run / "metrics.jsonl").read_text() == before
    assert "already holds a run" in refusal(*SMALL, *family, f"run.dir={run}", "run.resume=never")
