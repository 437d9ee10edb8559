from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest

from s2l_nemo.actor.model_config import nemo_seed
from s2l_nemo.config.checks import check_config, check_model_files
from s2l_nemo.config.keys import all_keys
from s2l_nemo.config.load import load_config
from s2l_nemo.config.parts import data_parallel_size
from s2l_nemo.config.schema import Config
from s2l_nemo.errors import UserError

CONF = Path(__file__).parents[2] / "conf"

QWEN3 = {
    "model_type": "qwen3",
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "eos_token_id": 3,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
}


def tp2(overrides: list[str]) -> Config:
    return load_config(["--config-name", "tiny_tp2", *overrides], CONF)


def error_of(overrides: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        check_config(tp2(overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "fragments"),
    [
        ("trainer.devices=3", ["tensor_model_parallel_size=2", "does not divide the 3 ranks", "multiple of 2"]),
        ("model.pipeline_model_parallel_size=3", ["pipeline_model_parallel_size=3", "multiple of 6"]),
        ("algorithm.mini_batch_prompts=5", ["mini_batch_prompts=5", "prompts_per_step=32", "divisor of 32"]),
        ("algorithm.mini_batch_prompts=64", ["mini_batch_prompts=64", "divisor of 32"]),
        (
            "trainer.devices=8 algorithm.mini_batch_prompts=2",
            ["algorithm.mini_batch_prompts=2", "4 data-parallel ranks", "multiple of 4"],
        ),
        ("trainer.devices=6", ["algorithm.prompts_per_step=32", "3 data-parallel ranks", "multiple of 3"]),
        ("model.micro_batch_size=48", ["micro_batch_size=48", "512 sequences", "divisor of 512"]),
        ("algorithm.schedule.t_mix=41", ["algorithm.schedule.t_mix=41", "0..40"]),
        ("algorithm.schedule.t_mix=-1", ["algorithm.schedule.t_mix=-1", "0..40"]),
        ("algorithm.schedule.alpha=1.1", ["algorithm.schedule.alpha=1.1", "0 to 1"]),
        ("explorer.path=null", ["explorer.path=null", "schedule.name=linear", "algorithm.schedule.name=none"]),
        ("algorithm.group_size=1", ["algorithm.group_size=1", "at least 2"]),
        ("model.optim.min_lr=1", ["model.optim.min_lr=1.0", "model.optim.lr=0.0001"]),
        (
            "algorithm.overlong_buffer=65 rollout.max_response_length=64",
            ["algorithm.overlong_buffer=65", "rollout.max_response_length=64", "at most 64"],
        ),
        (
            "algorithm.rejected=drop algorithm.drop_zero_variance=true",
            ["algorithm.rejected=drop with algorithm.drop_zero_variance=true"],
        ),
        ("trainer.accelerator=cpu model.transformer_engine=true", ["transformer_engine=true", "needs a GPU"]),
        ("data.path=a.jsonl", ["data.path=a.jsonl without data.valid_path"]),
        ("engine.placement=separate", ["engine.placement=separate with engine.kind=embedded"]),
        ("engine.placement=separate engine.kind=server engine.learner_devices=1", ["without engine.explorer_devices"]),
        ("engine.kind=server engine.learner_devices=1", ["engine.learner_devices=1 with engine.placement=colocated"]),
        (
            "engine.placement=separate engine.kind=server engine.explorer_devices=0 engine.learner_devices=1 "
            "engine.tensor_parallel_size=2",
            ["engine.explorer_devices=0: give 2 different GPUs"],
        ),
        ("engine.kind=server engine.replicas_per_node=3", ["engine.replicas_per_node=3 is more than trainer.devices="]),
        ("engine.python=/opt/python", ["engine.python=/opt/python with engine.kind=embedded"]),
        ("data.valid_path=a.jsonl", ["data.valid_path=a.jsonl without data.path"]),
        (
            "engine.kind=tensorrt_llm rollout.top_p=0.9",
            ["rollout.top_p=0.9 with engine.kind=tensorrt_llm", "set rollout.top_p=1 and rollout.top_k=0"],
        ),
        ("engine.kind=tensorrt_llm rollout.top_k=20", ["rollout.top_k=20 with engine.kind=tensorrt_llm"]),
        (
            "engine.kind=tensorrt_llm explorer.top_p=0.9",
            ["explorer.top_p=0.9 with engine.kind=tensorrt_llm", "set explorer.top_p=1 and explorer.top_k=0"],
        ),
        ("rollout.explorer_ahead=true", ["explorer_ahead=true with engine.placement=colocated", "placement=separate"]),
        (
            "rollout.explorer_ahead=true engine.kind=server engine.placement=separate engine.explorer_devices='0' "
            "engine.learner_devices='1' algorithm.rescue_first=2",
            ["rollout.explorer_ahead=true with algorithm.rescue_first=2"],
        ),
        ("rollout.replay=s", ["rollout.replay=s with explorer.source=live", "set explorer.source=store"]),
        (
            "rollout.replay=s explorers.a.path=x explorers.a.source=store explorers.b.path=y",
            ["rollout.replay=s with explorers.b.source=live", "for plain GRPO explorers.b.path=null"],
        ),
        (
            "rollout.replay=s explorer.source=store rollout.explorer_filter=match_learner_diversity",
            ["rollout.replay=s with rollout.explorer_filter=match_learner_diversity"],
        ),
        (
            "rollout.replay=s explorer.source=store engine.kind=server engine.placement=separate "
            "engine.learner_devices='1' rollout.explorer_ahead=true",
            ["rollout.replay=s with rollout.explorer_ahead=true"],
        ),
        ("rollout.replay=''", ["rollout.replay=: must be the path of a folder"]),
        ("algorithm.explorer_mini_batch=4", ["explorer_mini_batch=4 without rollout.two_updates=true"]),
        ("rollout.two_updates=true", ["rollout.two_updates=true without model.micro_batch_tokens"]),
        ("rollout.two_updates=true algorithm.refill_rounds=1", ["two_updates=true with algorithm.refill_rounds=1"]),
        ("rollout.two_updates=true algorithm.schedule.name=adaptive", ["with algorithm.schedule.name=adaptive"]),
        (
            "rollout.two_updates=true rollout.explorer_filter=match_learner_diversity",
            ["two_updates=true with rollout.explorer_filter=match_learner_diversity"],
        ),
        (
            "rollout.two_updates=true model.micro_batch_tokens=4096 algorithm.explorer_mini_batch=5 trainer.devices=4",
            ["algorithm.explorer_mini_batch=5 cannot be shared by 2", "choose a multiple of 2"],
        ),
        ("algorithm.rescue_first=16", ["algorithm.rescue_first=16 leaves no sample", "algorithm.group_size=16"]),
        ("algorithm.rescue_first=2 experiment=grpo", ["rescue_first=2 with algorithm.schedule.name=none"]),
        ("explorer.source=learner", ["explorer.path=models/tiny/explorer with explorer.source=learner: no explorer"]),
        (
            "explorer.source=learner explorer.path=null explorer.top_p=0.9",
            ["explorer.top_p=0.9 with explorer.source=learner: there is no explorer"],
        ),
        (
            "explorer.source=learner explorer.path=null algorithm.rescue_first=2",
            ["algorithm.rescue_first=2 with explorer.source=learner"],
        ),
        (
            "explorer.source=learner explorer.path=null rollout.explorer_filter=match_learner_diversity",
            ["rollout.explorer_filter=match_learner_diversity with explorer.source=learner"],
        ),
        (
            "explorer.source=learner explorer.path=null algorithm.schedule.name=none",
            ["algorithm.schedule.name=none with explorer.source=learner"],
        ),
        ("explorers.a.path=x explorers.a.source=learner", ["only explorer.source may be learner"]),
        ("rollout.filter_candidates=32", ["rollout.filter_candidates=32 with rollout.explorer_filter=none"]),
        (
            "rollout.filter_candidates=16 rollout.explorer_filter=match_learner_diversity",
            ["rollout.filter_candidates=16 leaves no choice", "algorithm.group_size=16"],
        ),
        (
            "rollout.filter_candidates=32 rollout.explorer_filter=match_learner_diversity explorers.a.path=a "
            "explorers.b.path=b",
            ["rollout.filter_candidates=32 with several explorers"],
        ),
        (
            "algorithm.rescue_first=2 rollout.explorer_filter=match_learner_diversity",
            ["algorithm.rescue_first=2 with rollout.explorer_filter=match_learner_diversity"],
        ),
        ("explorer.max_response_length=97", ["explorer.max_response_length=97 is more than", "rollout.max_response"]),
        ("explorer.samples=4", ["explorer.samples and explorer.draw are for explorer.source=store"]),
        ("explorer.source=stored", ["explorer.source=stored: expected live | store"]),
        ("explorers.hot.path=null", ["explorers.hot has no path", "explorers.hot.path=FOLDER"]),
        ("explorers.hot.path=a explorers.hot.share=0", ["explorers.hot.share=0.0: must be greater than 0"]),
        ("explorers.hot.pth=a", ["explorers.hot: unknown key pth=a", "nearest known key is path"]),
        ("explorers.learner.path=a", ["explorers.learner: an explorer's name"]),
        ("explorers.Hot.path=a", ["explorers.Hot: an explorer's name has small letters"]),
        ("explorers.hot=3", ["explorers.hot=3: expected keys below it"]),
    ],
)
def test_rules_across_keys(overrides: str, fragments: list[str]) -> None:
    message = error_of(overrides.split())
    for fragment in fragments:
        assert fragment in message


OUT_OF_RANGE = {
    "run.dir": "' '",
    "algorithm.importance_cap": 0.5,
    "algorithm.importance_floor": 1.5,
    "algorithm.icepop_alpha": 1.5,
    "algorithm.icepop_beta": 0.5,
    "algorithm.clip_low": 1.5,
    "algorithm.dual_clip": 1.0,
    "algorithm.schedule.target": 1.5,
    "model.optim.beta1": 1.0,
    "model.optim.beta2": 1.0,
    "rollout.top_p": 1.5,
    "rollout.replay": "' '",
    "data.instruction": "' '",
}
RANGED = sorted(name for name, key in all_keys().items() if key.facts.range is not None and not key.is_mapping)


@pytest.mark.parametrize("key", RANGED)
def test_every_range_refuses(key: str) -> None:
    bad = OUT_OF_RANGE.get(key, -1)
    text = str(bad).strip("'")
    shown = (f"{key}={text}: must be ", f"{key}={text}.0: must be ")
    assert error_of([f"{key}={bad}"]).startswith(shown)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_rates_must_be_finite(value: str) -> None:
    assert f"model.optim.lr={value}" in error_of([f"model.optim.lr={value}"])


@pytest.mark.parametrize(
    "overrides",
    [
        "algorithm.schedule.t_mix=0",
        "algorithm.schedule.t_mix=40",
        "algorithm.schedule.name=none explorer.path=null",
        "algorithm.kl_coef=0",
        "algorithm.dual_clip=3",
        "algorithm.overlong_buffer=64 rollout.max_response_length=64",
        "algorithm.clip_low=null algorithm.clip_high=null",
        "validation.temperature=0",
        "trainer.devices=4 model.pipeline_model_parallel_size=2",
        "trainer.devices=8 algorithm.mini_batch_prompts=4 model.micro_batch_size=16",
        "data.path=a.jsonl data.valid_path=b.jsonl",
        "trainer.accelerator=gpu model.precision=bf16 model.transformer_engine=true",
        "trainer.accelerator=cpu model.precision=bf16",
    ],
)
def test_what_is_allowed(overrides: str) -> None:
    check_config(tp2(overrides.split()))


def test_data_parallel_size() -> None:
    cfg = tp2(["trainer.devices=8", "trainer.num_nodes=2", "model.pipeline_model_parallel_size=2"])
    assert data_parallel_size(cfg) == 4


def check_files(folder: Path, learner: dict[str, Any], explorer: dict[str, Any] | None, *overrides: str) -> None:
    for name, content in (("learner", learner), ("explorer", explorer)):
        if content is not None:
            (folder / name).mkdir()
            (folder / name / "config.json").write_text(json.dumps(content))
    cfg = tp2([f"model.path={folder}/learner", f"explorer.path={folder}/explorer", *overrides])
    check_config(cfg)
    check_model_files(cfg)


def test_a_family_that_fits(tmp_path: Path) -> None:
    check_files(tmp_path, QWEN3, QWEN3 | {"num_hidden_layers": 2, "hidden_size": 16, "vocab_size": 62})


def test_an_explorer_that_no_step_uses_may_be_another_model(tmp_path: Path) -> None:
    check_files(
        tmp_path, QWEN3, QWEN3 | {"max_position_embeddings": 8, "vocab_size": 3}, "algorithm.schedule.name=none"
    )


def test_a_run_without_an_explorer_opens_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN3))
    models = check_model_files(load_config([f"model.path={tmp_path}", "experiment=grpo"], CONF))
    assert models.explorers == ()
    assert models.learner.shape.hidden == 32


@pytest.mark.parametrize(
    ("learner", "explorer", "overrides", "fragments"),
    [
        ({}, None, "", ["explorer.path=", "explorer is not a folder", "tools/make_tiny_family.py"]),
        (
            {"model_type": "gpt2"},
            {},
            "",
            ["learner/config.json", "model_type=gpt2", "qwen3, internlm2, llama or qwen2"],
        ),
        ({}, {"model_type": "gpt2"}, "", ["explorer/config.json", "model_type=gpt2"]),
        ({"rope_theta": None}, {}, "", ["learner/config.json", "rope_theta=None"]),
        ({}, {"rms_norm_eps": 0}, "", ["explorer/config.json", "rms_norm_eps=0"]),
        ({"head_dim": None}, {}, "", ["learner/config.json", "head_dim=None"]),
        ({"num_hidden_layers": "4"}, {}, "", ["num_hidden_layers=4 must be a positive integer"]),
        ({"num_key_value_heads": 1}, {}, "", ["tensor_model_parallel_size=2", "num_key_value_heads=1", "divisor of 1"]),
        ({"vocab_size": 65}, {}, "", ["tensor_model_parallel_size=2", "vocab_size=65"]),
        (
            {"num_hidden_layers": 3},
            {},
            "trainer.devices=4 model.pipeline_model_parallel_size=2",
            ["pipeline_model_parallel_size=2", "num_hidden_layers=3", "divisor of 3"],
        ),
        ({}, {}, "rollout.max_response_length=200", ["max_prompt_length=64", "response_length=200", "256", "by 8"]),
        ({}, {"max_position_embeddings": 128}, "", ["more than the 128 positions", "explorer"]),
        ({}, {"vocab_size": 66}, "", ["vocab_size=66", "64", "model.path=", "explorer.path="]),
        ({}, {"eos_token_id": 4}, "", ["eos_token_id=4", "has 3", "model.path=", "explorer.path="]),
    ],
)
def test_model_files(
    tmp_path: Path, learner: dict[str, Any], explorer: dict[str, Any] | None, overrides: str, fragments: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        check_files(tmp_path, QWEN3 | learner, None if explorer is None else QWEN3 | explorer, *overrides.split())
    assert "\n" not in str(caught.value)
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("content", "fragment"),
    [(None, "has no config.json"), ("{", "is not JSON"), ("[1]", "not a JSON object"), ("[" * 100000, "is not JSON")],
)
def test_f12_a_broken_model_folder(tmp_path: Path, content: str | None, fragment: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=fragment):
        check_model_files(load_config([f"model.path={tmp_path}"], CONF))


@pytest.mark.parametrize("engine", ["embedded", "server"])
def test_f24_truncated_sampling_with_engines_whose_log_probs_know_of_it(engine: str) -> None:
    check_config(load_config([f"engine.kind={engine}", "rollout.top_p=0.9", "rollout.top_k=20"], CONF))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_f03_a_seed_that_libraries_do_not_take_is_one_line(seed: int) -> None:
    assert error_of([f"run.seed={seed}"]) == f"run.seed={seed}: must be from 0 to 4294967295"


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_f03_every_other_seed_is_one_for_nemo_too(seed: int) -> None:
    check_config(tp2([f"run.seed={seed}"]))
    own = nemo_seed(seed)
    assert own == {0: 1, 2**31: 2, 2**32 - 1: 2}.get(seed, seed)
    for stage in (0, 1000):
        numpy.random.RandomState(own + 100 * stage)
        assert own + 100 * stage > 0  # what NeMo asks for


@pytest.mark.parametrize("key", ["rollout.temperature", "explorer.temperature", "validation.temperature"])
def test_f29_a_temperature_that_logits_cannot_be_divided_by_is_one_line(key: str) -> None:
    assert error_of([f"{key}=1e-40"]).startswith(f"{key}=1e-40: must be ")
