"""The presets of the paper's experiments: their figures with the place where the paper says them, and nothing twice."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from s2l_nemo.config.checks import check_config
from s2l_nemo.config.controls import explorer_draws
from s2l_nemo.config.evaluation import EvaluateConfig
from s2l_nemo.config.explorers import explorers_of
from s2l_nemo.config.load import load_config, load_values, presets
from s2l_nemo.config.parts import parts_of_step
from s2l_nemo.config.schema import Config, ExplorerSource
from s2l_nemo.config.store import SampleConfig, check_sample_config
from s2l_nemo.planner import cost
from s2l_nemo.planner.memory import memory_by_part, memory_by_phase, reserved_kv, shapes_of_models
from s2l_nemo.planner.plan import render_plan, splits, updates_of_step

CONF = Path(__file__).parents[2] / "conf"
EXPERIMENTS = presets(CONF / "experiment")
EVALUATIONS = presets(CONF / "evaluate")
NOTHINK = [name for name in EVALUATIONS if not name.startswith("figure_2")]
TOYS = ("tiny", "coverage")  # families that are made on this machine
PAIRS = [name for name in presets(CONF / "family") if name not in TOYS]
SCALES = ["train_s2l", "paper"]
GROUPS = ["family", "hardware", "like", "experiment"]
Value = tuple[str, Any]


@cache
def training(*argv: str) -> Config:
    return load_config(["--config-name", *argv], CONF)


@cache
def evaluating(name: str) -> EvaluateConfig:
    return load_values(["--config-name", name, "model=m"], EvaluateConfig, "usage", CONF / "evaluate")


@cache
def sampling(name: str) -> SampleConfig:
    return load_values(["--config-name", name], SampleConfig, "usage", CONF / "store")


# The paper's text that is at hand has no page numbers: sections, appendices, tables and captions are cited.
APPENDIX_C = "Appendix C"
ALGORITHM_1 = "Section 3.2, Algorithm 1"
README = "the released README"
CODE = "the released code, commit 0a9f929"
TRAINING = [
    ("", "algorithm.prompts_per_step", 1024, APPENDIX_C),
    ("", "rollout.max_prompt_length", 512, APPENDIX_C),
    ("", "rollout.max_response_length", 4096, APPENDIX_C),
    ("", "model.optim.lr", 1e-6, APPENDIX_C),
    ("", "algorithm.mini_batch_prompts", 16, APPENDIX_C),
    ("", "model.micro_batch_size", 2, APPENDIX_C),
    ("", "algorithm.kl_coef", 1e-3, APPENDIX_C),
    ("", "algorithm.kl_estimator", "k3", APPENDIX_C + ": low-variance"),
    ("", "algorithm.entropy_coef", 0.0, APPENDIX_C),
    ("", "model.tensor_model_parallel_size", 1, APPENDIX_C),
    ("", "trainer.devices", 8, APPENDIX_C),
    ("", "trainer.num_nodes", 1, "Section 4.1: a single node"),
    ("", "checkpoint.every", 1, APPENDIX_C),
    ("", "validation.every", 100, APPENDIX_C),
    ("", "algorithm.steps", 16, APPENDIX_C),
    ("", "algorithm.schedule.name", "linear", APPENDIX_C + "; " + ALGORITHM_1),
    ("", "algorithm.adv_norm", "mixed", "Section 3.2: over the combined candidate set"),
    ("", "algorithm.schedule.t_mix", None, "Section 3.2: by default the first half; Appendix C: 8 of 16"),
    ("", "algorithm.group_size", 16, README + "; the paper's text does not say it"),
    ("", "algorithm.optimizer_passes", 1, ALGORITHM_1 + " has U, without a value; verl"),
    ("", "algorithm.importance", "learner_old", CODE + "; Eq. 2 has the policy that sampled"),
    ("", "rollout.two_updates", False, ALGORITHM_1 + ": one group for each prompt"),
    ("", "rollout.temperature", 1.0, "verl's defaults (Section 4.1)"),
    ("", "rollout.top_p", 1.0, "verl's defaults (Section 4.1)"),
    ("", "explorer.temperature", None, ALGORITHM_1 + ": the learner's"),
    ("", "explorer.source", "live", ALGORITHM_1),
    ("", "algorithm.aggregation", "token_mean", "verl's defaults (Section 4.1); Eq. 2 has the mean over rollouts"),
    ("", "algorithm.adv_eps", 1e-6, "Eq. 1, without a value; verl"),
    ("", "algorithm.adv_baseline", "mean", "Eq. 1"),
    ("", "algorithm.advantage", "group", "Eq. 1"),
    ("", "algorithm.adv_std", "sample", "Eq. 1; verl"),
    ("", "algorithm.clip_low", 0.2, "Eq. 2; verl"),
    ("", "algorithm.clip_high", 0.2, "Eq. 2; verl"),
    ("", "data.path", "data/dapo_17k/train.jsonl", "Section 4.1: DAPO-17k"),
    ("", "data.chat_template_kwargs.enable_thinking", False, "Section 4.1: nothink"),
    ("", "model.path", "models/Qwen3-8B-Base", "Table 1"),
    ("", "explorer.path", "models/Qwen3-1.7B-Base", "Table 1"),
    ("family=qwen3_4b_to_14b", "model.path", "models/Qwen3-14B-Base", "Table 1"),
    ("family=qwen3_4b_to_14b", "explorer.path", "models/Qwen3-4B-Base", "Table 1"),
    ("family=internlm2.5_1.8b_to_7b", "model.path", "models/internlm2_5-7b", "Table 1"),
    ("family=internlm2.5_1.8b_to_7b", "explorer.path", "models/internlm2_5-1_8b", "Table 1"),
    ("family=internlm2.5_1.8b_to_7b", "data.chat_template_kwargs.enable_thinking", None, "no mode of InternLM2.5"),
    ("family=qwen3_4b_to_8b", "model.path", "models/Qwen3-8B-Base", "Table 2"),
    ("family=qwen3_4b_to_8b", "explorer.path", "models/Qwen3-4B-Base", "Table 2"),
    ("experiment=grpo", "explorer.path", None, "Tables 1, 2 and 4"),
    ("experiment=grpo", "algorithm.schedule.name", "none", "Tables 1, 2 and 4"),
    ("experiment=high_temperature", "rollout.temperature", 1.5, "Section 4.2; Figure 3c"),
    ("experiment=high_temperature", "algorithm.schedule.name", "none", "Figure 3c: without policy-level diversity"),
    ("experiment=high_temperature", "explorer.path", None, "Figure 3c: without policy-level diversity"),
    ("experiment=without_diversity", "rollout.explorer_filter", "match_learner_diversity", "Section 4.3; Table 4"),
    ("experiment=without_diversity_constant_g", "rollout.filter_candidates", 32, "Table 4; " + CODE + ": 32 samples"),
    ("experiment=without_diversity_constant_g", "explorer.source", "store", "Section 1: rollouts offline"),
    ("experiment=small_only", "algorithm.schedule.name", "constant", "Section 4.4; Figure 5"),
    ("experiment=small_only", "algorithm.schedule.alpha", 1.0, "Section 4.4: never transitions"),
    ("experiment=abrupt_switch", "algorithm.schedule.name", "abrupt", "Section 4.4; Figure 6: two phases"),
    ("experiment=t_mix_5", "algorithm.schedule.t_mix", 5, "Section 4.4; Figure 7"),
    ("experiment=released_8b", "rollout.two_updates", True, CODE),
    ("experiment=released_8b", "algorithm.adv_norm", "split", CODE),
    ("experiment=released_8b", "algorithm.group_size", 16, CODE),
    ("experiment=released_8b", "algorithm.mini_batch_prompts", 32, CODE),
    ("experiment=released_8b", "algorithm.explorer_mini_batch", 32, CODE + ": sequences"),
    ("experiment=released_8b", "model.micro_batch_tokens", 4 * (512 + 4096), CODE + ": 4 rows"),
    ("experiment=released_8b", "explorer.temperature", 0.7, CODE),
    ("experiment=released_8b", "explorer.top_p", 0.95, CODE),
    ("experiment=released_8b", "data.valid_path", "data/gsm8k/test.jsonl", CODE),
    ("experiment=released_14b", "algorithm.group_size", 8, CODE),
    ("experiment=released_14b", "algorithm.schedule.t_mix", 4, CODE),
    ("experiment=released_14b", "algorithm.mini_batch_prompts", 16, CODE),
    ("experiment=released_14b", "algorithm.explorer_mini_batch", 16, CODE + ": sequences"),
    ("experiment=released_14b", "model.micro_batch_tokens", 2 * (512 + 4096), CODE + ": 2 rows"),
    ("experiment=released_grpo", "algorithm.mini_batch_prompts", 128, CODE),
    ("experiment=released_grpo", "model.micro_batch_size", 4, CODE),
    ("like=verl", "model.optim.weight_decay", 0.01, "verl's defaults (Section 4.1)"),
    ("like=verl", "algorithm.dual_clip", 3.0, "verl's defaults (Section 4.1)"),
    ("like=verl", "algorithm.kl_clamp", 10.0, "verl's defaults (Section 4.1)"),
    ("like=verl", "validation.temperature", 0.0, "verl's defaults (Section 4.1)"),
    ("like=verl", "validation.samples", 1, "verl's defaults (Section 4.1)"),
]
EVALUATING = [
    *((name, "evaluate.prompt", "released", README) for name in EVALUATIONS),
    *((name, "evaluate.temperature", None, "Section 4.1: that of nothink") for name in NOTHINK),
    *((name, "evaluate.top_p", None, "Section 4.1: that of nothink") for name in NOTHINK),
    ("table_1", "benchmarks", ["aime24", "aime25", "math500", "olympiadbench"], "Section 4.1; Table 1"),
    ("table_1", "k", 16, "Section 4.1"),
    ("table_1", "mode", "nothink", "Section 4.1"),
    ("table_2", "benchmarks", ["commonsenseqa"], "Table 2"),
    ("table_2", "k", 4, "the released evaluation"),
    ("table_3", "benchmarks", ["aime24"], "Section 4.3; Table 3"),
    ("table_3", "k", 64, "Section 4.3; Table 3"),
    ("table_4", "benchmarks", ["aime24", "aime25"], "Table 4"),
    ("table_4", "k", 16, "Section 4.1"),
    ("figure_2_base", "benchmarks", ["aime24", "aime25"], "Figure 2"),
    ("figure_2_base", "k", 64, "Figure 2, left"),
    ("figure_2_base", "evaluate.temperature", 0.7, "Figure 2, left"),
    ("figure_2_base", "evaluate.top_p", 0.8, "Figure 2, left"),
    ("figure_2_base_256", "benchmarks", ["aime24", "aime25"], "Figure 2"),
    ("figure_2_base_256", "k", 256, "Figure 2, right"),
    ("figure_2_base_256", "evaluate.temperature", 0.6, "Figure 2, right"),
    ("figure_2_base_256", "evaluate.top_p", 0.95, "Figure 2, right"),
    ("step_curve", "benchmarks", ["aime24", "aime25"], "Figures 3c and 4 to 7"),
    ("step_curve", "steps", ["all"], "Figures 3c and 4 to 7"),
    ("step_curve", "k", 8, "the released curves"),
]
# What no key can change, and the test that holds it.
BEHAVIOUR = [
    (APPENDIX_C + ": overlong prompts are filtered, none is cut",
     "data/test_prompts.py", "test_longer_prompts_are_filtered_and_counted_and_rows_keep_their_number"),
    (APPENDIX_C + ": KL is no part of the reward",
     "algorithm/test_policy_loss.py", "test_kl_on_explorer_tokens_and_explorer_coefficient"),
    (APPENDIX_C + "; " + ALGORITHM_1 + ": from 1 to 0 over the first 8 steps, then 0",
     "algorithm/test_schedule.py", "test_linear_gives_the_numbers_of_the_paper"),
    ("Section 4.1, nothink: temperature 0.7, top-p 0.8, top-k 20, presence penalty 1.5 in " + README,
     "evaluation/test_sampling_plan.py", "test_modes_are_those_of_the_model_card"),
]  # fmt: skip
SAMPLING = [
    ("qwen3_1.7b", "model", "models/Qwen3-1.7B-Base", "Table 4"),
    ("qwen3_1.7b", "samples", 32, "Table 4, at a constant group size"),
    ("qwen3_1.7b", "data.chat_template_kwargs.enable_thinking", False, "as the paper preset"),
    ("released_4b", "model", "models/Qwen3-4B-Base", CODE),
    ("released_4b", "samples", 32, CODE),
    ("released_4b", "rollout.temperature", 0.7, CODE),
    ("released_4b", "rollout.top_p", 0.95, CODE),
]


def found(cfg: object, key: str) -> object:
    value = OmegaConf.select(cast(Any, cfg), key)
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def test_every_figure_of_the_paper() -> None:
    wrong = []
    for choice, key, value, source in TRAINING:
        if (is_there := found(training("paper", *filter(None, [choice])), key)) != value:
            wrong.append(f"{choice} {key}={is_there}, {value} in {source}")
    for name, key, value, source in EVALUATING:
        if (is_there := found(evaluating(name), key)) != value:
            wrong.append(f"{name} {key}={is_there}, {value} in {source}")
    for name, key, value, source in SAMPLING:
        if (is_there := found(sampling(name), key)) != value:
            wrong.append(f"{name} {key}={is_there}, {value} in {source}")
    assert wrong == []


@pytest.mark.parametrize(("source", "file", "test"), BEHAVIOUR, ids=lambda value: str(value)[:20])
def test_what_no_key_can_change_has_its_test(source: str, file: str, test: str) -> None:
    assert f"def {test}(" in (CONF.parent / "tests" / file).read_text(encoding="utf-8"), source


# Keys of conf/ that are choices of this project. The files say why.
OURS = {
    "run.dir", "output", "trainer.accelerator", "model.precision", "model.transformer_engine",
    "model.activation_checkpointing", "model.offload_optimizer", "rollout.max_batch_rows", "data.valid_path",
    "data.instruction", "validation.prompts", "validation.samples", "checkpoint.keep", "explorer.path",
    "explorer.source", "explorer.temperature", "explorer.top_p", "rewards.extract", "rollout.max_prompt_length",
    "rollout.max_response_length", "data.path",
}  # fmt: skip


@pytest.mark.parametrize("file", ["paper.yaml", "experiment", "evaluate", "like", "store"])
def test_every_figure_of_a_preset_is_cited_or_ours(file: str) -> None:
    cited = {
        *(("", key) for choice, key, *_ in TRAINING if not choice),
        *((choice.partition("=")[2], key) for choice, key, *_ in TRAINING),
        *((name, key) for name, key, *_ in (*EVALUATING, *SAMPLING)),
    }
    paths = [CONF / file] if file.endswith(".yaml") else sorted((CONF / file).glob("*.yaml"))
    without = {
        f"{path.stem}: {key}"
        for path in paths
        for key, _ in leaves(yaml.safe_load(path.read_text()) or {})
        if (path.stem if path.parent != CONF else "", key) not in cited and key not in OURS
    }
    assert without == set()


def explorers_part(*argv: str) -> list[int]:
    """G_w of every step until it stays 0."""
    counts = [split.explorer for split in splits(training(*argv))]
    while counts and not counts[-1]:
        counts.pop()
    return counts


def test_schedules_of_the_figures() -> None:
    assert explorers_part("paper", "experiment=s2l") == [16, 14, 12, 10, 7, 5, 3]
    assert explorers_part("paper", "experiment=t_mix_5") == [16, 12, 8, 4]
    assert explorers_part("paper", "experiment=abrupt_switch") == [16] * 8
    assert explorers_part("paper", "experiment=small_only") == [16] * 16
    assert explorers_part("paper", "experiment=released_14b") == [8, 6, 3]
    assert explorers_part("paper", "experiment=grpo") == []


def optimizer_steps(*argv: str) -> list[int]:
    """Of every step of a run."""
    cfg = training(*argv)
    return [updates_of_step(cfg, split) for split in splits(cfg)]


@pytest.mark.parametrize("scale", SCALES)
def test_step_matched_grpo_makes_the_steps_of_s2l(scale: str) -> None:
    """As many optimizer steps in every step, of as many sequences, and no explorer."""
    two = ["rollout.two_updates=true", "model.micro_batch_tokens=9216", "algorithm.explorer_mini_batch=16"]
    pairs = [("s2l", "grpo_step_matched", two), ("s2l", "grpo_step_matched", [])]
    for explored, control, keys in [*pairs, ("released_8b", "released_grpo_step_matched", [])]:
        with_explorer, without = (
            training(scale, f"experiment={experiment}", *keys) for experiment in (explored, control)
        )
        check_config(without)
        assert explorers_of(without) == []
        assert [parts_of_step(without, split.explorer) for split in splits(without)] == [
            parts_of_step(with_explorer, split.explorer) for split in splits(with_explorer)
        ]
    assert sum(optimizer_steps("paper", "experiment=released_grpo_step_matched")) == 2624


def test_optimizer_steps() -> None:
    """S2L-PO here makes as many as GRPO. In the released code it makes 20 times as many."""
    assert optimizer_steps("paper", "experiment=s2l") == optimizer_steps("paper", "experiment=grpo") == [64] * 16
    assert optimizer_steps("paper", "experiment=grpo_step_matched") == [64] * 16
    assert optimizer_steps("paper", "experiment=released_grpo") == [8] * 16
    of_explorer = [32 * count for count in (16, 14, 12, 10, 7, 5, 3)]
    released = [of_explorer[0], *(count + 32 for count in of_explorer[1:]), *[32] * 9]
    assert optimizer_steps("paper", "experiment=released_8b") == released
    assert sum(released) == 2624 == 2144 + 480
    assert sum(optimizer_steps("paper", "experiment=released_14b")) == (8 + 6 + 3) * 64 + 15 * 64
    toy = [sum(optimizer_steps("train_s2l", f"experiment=released_{name}")) for name in ("8b", "grpo")]
    assert toy[0] / toy[1] == pytest.approx(2624 / 128, rel=0.02)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_passes_its_dry_run_at_both_scales(experiment: str, scale: str) -> None:
    cfg = training(scale, f"experiment={experiment}")
    check_config(cfg)
    plan = render_plan(cfg)
    assert "memory: unknown" not in plan or scale == "train_s2l"  # the tiny family may not have been made
    small = cfg.algorithm.prompts_per_step * cfg.algorithm.group_size <= 32 * 16
    assert small == (scale == "train_s2l")
    if scale == "paper":
        check_prediction(cfg)


def check_prediction(cfg: Config) -> None:
    """As tools/plan.py: on every kind of GPU all steps have a time, and who samples has a share of it."""
    learner, explorers = shapes_of_models(cfg)
    assumed = cost.assumed_of(cost.PlanOptions(), cfg)
    for gpu in cost.GPUS:
        steps = cost.predict(cfg, learner, explorers, gpu, assumed).steps
        assert len(steps) == cfg.algorithm.steps
        for step, split in zip(steps, splits(cfg), strict=True):
            assert (step.explorer > 0) == (split.explorer > 0 and bool(explorers))
            assert min(step.logprobs, step.update, step.refit) > 0


@pytest.mark.parametrize("choice", ["like=verl", *(f"family={pair}" for pair in PAIRS)])
def test_other_presets_pass_their_dry_run_and_the_planner(choice: str) -> None:
    cfg = training("paper", choice)
    check_config(cfg)
    assert "memory: unknown" not in render_plan(cfg)
    check_prediction(cfg)


HARDWARE = [(name, gpu, pair) for name, gpu in (("l20_48gb", 0), ("h100_80gb", 1), ("h200_141gb", 2)) for pair in PAIRS]
HARDWARE[HARDWARE.index(("h100_80gb", 1, "qwen3_4b_to_14b"))] = ("h100_80gb_tp4", 1, "qwen3_4b_to_14b")


@pytest.mark.parametrize(("hardware", "gpu", "pair"), HARDWARE)
def test_every_pair_fits(hardware: str, gpu: int, pair: str) -> None:
    """The planner's bytes are within 90 % of the memory, and the learner's engine has room for 16 whole sequences."""
    cfg, device = training("paper", f"hardware={hardware}", f"family={pair}"), cost.GPUS[gpu]
    check_config(cfg)
    learner, explorers = shapes_of_models(cfg)
    totals = memory_by_phase(cfg, memory_by_part(cfg, learner, explorers, device.memory))
    assert {phase.name for phase, count in totals.items() if count > device.usable} == set()
    no_evict = cost.assumed_of(cost.PlanOptions(policy=cost.SchedulerPolicy.no_evict), cfg)
    rows = cost.rows_of_kv(cfg, learner, no_evict, reserved_kv(cfg, learner, explorers, device.memory).learner)
    assert rows >= 16
    assert "memory: unknown" not in render_plan(cfg)
    check_prediction(cfg)


def test_every_hardware_is_fitted() -> None:
    assert {name for name, _, _ in HARDWARE} == set(presets(CONF / "hardware"))


def keys_that_a_store_shares(cfg: Any) -> dict[str, Any]:
    keys = ["rollout.max_prompt_length", "data.path", "data.instruction", "data.chat_template_kwargs", "data.format"]
    return {key: found(cfg, key) for key in keys}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_stored_experiment_has_a_preset_of_its_store(experiment: str) -> None:
    cfg = training("paper", f"experiment={experiment}")
    if cfg.explorer.source is not ExplorerSource.store:
        return
    [store] = [one for name in presets(CONF / "store") if (one := sampling(name)).output == cfg.explorer.path]
    check_sample_config(store)
    assert keys_that_a_store_shares(store) == keys_that_a_store_shares(cfg)
    assert store.rollout.temperature == (cfg.explorer.temperature or cfg.rollout.temperature)
    assert store.rollout.top_p == (cfg.explorer.top_p or cfg.rollout.top_p)
    assert store.rollout.max_response_length >= cfg.rollout.max_response_length
    assert store.samples >= explorer_draws(cfg, cfg.algorithm.group_size)


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[Value]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        elif key != "defaults":
            yield f"{prefix}{key}", value


def composed(folder: Path, name: str, choices: list[str], schema: type) -> Any:
    """As `load_config`, without the checks of each file, which take most of its time."""
    with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
        return OmegaConf.merge(OmegaConf.structured(schema), compose(name, choices))


def uses(file: Path) -> list[tuple[Path, str, list[str], type]]:
    """Where a file of conf/ is in use: folder, preset, choices and schema."""
    group = file.parent.name
    if file.parent == Path():
        return [(Path(), file.stem, [], Config)]
    if group in ("evaluate", "store"):
        return [(Path(group), file.stem, [], EvaluateConfig if group == "evaluate" else SampleConfig)]
    if group == "toy":
        return [(Path(), "train_s2l", [f"experiment={file.stem}"], Config)]
    return [(Path(), scale, [f"{group}={file.stem}"], Config) for scale in reversed(SCALES)]


FILES = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_no_line_repeats_what_is_inherited(file: Path, tmp_path: Path) -> None:
    """Without the lines of a file each of their keys has another value, at one scale at least."""
    values = yaml.safe_load((CONF / file).read_text()) or {}
    shutil.copytree(CONF, tmp_path / "conf")
    head = "# @package _global_\n" if file.parts[0] in GROUPS else ""
    rest = {key: value for key, value in values.items() if key == "defaults"}
    (tmp_path / "conf" / file).write_text(head + yaml.safe_dump(rest))
    repeated = {key for key, _ in leaves(values)}
    for folder, name, choices, schema in uses(file):
        whole, without = (composed(conf / folder, name, choices, schema) for conf in (CONF, tmp_path / "conf"))
        repeated = {key for key in repeated if OmegaConf.select(whole, key) == OmegaConf.select(without, key)}
        if not repeated:
            break
    assert repeated == set()
