"""The parts of memory against values worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2l_nemo.config.load import load_config
from s2l_nemo.config.schema import Config
from s2l_nemo.models.shape import public_shapes
from s2l_nemo.planner.memory import (
    ENGINE_PARTS,
    LOGITS_OF_A_CHUNK,
    Part,
    Phase,
    explorer_engines,
    memory_by_part,
    memory_by_phase,
    reserved_kv,
    shapes_of_models,
)

CONF = Path(__file__).parents[2] / "conf"
PAPER = ["--config-name", "paper"]
LEARNER, EXPLORER = public_shapes()["Qwen3-8B"], public_shapes()["Qwen3-1.7B"]
GIB = 2**30


def paper(*overrides: str) -> Config:
    return load_config([*PAPER, *overrides], CONF)


def test_memory_by_hand() -> None:
    cfg = load_config([*PAPER, "model.tensor_model_parallel_size=2", "model.pipeline_model_parallel_size=2"], CONF)
    parts = memory_by_part(cfg, LEARNER, [EXPLORER])
    trained = (18 * LEARNER.layer_parameters + 151936 * 4096) // 2  # the first of two stages, half of each matrix
    assert parts[Part.weights] == 2 * trained
    assert parts[Part.gradients] == 4 * trained
    assert parts[Part.optimizer] == 8 * trained // 2  # DP 2
    assert parts[Part.master] == 4 * trained // 2
    assert parts[Part.output_gradient] == 151936 * 4096 // 2 * 2
    assert parts[Part.overhead] == 3 * GIB // 2  # one process
    assert parts[Part.learner_engine] == 2 * LEARNER.parameters
    assert parts[Part.explorer_engine] == 2 * EXPLORER.parameters
    assert parts[Part.kv_cache] == 32 * 4608 * 147_456
    assert parts[Part.logits] == 10 * LOGITS_OF_A_CHUNK
    layers = 36 * 4096 + 4 * 4096 + 3 * 4096 + 3 * 1024 + 3 * 12288
    assert parts[Part.activations] == 2 * (2 * 4096 + 512) * layers // 2  # one prompt of two rows
    assert parts[Part.reference] == parts[Part.weights]


def test_memory_follows_the_switches() -> None:
    tiny = load_config(["--config-name", "tiny_tp2", "algorithm.kl_coef=0"], CONF)
    parts = memory_by_part(tiny, LEARNER, [])
    assert Part.reference not in parts
    assert parts[Part.explorer_engine] == 0
    assert parts[Part.master] == 0  # fp32 weights are their own master
    assert parts[Part.optimizer] == 2 * parts[Part.gradients]  # fp32: two moments, DP 1
    few = load_config(["--config-name", "tiny_tp2", "model.micro_batch_size=1", "rollout.max_response_length=16"], CONF)
    assert memory_by_part(few, LEARNER, [])[Part.logits] == 8 * 16 * 151936 // 2  # TP 2
    full = memory_by_part(
        load_config(["--config-name", "tiny_tp2", "model.activation_checkpointing=full"], CONF), LEARNER, []
    )
    assert full[Part.activations] < parts[Part.activations] / 10


@pytest.mark.parametrize(
    ("overrides", "tokens"),
    [
        (["model.micro_batch_size=4", "algorithm.group_size=4"], 4 * 4096 + 512),
        (["model.micro_batch_size=4", "algorithm.group_size=2"], 4 * 4096 + 2 * 512),
        (["model.micro_batch_tokens=9216"], 9216),
        (["model.micro_batch_tokens=100"], 4096 + 512),  # one row, which is never cut
    ],
)
def test_activations_follow_the_tokens_of_a_micro_batch(overrides: list[str], tokens: int) -> None:
    def activations(*more: str) -> int:
        return memory_by_part(load_config([*PAPER, *more], CONF), LEARNER, [])[Part.activations]

    per_token = activations("model.micro_batch_tokens=100") // (4096 + 512)
    assert activations(*overrides) == per_token * tokens


def test_memory_of_each_kind_of_engine() -> None:
    def memory(*overrides: str) -> tuple[dict[Part, int], dict[Phase, int]]:
        cfg = paper(*overrides)
        parts = memory_by_part(cfg, LEARNER, [EXPLORER], 80 * GIB)
        return parts, memory_by_phase(cfg, parts)

    embedded, embedded_phases = memory()
    trt, phases = memory("engine.kind=tensorrt_llm", "engine.tensor_parallel_size=8", "engine.memory_fraction=0.1")
    assert trt[Part.learner_engine] == 2 * LEARNER.parameters // 8
    assert 0 < trt[Part.kv_cache] < int(0.2 * 80 * GIB)  # of two engines, from what the actor leaves
    of_engines = trt[Part.learner_engine] + trt[Part.explorer_engine]
    resident = sum(embedded[name] for name in (Part.learner_engine, Part.explorer_engine))
    more = trt[Part.overhead] - embedded[Part.overhead]
    assert more == 4.5 * GIB  # two engines with graphs, and the context of the learner's server
    assert phases[Phase.training] == embedded_phases[Phase.training] - resident + more  # asleep
    kept = (Part.weights, Part.gradients, Part.master, Part.kv_cache, Part.overhead)
    assert phases[Phase.generating] == sum(trt[name] for name in kept) + of_engines  # moments are offloaded
    apart, _ = memory("engine.kind=tensorrt_llm", "engine.placement=separate")
    assert {apart[name] for name in ENGINE_PARTS} == {0}
    assert apart[Part.gradients] == embedded[Part.gradients]


def test_a_reserved_cache_needs_the_memory_of_the_gpu() -> None:
    cfg = paper("engine.kind=tensorrt_llm")
    unknown, known = memory_by_part(cfg, LEARNER, [EXPLORER]), memory_by_part(cfg, LEARNER, [EXPLORER], 80 * GIB)
    assert Part.kv_cache not in unknown
    assert {part: count for part, count in known.items() if part != Part.kv_cache} == unknown
    alone = memory_by_part(cfg, LEARNER, [], 80 * GIB)
    assert known[Part.kv_cache] > alone[Part.kv_cache]
    assert reserved_kv(cfg, LEARNER, [EXPLORER], 80 * GIB).learner < alone[Part.kv_cache]  # the second finds less
    apart = paper("engine.kind=tensorrt_llm", "engine.placement=separate", "rollout.max_batch_rows=4000")
    both = reserved_kv(apart, LEARNER, [EXPLORER], 80 * GIB)
    # GPUs of their own: 0.4 of 80 GiB without weights, contexts, buffers and graphs
    assert both.explorers[0] == int(0.4 * (80 * GIB - 2 * EXPLORER.parameters - 2 * GIB))
    assert both.learner == int(0.4 * (80 * GIB - 2 * LEARNER.parameters - 5 * GIB // 2))


def test_explorers_of_several_models_add_up() -> None:
    small, large = EXPLORER, public_shapes()["Qwen3-4B"]
    for keys in ([], ["engine.kind=tensorrt_llm"]):
        one, two = (memory_by_part(paper(*keys), LEARNER, its, 80 * GIB) for its in ([small], [small, large]))
        assert two[Part.explorer_engine] == one[Part.explorer_engine] + 2 * large.parameters
        assert two[Part.overhead] - one[Part.overhead] == (2 * GIB if keys else 0)  # context, buffers and graphs
    first, second = reserved_kv(paper("engine.kind=tensorrt_llm"), LEARNER, [small, large], 80 * GIB).explorers
    alone = reserved_kv(paper("engine.kind=tensorrt_llm"), LEARNER, [small], 80 * GIB)
    assert first == alone.explorers[0] > second
    apart = paper("engine.kind=tensorrt_llm", "engine.placement=separate", "rollout.max_batch_rows=4000")
    both = reserved_kv(apart, LEARNER, [small, small], 80 * GIB)
    # 0.4 of what the first leaves: its weights, its cache, and 2 GiB of each server
    left = 80 * GIB - 2 * small.parameters - 2 * GIB - both.explorers[0]
    assert both.explorers[1] == int(0.4 * (left - 2 * small.parameters - 2 * GIB))
    assert both.learner == reserved_kv(apart, LEARNER, [], 80 * GIB).learner


def test_explorers_with_one_path_are_one_model() -> None:
    named = [f"explorers.{name}.path=Qwen3-{size}" for name, size in (("a", "4B"), ("b", "1.7B"), ("c", "4B"))]
    cfg = paper(*named)
    assert [one.name for one in explorer_engines(cfg)] == ["a", "b"]
    learner, explorers = shapes_of_models(cfg)
    assert [shape.parameters for shape in explorers] == [
        public_shapes()[name].parameters for name in ("Qwen3-4B", "Qwen3-1.7B")
    ]
    assert learner == LEARNER


def test_a_replay_has_engines_for_validation_alone() -> None:
    keys = ["rollout.replay=s", "explorer.source=store"]
    validates = memory_by_part(paper(*keys), LEARNER, [])
    bare = memory_by_part(paper(*keys, "validation.prompts=0"), LEARNER, [])
    assert validates[Part.learner_engine] == 2 * LEARNER.parameters
    assert {bare[part] for part in ENGINE_PARTS} == {0}


def test_processes_on_the_device() -> None:
    def overhead(*overrides: str) -> int:
        return memory_by_part(paper(*overrides), LEARNER, [EXPLORER])[Part.overhead]

    assert overhead("engine.kind=server") == 9 * GIB // 2  # three processes, without graphs
    assert overhead("engine.kind=tensorrt_llm", "engine.placement=separate") == 3 * GIB // 2  # the actor's alone
    assert overhead("trainer.accelerator=cpu") == 0


def test_an_engine_on_a_cpu_holds_its_matrices_twice() -> None:
    def weights(*overrides: str) -> int:
        return memory_by_part(paper(*overrides), LEARNER, [EXPLORER])[Part.learner_engine]

    once, twice = 2 * LEARNER.parameters, 2 * (2 * LEARNER.parameters - 151936 * 4096 - 4096)
    assert [weights(f"engine.kind={kind}") for kind in ("embedded", "server")] == [once, once]
    on_cpu = "trainer.accelerator=cpu"
    assert [weights(on_cpu, f"engine.kind={kind}") for kind in ("embedded", "server")] == [twice, twice]
