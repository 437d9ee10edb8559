"""`python recipes/reproduce.py` as a user types it, with a stand-in for training: plan, runs, claims, exit codes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from recipes import reproduce
from s2l_nemo.reproduction import plan
from tests.commands import Done, run_here, run_process

RECIPE = "recipes/reproduce.py"
# Writes what a training run leaves, better for s2l; high_temperature fails.
TRAINING = """
import json, sys
from pathlib import Path
import yaml
keys = dict(one.split("=", 1) for one in sys.argv[1:] if "=" in one)
if keys.get("experiment") == "high_temperature":
    sys.exit("error: too hot")
run = Path(keys["run.dir"])
(run / "validation").mkdir(parents=True)
shift = 0 if keys.get("experiment") == "grpo" else 1
for step in (0, 4, 8, 12, 16):
    right = [[int((step // 4 + shift + problem + int(keys["run.seed"])) % 5 > 1)] for problem in range(10)]
    row = {"step": step, "prompt_ids": list(range(10)), "correct": right, "grader_errors": 0}
    (run / "validation" / f"step_{step:06d}.json").write_text(json.dumps(row))
line = {"step": 16, "total/flops_explorer": 1.0, "total/flops_learner": 9.0 - 3 * shift}
(run / "metrics.jsonl").write_text(json.dumps(line) + "\\n")
(run / "config.yaml").write_text(yaml.safe_dump({"data": {}, "validation": {"temperature": 1.0}}))
(run / "summary.json").write_text(json.dumps({"steps": 16}))
print("trained")
"""


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training jobs run this script instead of the recipe."""
    script = tmp_path / "train.py"
    script.write_text(TRAINING)
    monkeypatch.setattr(plan, "TRAIN", str(script))


@pytest.mark.usefixtures("training")
def test_experiments_run_and_claims_are_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "root"
    arguments = ["experiments=[s2l,grpo,high_temperature]", "seeds=[1,2]", f"dir={root}"]
    assert reproduce.main(arguments) == 1
    out = capsys.readouterr().out
    assert "high_temperature-seed_1 failed with exit code 1" in out
    assert "  | error: too hot" in out
    jobs = json.loads((root / "plan.json").read_text())["jobs"]
    assert [(one["name"], one["status"]) for one in jobs] == [
        ("s2l-seed_1", "done"), ("grpo-seed_1", "done"), ("high_temperature-seed_1", "failed"),
        ("s2l-seed_2", "done"), ("grpo-seed_2", "done"), ("high_temperature-seed_2", "failed"),
    ]  # fmt: skip
    claims = {one["id"]: one for one in json.loads((root / "claims.json").read_text())}
    assert set(claims) == {
        "s2l_over_grpo", "s2l_faster", "temperature_no_substitute", "temperature_limited", "rollout_flops",
    }  # fmt: skip
    assert (claims["s2l_over_grpo"]["seeds"], claims["s2l_over_grpo"]["problems"]) == ([1, 2], 10)
    assert claims["rollout_flops"]["difference"] == pytest.approx(0.3)
    assert claims["temperature_limited"]["verdict"] == "undecided"
    assert "holds no finished run" in claims["temperature_limited"]["note"]
    (root / "claims.json").unlink()
    assert reproduce.main([*arguments, "judge_only=true"]) == 0
    assert "begins" not in capsys.readouterr().out
    assert json.loads((root / "claims.json").read_text()) == list(claims.values())


def test_a_dry_run_prints_the_jobs_and_writes_nothing(tmp_path: Path) -> None:
    done = run_here(RECIPE, "experiments=[grpo]", "seeds=[3]", f"dir={tmp_path / 'root'}", "dry_run=true")
    assert (done.returncode, done.stderr) == (0, "")
    first, *rest = done.stdout.splitlines()
    assert first.startswith("waiting    python recipes/train_s2l.py --config-name train_s2l experiment=grpo ")
    assert any("grpo" in line and "train" in line and "waiting" in line for line in rest)
    assert not (tmp_path / "root").exists()


def test_slurm_scripts_are_written_and_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reproduce.ROOT)
    root = tmp_path / "root"
    assert reproduce.main(["experiments=[t_mix_5]", "seeds=[1]", "scale=paper", "slurm=true", f"dir={root}"]) == 0
    names = sorted(path.name for path in (root / "slurm").iterdir())
    assert names == ["t_mix_5-seed_1-step_curve.sbatch", "t_mix_5-seed_1.sbatch"]
    jobs = json.loads((root / "plan.json").read_text())["jobs"]
    assert {one["status"] for one in jobs} == {"waiting"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiments=[non]"], "error: experiments: non is unknown"),
        (["steps=3"], "error: unknown key steps=3"),
        (["scale=toy", "--config-name=x"], "error: unrecognized arguments: --config-name=x"),
        (["seeds"], "error: cannot read 'seeds' as key=value"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith(message)


def test_help_lists_every_key_and_imports_nothing_heavy() -> None:
    program = (
        f"import sys\nsys.argv = ['{RECIPE}', '--help']\nimport runpy\n"
        f"try:\n    runpy.run_path('{RECIPE}', run_name='__main__')\nexcept SystemExit as end:\n"
        "    assert end.code == 0\n"
        "print(sorted({'torch', 'numpy', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules)))"
    )
    done: Done = run_process("-c", program)
    lines = done.stdout.splitlines()
    assert lines[-1] == "[]"
    for name in ("experiments=[]", "seeds=[]", "scale=toy", "dir=null", "slurm=false", "judge_only=false"):
        assert any(line.startswith(f"  {name} ") for line in lines)


def test_make_reproduce_calls_it() -> None:
    done = subprocess.run(
        ["make", "-n", "reproduce"], cwd=reproduce.ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "tools/make_tiny_family.py" in done
    assert RECIPE in done
