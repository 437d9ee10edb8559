"""Dockerfile and launch scripts, as far as they can be checked without docker, Slurm or a GPU."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest

from s2l_nemo.config.checks import check_config
from s2l_nemo.config.load import load_config
from s2l_nemo.config.schema import Config
from s2l_nemo.models.shape import public_shapes
from s2l_nemo.planner import cost
from s2l_nemo.planner.memory import memory_by_part, memory_by_phase
from s2l_nemo.platform.environment import TENSORRT_LLM, satisfies

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted([*(ROOT / "recipes/slurm").iterdir(), *(ROOT / "recipes/torchrun").iterdir()])
TRAIN = "recipes/train_s2l.py"


def instructions() -> list[tuple[str, str]]:
    """(instruction, the rest on one line) of the Dockerfile."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    whole = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in whole.splitlines() if line)]


def import_checks() -> dict[str, str]:
    """Code of each `python -c` by its interpreter."""
    runs = [rest for word, rest in instructions() if word == "RUN"]
    found = [re.search(r'(/opt/\w+/bin/python) -c\s+"(.*)"$', run) for run in runs]
    return {match[1]: match[2] for match in found if match}


def pins() -> dict[str, str]:
    runs = " ".join(rest for word, rest in instructions() if word == "RUN")
    return dict(re.findall(r'"?([\w-]+)(?:\[\w+\])?==([\d.]+)"?', runs))


def test_the_base_image_is_pinned_and_named_in_its_label() -> None:
    (base,) = [rest for word, rest in instructions() if word == "FROM"]
    assert re.fullmatch(r"nvcr\.io/nvidia/pytorch:\d\d\.\d\d-py3", base)
    assert f'base.name="{base}"' in " ".join(rest for word, rest in instructions() if word == "LABEL")


def test_everything_copied_is_there_and_reaches_the_build() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [source for word, rest in instructions() if word == "COPY" for source in rest.split()[:-1]]
    assert set(copied) == allowed
    assert all((ROOT / source).exists() for source in copied)
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_engine_pins_fit_what_the_engines_need() -> None:
    found = pins()
    for name, needed in TENSORRT_LLM.items():
        assert satisfies(found[name], needed), name
    assert found["tensorrt_llm"].startswith("1.2.")


def test_the_trainer_gets_the_lock_without_torch() -> None:
    (run,) = [rest for word, rest in instructions() if word == "RUN" and "requirements.lock" in rest]
    assert "--no-deps -r" in run
    (pattern,) = re.findall(r"sed '(.*?)'", run)
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    kept = subprocess.run(["sed", pattern], input="\n".join(lock), capture_output=True, text=True, check=True).stdout
    dropped = [line for line in lock if line not in kept.splitlines()]
    assert [line.partition("==")[0] for line in dropped] == ["torch"]


def test_both_environments_are_imported_at_the_end_of_the_build() -> None:
    checks = import_checks()
    trainer, engines = (checks[f"/opt/{name}/bin/python"] for name in ("trainer", "engines"))
    for code, modules in (
        (trainer, {"apex", "transformer_engine.pytorch", "nemo_aligner", "s2l_nemo.actor.build"}),
        (engines, {"tensorrt_llm", "ray", "s2l_nemo.engines.served.server"}),
    ):
        tree = ast.parse(code)
        imported = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        assert modules <= imported
        for name in imported:
            if name.startswith("s2l_nemo."):
                assert (ROOT / name.replace(".", "/")).with_suffix(".py").exists(), name
    words = [(word, "-c" in rest) for word, rest in instructions()]
    assert max(i for i, (word, _) in enumerate(words) if word == "COPY") < words.index(("RUN", True))
    assert f"'{pins()['tensorrt_llm']}'" in engines


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script: Path) -> None:
    text = script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "\t" not in text
    assert "\r" not in text
    assert all(len(line) <= 120 for line in text.splitlines())
    if script.name != "environment.sh":  # which is sourced
        assert text.startswith(("#!/usr/bin/env bash\n", "#!/bin/bash\n"))
        assert "\nset -euo pipefail\n" in text
    if script.name.startswith("train_") and script.suffix == ".sh":
        assert os.access(script, os.X_OK)
    code = [line.split(" #")[0] for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in code:  # an expansion outside quotes is split at spaces
        unquoted = re.sub(r'"[^"]*"', "", re.sub(r'"\$[^"()]*"', "", line))  # inner quotes first
        assert not re.search(r"\$[\w{@]", unquoted), line


def launched(script: str, tmp_path: Path, *overrides: str, **environ: str) -> tuple[list[str], dict[str, str]]:
    """The command that a script ends in, and its environment, with python, srun and scontrol replaced by recorders."""
    for name in ("python", "srun"):
        (tmp_path / name).write_text('#!/bin/bash\nprintf "%s\\n" "$@"\necho ---\nenv\n')
    (tmp_path / "scontrol").write_text("#!/bin/bash\nprintf 'node7\\nnode8\\n'\n")
    for name in ("python", "srun", "scontrol"):
        (tmp_path / name).chmod(0o755)
    clean = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), **environ}
    done = subprocess.run(
        ["bash", script, *overrides], cwd=ROOT, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    command, _, variables = done.stdout.partition("---\n")
    return command.splitlines(), dict(line.split("=", 1) for line in variables.splitlines() if "=" in line)


def configuration(command: list[str]) -> Config:
    """What the ranks would be configured with; refused where a key or a combination is wrong."""
    start = next(i for i, word in enumerate(command) if word.endswith("train_s2l.py"))
    assert (ROOT / TRAIN).samefile(ROOT / command[start])
    cfg = load_config(command[start + 1 :], ROOT / "conf")
    check_config(cfg)
    return cfg


def slurm(nodes: int) -> dict[str, str]:
    job = {"SLURM_JOB_ID": "1234567", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_CPUS_PER_TASK": "8"}
    return {**job, "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_SUBMIT_DIR": str(ROOT)}


LAUNCHES = {
    "recipes/torchrun/train_1x8.sh": (1, {}),
    "recipes/torchrun/train_nx8.sh": (2, {"NODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "node7"}),
    "recipes/slurm/train_8gpu.sbatch": (1, slurm(1)),
    "recipes/slurm/train_multi_node.sbatch": (2, slurm(2)),
}


@pytest.mark.parametrize("script", LAUNCHES)
def test_every_launch_is_a_valid_run_of_the_paper_that_fits(script: str, tmp_path: Path) -> None:
    nodes, environ = LAUNCHES[script]
    command, variables = launched(script, tmp_path, "algorithm.steps=3", **environ)
    cfg = configuration(command)
    assert (cfg.trainer.num_nodes, cfg.trainer.devices) == (nodes, 8)
    assert cfg.algorithm.prompts_per_step == 1024  # --config-name paper
    assert "hardware=h100_80gb" in command
    assert not [word for word in command if word.startswith(("engine.", "model.", "rollout."))]  # conf/ has them
    assert cfg.algorithm.steps == 3  # the user's own keys come last
    assert (cfg.engine.kind, cfg.engine.python) == ("tensorrt_llm", "/opt/engines/bin/python")
    assert variables["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    h100 = cost.GPUS[1]
    parts = memory_by_part(cfg, public_shapes()["Qwen3-8B"], public_shapes()["Qwen3-1.7B"], h100.memory)
    assert all(total < h100.usable for total in memory_by_phase(cfg, parts).values())


def test_torchrun_is_told_its_place(tmp_path: Path) -> None:
    environ = {"NODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "node7"}
    command, _ = launched("recipes/torchrun/train_nx8.sh", tmp_path, **environ)
    assert command[:2] == ["-m", "torch.distributed.run"]
    assert {"--nnodes=2", "--node-rank=1", "--nproc-per-node=8", "--master-addr=node7"} <= set(command)


def test_slurm_ranks_know_where_rank_0_is(tmp_path: Path) -> None:
    command, variables = launched("recipes/slurm/train_multi_node.sbatch", tmp_path, **slurm(2))
    assert (variables["MASTER_ADDR"], variables["MASTER_PORT"]) == ("node7", "24567")
    assert "/opt/trainer/bin/python" in command
    assert not any(word.startswith("--container") for word in command)
    command, _ = launched("recipes/slurm/train_8gpu.sbatch", tmp_path, IMAGE="me#s2l-nemo", **slurm(1))
    assert {"--container-image=me#s2l-nemo", f"--container-mounts={ROOT}:/workspace"} <= set(command)


@pytest.mark.parametrize(("script", "nodes"), [("train_8gpu.sbatch", 1), ("train_multi_node.sbatch", 2)])
def test_slurm_asks_for_one_task_a_gpu(script: str, nodes: int) -> None:
    text = (ROOT / "recipes/slurm" / script).read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", text, re.MULTILINE))
    assert (asked["nodes"], asked["ntasks-per-node"], asked["gpus-per-node"]) == (str(nodes), "8", "8")
    assert asked["signal"] == "TERM@3600"


def test_settings_of_the_user_win(tmp_path: Path) -> None:
    _, variables = launched("recipes/torchrun/train_1x8.sh", tmp_path, NCCL_DEBUG="INFO")
    assert variables["NCCL_DEBUG"] == "INFO"


def test_a_launch_without_its_place_is_refused() -> None:
    bare = {"PATH": "/usr/bin:/bin"}
    command = ["bash", "recipes/torchrun/train_nx8.sh"]
    done = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "NODES: number of nodes" in done.stderr
