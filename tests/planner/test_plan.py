from __future__ import annotations

import json
from pathlib import Path

import pytest

from s2l_nemo.config.load import load_config
from s2l_nemo.models.shape import ModelShape, public_shape, public_shapes
from s2l_nemo.planner.plan import render_plan, splits

CONF = Path(__file__).parents[2] / "conf"
PAPER = ["--config-name", "paper"]
RESIDENT = ("actor weights", "gradients", "fp32 master weights", "contexts, buffers, graphs (assumed)")


@pytest.mark.parametrize(
    ("name", "billions"),
    [("Qwen3-0.6B", 0.596), ("Qwen3-1.7B", 1.72), ("Qwen3-4B", 4.02), ("Qwen3-8B", 8.19), ("Qwen3-14B", 14.77)],
)
def test_public_figures_give_the_published_sizes(name: str, billions: float) -> None:
    assert public_shapes()[name].parameters / 1e9 == pytest.approx(billions, rel=2e-3)


def test_key_value_bytes_of_a_token() -> None:
    assert public_shapes()["Qwen3-1.7B"].kv_elements_per_token * 2 == 114_688
    assert public_shapes()["Qwen3-8B"].kv_elements_per_token * 2 == 147_456


@pytest.mark.parametrize(
    ("path", "name"),
    [("models/Qwen3-8B-Base", "Qwen3-8B"), ("/x/Qwen3-1.7B", "Qwen3-1.7B"), ("Qwen3-8B-Base-tuned", None)],
)
def test_public_models_are_known_by_exact_name(path: str, name: str | None) -> None:
    found = public_shape(path)
    assert (found and found[0]) == name


def test_parameters_by_hand() -> None:
    shape = ModelShape(
        "qwen3",
        vocab=10,
        hidden=4,
        layers=2,
        heads=2,
        kv_heads=1,
        head_dim=3,
        ffn=5,
        max_positions=8,
        tied=False,
        rope_theta=1e6,
        rms_norm_eps=1e-6,
    )
    layer = 4 * 6 + 2 * 4 * 3 + 6 * 4 + 3 * 4 * 5 + 2 * 4 + 2 * 3
    assert shape.layer_parameters == layer
    assert shape.parameters == 2 * layer + 2 * 10 * 4 + 4


def test_schedule_table_of_the_paper() -> None:
    cfg = load_config(PAPER, CONF)
    assert [split.explorer for split in splits(cfg)][:9] == [16, 14, 12, 10, 7, 5, 3, 0, 0]
    plan = render_plan(cfg).splitlines()
    assert any(line.split() == ["5", "0.429", "7", "9", "7,168", "9,216"] for line in plan)
    assert any(line.split() == ["8-16", "0.000", "0", "16", "0", "16,384"] for line in plan)
    assert any(line.split() == ["mean", "0.262"] for line in plan)  # 67 / 256


def test_token_table_of_the_paper() -> None:
    plan = " ".join(render_plan(load_config(PAPER, CONF)).split())
    assert "sequences 16,384 262,144" in plan
    assert "generated tokens, at most 67,108,864 1,073,741,824" in plan
    assert "trained tokens with prompts, at most 75,497,472" in plan
    assert "optimizer steps 64 1,024" in plan
    assert "micro-batches of an optimizer step on one rank 16" in plan


def plan_lines(*argv: str) -> dict[str, str]:
    lines = [line.rsplit("  ", 1) for line in render_plan(load_config([*argv], CONF)).splitlines()]
    return {line[0].strip(): line[1].strip() for line in lines if len(line) == 2}


@pytest.mark.parametrize(
    ("key", "parts"),
    [("offload_optimizer", ["optimizer moments"]), ("offload_weights", ["actor weights", "gradients"])],
)
def test_what_is_offloaded_is_not_counted_while_generating(key: str, parts: list[str]) -> None:
    kept, moved = (plan_lines(*PAPER, f"model.{key}={switch}") for switch in ("false", "true"))
    name = "on the device while generating"
    difference = float(kept[name].split()[0]) - float(moved[name].split()[0])
    assert difference == pytest.approx(sum(float(kept[part].split()[0]) for part in parts), abs=0.16)
    assert kept["on the device while training"] == moved["on the device while training"]


def test_engines_of_tensorrt_llm() -> None:
    tensorrt_llm = [*PAPER, "engine.kind=tensorrt_llm", "engine.memory_fraction=0.3"]
    plan = plan_lines(*tensorrt_llm)
    name = "on the device while generating, without the KV cache"
    assert plan["KV cache"] == "0.3 of what is free, for each engine"
    engines = sum(float(plan[f"{model} engine weights"].split()[0]) for model in ("learner", "explorer"))
    resident = [float(plan[part].split()[0]) for part in RESIDENT]  # moments are offloaded
    assert float(plan[name].split()[0]) == pytest.approx(sum(resident) + engines, abs=0.21)
    apart = plan_lines(*tensorrt_llm, "engine.placement=separate", "engine.explorer_devices='4'",
                       "engine.learner_devices='5'")  # fmt: skip
    assert apart["KV cache"] == apart["learner engine weights"] == "0.0 KiB"


def test_the_source_of_the_figures_is_named() -> None:
    plan = render_plan(load_config([*PAPER, "model.path=no/1/Qwen3-8B-Base"], CONF))
    assert "learner: 8,190,735,360 parameters (public figures of Qwen3-8B: no/1/Qwen3-8B-Base is not a folder)" in plan
    unknown = render_plan(load_config(["model.path=no/such/model"], CONF))
    assert "learner: unknown (no/such/model is not a folder, nor the name of a public model)" in unknown
    assert "memory: unknown" in unknown
    assert "actor weights" not in unknown


def test_figures_come_from_config_json(tmp_path: Path) -> None:
    figures: dict[str, float] = {"vocab_size": 10, "hidden_size": 4, "num_hidden_layers": 2, "num_attention_heads": 2}
    figures |= {
        "num_key_value_heads": 1,
        "head_dim": 3,
        "intermediate_size": 5,
        "max_position_embeddings": 8,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-6,
    }
    (tmp_path / "config.json").write_text(json.dumps(figures | {"model_type": "qwen3"}))
    plan = render_plan(load_config([f"model.path={tmp_path}", "experiment=grpo"], CONF))
    assert f"learner: 376 parameters ({tmp_path})" in plan
    assert "explorer:\n" in plan  # the section of the configuration, and no figures of an explorer
    assert "explorer: " not in plan.split("Memory of one rank")[1]
