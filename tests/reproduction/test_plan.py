"""From experiments and seeds to jobs: order, folders, commands, and mistakes before anything runs."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from recipes.reproduce import checked
from s2l_nemo.config.evaluation import EvaluateConfig, check_evaluate_config
from s2l_nemo.config.load import load_values
from s2l_nemo.config.reproduction import ReproduceConfig, Scale, ToyFamily, check_reproduce_config, root_of
from s2l_nemo.config.schema import Config, ExplorerSource
from s2l_nemo.data.prompts import read_split
from s2l_nemo.errors import UserError
from s2l_nemo.reproduction.experiments import CLAIM_SEEDS, CONFIG_NAMES, EXPERIMENTS, Experiment
from s2l_nemo.reproduction.plan import Job, JobKind, make_plan, training_arguments
from s2l_nemo.reproduction.problems import write_held_out

ROOT = Path(__file__).resolve().parent.parent.parent
CONF = ROOT / "conf"


def plan(*arguments: str) -> list[Job]:
    cfg = load_values(list(arguments), ReproduceConfig, "")
    check_reproduce_config(cfg)
    return make_plan(cfg, checked)


def config(one: Experiment, scale: Scale) -> Config:
    return checked(training_arguments(one, ReproduceConfig(scale=scale, dir="root"), 1))


def test_the_first_seed_of_every_experiment_comes_first() -> None:
    jobs = plan("experiments=[t_mix_5,without_diversity,grpo]", "dir=r")
    names = [job.name for job in jobs]
    assert names == [
        "t_mix_5-seed_1", "without_diversity-seed_1", "grpo-seed_1", "t_mix_5-seed_2", "grpo-seed_2",
        "t_mix_5-seed_3", "grpo-seed_3",
    ]  # fmt: skip
    assert jobs[3].folder == Path("r/t_mix_5/seed_2")
    assert jobs[3].log == Path("r/logs/t_mix_5-seed_2.log")
    assert [(job.steps, job.kind, job.after) for job in jobs] == [(48, JobKind.train, None)] * 7


def test_seeds_and_keys_of_the_user_come_last() -> None:
    jobs = plan("experiments=[grpo]", "seeds=[7,5]", "dir=r", 'train_keys=["algorithm.steps=3","validation.every=2"]')
    assert [job.seed for job in jobs] == [7, 5]
    arguments = shlex.split(jobs[0].command)
    assert arguments[:5] == ["python", "recipes/train_s2l.py", "--config-name", "train_s2l", "experiment=grpo"]
    assert arguments[-4:] == ["algorithm.steps=3", "validation.every=2", "run.dir=r/grpo/seed_7", "run.seed=7"]
    assert jobs[0].steps == 3
    assert jobs[0].argv(ROOT)[:2] == [sys.executable, str(ROOT / "recipes/train_s2l.py")]


def test_evaluations_follow_their_run_at_paper_scale() -> None:
    training, curve = plan("experiments=[high_temperature]", "seeds=[4]", "scale=paper", 'evaluate_keys=["seed=9"]')
    assert (training.kind, curve.kind, curve.after) == (JobKind.train, JobKind.evaluate, "high_temperature-seed_4")
    run = "runs/reproduce/paper/high_temperature/seed_4"
    assert curve.command == (
        f"python recipes/evaluate.py --config-name step_curve model={run} steps=all name=step_curve seed=9 "
        f"evaluate.dir={run}/evaluation"
    )
    names = [job.name for job in plan("experiments=[s2l_4b_to_14b]", "scale=paper")]
    assert names == [f"s2l_4b_to_14b-seed_1{rest}" for rest in ("", "-table_1", "-table_2")]


def test_models_are_evaluated_before_any_training(tmp_path: Path) -> None:
    jobs = plan("experiments=[grpo,figure_2]", "seeds=[1]", f"dir={tmp_path}")
    assert [(job.name, job.experiment, job.seed, job.kind) for job in jobs[:2]] == [
        ("explorer-figure_2", "explorer", 0, JobKind.models), ("learner-figure_2", "learner", 0, JobKind.models),
    ]  # fmt: skip
    assert jobs[2].name == "grpo-seed_1"
    words = shlex.split(jobs[1].command)
    assert {"model=models/coverage/learner", "name=learner", "benchmarks=[held_out]", "k=64"} <= set(words)
    assert words[-1] == f"evaluate.dir={tmp_path}/evaluation"
    explorer, learner = plan("experiments=[figure_2]", "scale=paper")
    assert "--config-name figure_2_base model=models/Qwen3-4B-Base name=explorer" in explorer.command
    assert "--config-name figure_2_base model=models/Qwen3-8B-Base name=learner" in learner.command
    for one in (*jobs[:2], explorer, learner):
        cfg = load_values(list(one.arguments[1:]), EvaluateConfig, "", CONF / "evaluate")
        check_evaluate_config(cfg)


def test_held_out_questions_are_those_of_the_validations(tmp_path: Path) -> None:
    cfg = config(next(one for one in EXPERIMENTS if one.name == "grpo"), Scale.toy)
    rows = [json.loads(line) for line in write_held_out(cfg.data, tmp_path / "p").read_text().splitlines()]
    assert len(rows) == 128
    validation = read_split(cfg.data, "valid", cfg.validation.prompts).rows[:128]
    assert rows == [{"question": row.question, "answer": row.answer} for row in validation]


def test_make_reproduce_has_three_seeds_for_the_claims_and_one_for_the_rest() -> None:
    seeds = {one.name: one.seeds for one in EXPERIMENTS if Scale.toy in one.scales}
    main = {
        "s2l", "grpo", "released_grpo_step_matched", "released_8b", "high_temperature", "small_only", "abrupt_switch",
        "t_mix_5",
    }  # fmt: skip
    assert {name for name, count in seeds.items() if count == CLAIM_SEEDS == 3} == main
    assert {count for name, count in seeds.items() if name not in main} == {1}


@pytest.mark.parametrize("one", EXPERIMENTS, ids=lambda one: one.name)
def test_every_experiment_has_its_presets(one: Experiment) -> None:
    families = [CONF / f"{key.replace('=', '/')}.yaml" for key in one.paper_keys]
    presets = [CONF / "experiment" / f"{one.preset}.yaml"] if one.preset else []
    if missing := [file.name for file in (*families, *presets) if not file.is_file()]:
        pytest.skip(f"{', '.join(missing)}: of another branch, not there yet")
    for scale in one.scales:
        config(one, scale)
    for evaluation in one.evaluations:
        assert (CONF / "evaluate" / f"{evaluation.preset}.yaml").is_file()


def test_toy_runs_have_three_times_the_papers_schedule() -> None:
    by_name = {one.name: one for one in EXPERIMENTS}
    for name, t_mix in (("s2l", None), ("t_mix_5", 5)):
        toy, paper = (config(by_name[name], scale).algorithm for scale in Scale)
        assert (paper.steps, paper.group_size, paper.schedule.t_mix) == (16, 16, t_mix)
        assert (toy.steps, toy.group_size, toy.schedule.t_mix) == (3 * 16, 16, t_mix and 3 * t_mix)
    assert set(CONFIG_NAMES) == set(Scale)


@pytest.mark.parametrize("family", list(ToyFamily))
def test_toy_runs_take_the_models_of_their_family(family: ToyFamily) -> None:
    for one in EXPERIMENTS:
        if Scale.toy not in one.scales:
            continue
        cfg = checked(training_arguments(one, ReproduceConfig(family=family, dir="root"), 1))
        assert cfg.model.path == f"models/{family.value}/learner"
        assert cfg.explorer.path in (None, f"models/{family.value}/explorer"), one.name
        assert cfg.explorer.source is not ExplorerSource.store


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiments=[grp]"], "experiments: grp is unknown: did you mean grpo? choose of s2l, "),
        (["experiments=[grpo_14b]"], "experiments: grpo_14b needs models that scale=toy does not have"),
        (["experiments=[grpo,grpo]"], "experiments=[grpo,grpo]: give each once"),
        (["seeds=[2,2]"], "seeds=[2,2]: give each once"),
        (["seeds=[-1]"], "seeds=[-1]: must be from 0 to 4294967295"),
        (["seeds=[a]"], "seeds=['a']: expected list of integer"),
        (["scale=huge"], "scale=huge: expected toy | paper"),
        (["dir=' '"], "dir= : must be the path of a folder"),
        (["submit=true"], "submit=true with slurm=false"),
        (["slurm=true"], "slurm=true with scale=toy"),
        (["dry_run=true", "judge_only=true"], "judge_only=true and dry_run=true ask for two things"),
        (["experiments=[grpo]", "train_keys=[algorithm.stepz:3]"], "cannot read"),
        (["experiments=[grpo]", 'train_keys=["algorithm.stepz=3"]'], "unknown key algorithm.stepz=3"),
        (["experiments=[grpo]", 'train_keys=["algorithm.prompts_per_step=3"]'], "cannot be shared by 2"),
    ],
)
def test_mistakes_show_before_anything_runs(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        plan(*arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_everything_lies_in_one_folder() -> None:
    assert root_of(load_values([], ReproduceConfig, "")) == Path("runs/reproduce/toy")
    assert root_of(load_values(["dir=x", "scale=paper"], ReproduceConfig, "")) == Path("x")
