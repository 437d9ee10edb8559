"""Scripts for Slurm, run by bash with stand-ins for Slurm's commands."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from recipes.reproduce import checked
from s2l_nemo.config.load import load_values
from s2l_nemo.config.reproduction import ReproduceConfig
from s2l_nemo.errors import UserError
from s2l_nemo.reproduction.ledger import Ledger, read_plan
from s2l_nemo.reproduction.plan import make_plan
from s2l_nemo.reproduction.slurm import submit, write_scripts

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH whose sbatch numbers and notes what it is given, whose squeue knows the numbers of `known`."""
    programs = {
        "sbatch": f'echo "$*" >> {tmp_path}/calls\necho $((40 + $(wc -l < {tmp_path}/calls)))";cluster"',
        "squeue": f'for a; do case $a in --jobs=*) grep -x "${{a#--jobs=}}" {tmp_path}/known; esac; done',
        "srun": f'printf "%s\\n" "$@" > {tmp_path}/srun',
        "scontrol": "echo node1",
    }
    (tmp_path / "bin").mkdir()
    for name, code in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{code}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "known").touch()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(ROOT)
    return tmp_path


def ledger(root: Path) -> Ledger:
    cfg = load_values(["experiments=[small_only]", "scale=paper", "seeds=[2]", f"dir={root}"], ReproduceConfig, "")
    return Ledger(root, make_plan(cfg, checked))


def run_script(script: Path, cluster: Path) -> list[str]:
    """What the script hands to srun."""
    variables = {
        "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node1", "SLURM_JOB_NUM_NODES": "1",
        "SLURM_CPUS_PER_TASK": "8",
    }  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name not in ("IMAGE", "PYTHON")} | variables
    subprocess.run(["bash", str(script)], cwd=ROOT, env=environment, check=True, timeout=100)
    return (cluster / "srun").read_text().splitlines()


def test_a_script_runs_the_command_of_its_job(cluster: Path) -> None:
    made = ledger(cluster / "r")
    train, curve = write_scripts(made, ROOT)
    run = cluster / "r/small_only/seed_2"
    text = train.read_text()
    assert "#SBATCH --job-name=small_only-seed_2\n" in text
    assert f"#SBATCH --output={cluster}/r/logs/small_only-seed_2.log\n#SBATCH --open-mode=append\n" in text
    assert "--requeue" in text
    command = run_script(train, cluster)
    assert command[command.index("recipes/train_s2l.py") + 1 :] == [
        "--config-name", "paper", "hardware=h100_80gb", "trainer.num_nodes=1",
        "--config-name", "paper", "experiment=small_only", f"run.dir={run}", "run.seed=2",
    ]  # fmt: skip
    checked(command[command.index("recipes/train_s2l.py") + 1 :])
    command = run_script(curve, cluster)
    assert command[command.index("recipes/evaluate.py") + 1 :] == [
        "engine.kind=tensorrt_llm", "engine.python=/opt/engines/bin/python", "engine.replicas_per_node=8",
        "--config-name", "step_curve", f"model={run}", "steps=all", "name=step_curve",
        f"evaluate.dir={run}/evaluation",
    ]  # fmt: skip


def test_jobs_are_submitted_once_and_wait_for_each_other(cluster: Path) -> None:
    root = cluster / "r"
    made = ledger(root)
    write_scripts(made, ROOT)
    assert [entry.slurm_id for entry in submit(made, ROOT)] == ["41", "42"]
    calls = [shlex.split(line) for line in (cluster / "calls").read_text().splitlines()]
    assert calls[0] == ["--parsable", f"{root}/slurm/small_only-seed_2.sbatch"]
    assert calls[1] == ["--parsable", "--dependency=afterok:41", f"{root}/slurm/small_only-seed_2-step_curve.sbatch"]
    assert {one["status"] for one in read_plan(root).values()} == {"submitted"}
    (cluster / "known").write_text("41\n42\n")
    assert submit(ledger(root), ROOT) == []
    (cluster / "known").write_text("41\n")  # the evaluation has left Slurm, for whatever reason
    (again,) = submit(ledger(root), ROOT)
    assert (again.job.name, again.slurm_id) == ("small_only-seed_2-step_curve", "43")


def test_what_slurm_says_is_told(cluster: Path) -> None:
    made = ledger(cluster / "r")
    write_scripts(made, ROOT)
    sbatch = cluster / "bin/sbatch"
    sbatch.write_text("#!/bin/bash\necho 'no such partition' >&2\nexit 1\n")
    with pytest.raises(UserError, match=r"sbatch --parsable .* failed: no such partition"):
        submit(made, ROOT)
    sbatch.write_text("#!/bin/bash\necho hello\n")
    with pytest.raises(UserError, match="sbatch answered 'hello'"):
        submit(made, ROOT)


def test_without_slurm_and_outside_of_the_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ledger(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no sbatch here"):
        submit(made, ROOT)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="call it in the clone"):
        write_scripts(made, ROOT)
