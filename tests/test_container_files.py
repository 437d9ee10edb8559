"""Dockerfile and launch scripts, as far as they can be checked without docker, Slurm or a GPU."""

from __future__ import annotations

import ast
import os
import re
import shlex
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
from tools import image_check

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted([*(ROOT / "recipes/slurm").iterdir(), *(ROOT / "recipes/torchrun").iterdir()])
TRAIN = "recipes/train_s2l.py"


def of(word: str) -> list[str]:
    """The rest of each instruction of this word in the Dockerfile."""
    return [item.rest for item in image_check.instructions((ROOT / "Dockerfile").read_text()) if item.word == word]


def import_checks() -> dict[str, str]:
    """Code of each `python -c` of the build by its environment."""
    checks = [re.search(r'(python|/opt/engines/bin/python) -c\s+"(.*)"', run) for run in of("RUN")]
    return {"engines" if "engines" in match[1] else "trainer": match[2] for match in checks if match}


def test_the_files_of_the_container_have_no_fault() -> None:
    files = (ROOT / "Dockerfile").read_text(), (ROOT / ".dockerignore").read_text()
    assert list(image_check.faults_of(*files, ROOT)) == []


def test_the_default_base_is_tensorrt_llms_release_by_its_digest() -> None:
    arguments = dict(rest.split("=", 1) for rest in of("ARG") if "=" in rest)
    assert re.fullmatch(r"nvcr\.io/nvidia/tensorrt-llm/release:1\.2\.1@sha256:[0-9a-f]{64}", arguments["BASE"])
    assert of("FROM") == ["${BASE} AS trainer", "trainer AS engines"]
    assert 'base.name="${BASE}"' in " ".join(of("LABEL"))


def test_all_that_the_build_may_see_is_copied() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [source for rest in of("COPY") for source in rest.split()[:-1]]
    assert set(copied) == {line[1:] for line in lines if line.startswith("!")}
    assert lines[1] == "*"


def test_the_engines_lock_has_the_ray_that_the_build_asks_for() -> None:
    lock = dict(pin.split("==") for pin in image_check.pins(ROOT / "requirements-engines.hashes"))
    (engines,) = [run for run in of("RUN") if "requirements-engines.hashes" in run]
    assert "--no-deps --require-hashes -r" in engines
    assert f'--no-index "ray[default]=={lock["ray"]}"' in engines
    assert satisfies(lock["ray"], TENSORRT_LLM["ray"])
    assert not {"torch", "tensorrt_llm", "transformers", "protobuf"} & lock.keys()  # the image's own stay


def test_the_trainer_gets_the_lock_without_torch() -> None:
    (run,) = [rest for rest in of("RUN") if "requirements.hashes" in rest]
    assert "--no-deps --require-hashes -r" in run
    names = {pin.partition("==")[0] for pin in image_check.pins(ROOT / "requirements.hashes")}
    assert "torch" not in names
    assert {"numpy", "megatron-core"} < names


def test_both_environments_are_imported_at_the_end_of_the_build() -> None:
    checks = import_checks()
    for name, modules in (
        ("trainer", {"nemo_aligner", "s2l_nemo.actor.build", "torch"}),
        ("engines", {"s2l_nemo.engines.served.server", "torch"}),
    ):
        tree = ast.parse(checks[name].replace("$IMPORT", "ray, tensorrt_llm"))
        imported = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        assert modules <= imported
        for module in imported:
            if module.startswith("s2l_nemo."):
                assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), module
    for flag in ("nlp_overrides.HAVE_APEX", "build_model.HAVE_APEX", "transformer_engine.HAVE_TE"):
        assert re.search(rf"assert [\w. ]*{flag}", checks["trainer"])
    assert f"== '{TENSORRT_LLM['tensorrt_llm'].removeprefix('==')}'" in checks["engines"]
    assert "IMPORT=ray,tensorrt_llm" in of("ARG")
    (check,) = [run for run in of("RUN") if "$IMPORT" in run]
    assert "TLLM_DISABLE_MPI=1" in check


def test_what_packages_write_is_where_any_user_may_write() -> None:
    variables = dict(pair.split("=", 1) for rest in of("ENV") for pair in shlex.split(rest))
    assert of("VOLUME") == ["/cache"]
    for name in (
        "HOME", "XDG_CACHE_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE",
    ):  # fmt: skip
        assert Path(variables[name]).is_relative_to("/cache"), name
    emptied = [run.endswith("/cache && install -d -m 1777 /cache") for run in of("RUN")]
    assert emptied[-1]  # of each stage
    assert sum(emptied) == len(of("FROM"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("FROM image", "Dockerfile:1: FROM image: image has neither tag nor digest"),
        ("FROM a:1 AS x\nFROM a:1 AS x", "Dockerfile:2: FROM x: two stages of this name"),
        ("ARG B\nFROM ${B}", "Dockerfile:2: FROM ${B}: '' is no image"),
        ("FROM a@sha256:12", "Dockerfile:1: FROM a@sha256:12: 'a@sha256:12' is no image"),
        ("FROM a:1 AS", "Dockerfile:1: FROM a:1 AS: IMAGE or IMAGE AS STAGE is understood"),
        ("# why\nENV A=1 B", "Dockerfile:2: ENV B: NAME=VALUE is understood"),
        ('ENV A="1', 'Dockerfile:1: ENV A="1: No closing quotation'),
        ("COPY gone /x", "Dockerfile:1: COPY gone: no such file"),
        ("COPY kept.txt secret.txt /x", "Dockerfile:1: COPY secret.txt: .dockerignore keeps it from the build"),
        ("COPY --from=x a /x", "Dockerfile:1: COPY --from=x: no option is understood"),
        ("RUN true \\\n && (echo", "Dockerfile:1: RUN: "),
        ("RUN true \\", "Dockerfile:1: \\ is not understood: a line is continued, and the file ends"),
        ("ADD x /x", "Dockerfile:1: ADD is not understood: x /x"),
        ("HEALTHCHECK --interval=soon CMD true", "Dockerfile:1: HEALTHCHECK: --interval=soon: --NAME=DURATION"),
        ("HEALTHCHECK --interval=5m", "Dockerfile:1: HEALTHCHECK: CMD is missing"),
        ("ARG 1=2", "Dockerfile:1: ARG 1=2: no name"),
    ],
)
def test_a_wrong_line_is_named(text: str, fault: str, tmp_path: Path) -> None:
    for name in ("kept.txt", "secret.txt"):
        (tmp_path / name).touch()
    faults = list(image_check.faults_of(text, "*\n!kept.txt\n", tmp_path))
    assert [found[: len(fault)] for found in faults if found.startswith("Dockerfile:")] == [fault]


def test_sound_lines_are_taken(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").touch()
    digest = f"sha256:{'0' * 64}"
    text = (
        f'ARG B=nvcr.io/a/b:1@{digest}\nARG D=/x\nFROM ${{B}} AS one\nARG B\nENV A="1 2" P=/x:$P\n'
        "COPY kept.txt /x\nRUN a \\\n # why\n\n && b\nHEALTHCHECK --interval=5m CMD a && b\nFROM one AS two\n"
    )
    assert list(image_check.faults_of(text, "*\n!kept.txt\n**/__pycache__\n", tmp_path)) == []
    assert [(item.line, item.rest) for item in image_check.instructions(text) if item.word == "RUN"] == [
        (7, "a   && b")
    ]


def test_a_lock_is_read_pin_by_pin(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.hashes"
    hashes = [f"--hash=sha256:{digit * 64}" for digit in "0a"]
    lock.write_text(f"# why\nTorch==2.13.0+cpu\nray==2.54.1 \\\n    {hashes[0]} \\\n    {hashes[1]}\n")
    found = image_check.pins(lock)
    assert list(found) == ["Torch==2.13.0+cpu", "ray==2.54.1"]
    assert found["ray==2.54.1"].split() == ["ray==2.54.1", *hashes]
    for line in ("ray>=2", "ray==2 --hash=sha256:0", "ray==2 -e ."):
        lock.write_text(f"{line}\n")
        with pytest.raises(ValueError, match=f"'{line}' is not NAME==VERSION with hashes"):
            image_check.pins(lock)


def test_image_check_ends_with_1_where_something_is_wrong(tmp_path: Path) -> None:
    assert image_check.main(["--offline"]) == 0
    (tmp_path / "Dockerfile").write_text("FROM image\n")
    (tmp_path / ".dockerignore").touch()
    assert image_check.main(["--offline"], tmp_path) == 1


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
    parts = memory_by_part(cfg, public_shapes()["Qwen3-8B"], [public_shapes()["Qwen3-1.7B"]], h100.memory)
    assert all(total < h100.usable for total in memory_by_phase(cfg, parts).values())


def test_torchrun_is_told_its_place(tmp_path: Path) -> None:
    environ = {"NODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "node7"}
    command, _ = launched("recipes/torchrun/train_nx8.sh", tmp_path, **environ)
    assert command[:2] == ["-m", "torch.distributed.run"]
    assert {"--nnodes=2", "--node-rank=1", "--nproc-per-node=8", "--master-addr=node7"} <= set(command)


def test_slurm_ranks_know_where_rank_0_is(tmp_path: Path) -> None:
    command, variables = launched("recipes/slurm/train_multi_node.sbatch", tmp_path, **slurm(2))
    assert (variables["MASTER_ADDR"], variables["MASTER_PORT"]) == ("node7", "24567")
    assert command[command.index(TRAIN) - 1] == "python"  # of the host
    assert not any(word.startswith("--container") for word in command)
    command, _ = launched("recipes/slurm/train_8gpu.sbatch", tmp_path, IMAGE="me#s2l-nemo", **slurm(1))
    assert command[command.index(TRAIN) - 1] == "/opt/trainer/bin/python"
    assert {"--container-image=me#s2l-nemo", f"--container-mounts={ROOT}:/workspace"} <= set(command)


@pytest.mark.parametrize("script", ["train_8gpu.sbatch", "evaluate_8gpu.sbatch"])
def test_a_container_gets_more_folders(script: str, tmp_path: Path) -> None:
    environ = {"IMAGE": "me#s2l-nemo", "MOUNTS": "/models:/models,/scratch/a b:/cache", **slurm(1)}
    command, _ = launched(f"recipes/slurm/{script}", tmp_path, **environ)
    assert f"--container-mounts={ROOT}:/workspace,/models:/models,/scratch/a b:/cache" in command


@pytest.mark.parametrize(("script", "nodes"), [("train_8gpu.sbatch", 1), ("train_multi_node.sbatch", 2)])
def test_slurm_asks_for_one_task_a_gpu(script: str, nodes: int) -> None:
    text = (ROOT / "recipes/slurm" / script).read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", text, re.MULTILINE))
    assert (asked["nodes"], asked["ntasks-per-node"], asked["gpus-per-node"]) == (str(nodes), "8", "8")
    assert asked["signal"] == "TERM@3600"


def test_settings_of_the_user_win(tmp_path: Path) -> None:
    _, variables = launched("recipes/torchrun/train_1x8.sh", tmp_path, NCCL_DEBUG="INFO")
    assert variables["NCCL_DEBUG"] == "INFO"


@pytest.mark.parametrize("script", LAUNCHES)
def test_interpreters_of_the_host(script: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text('#!/bin/bash\nprintf "%s\\n" "$0" "$@"\necho ---\nenv\n')
    mine.chmod(0o755)
    command, _ = launched(script, tmp_path, "engine.python=/my/engines", **LAUNCHES[script][1], PYTHON=str(mine))
    assert command.count(str(mine)) == 1  # it runs, or srun is told to run it
    assert configuration(command).engine.python == "/my/engines"


def test_a_launch_without_its_place_is_refused() -> None:
    bare = {"PATH": "/usr/bin:/bin"}
    command = ["bash", "recipes/torchrun/train_nx8.sh"]
    done = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "NODES: number of nodes" in done.stderr
