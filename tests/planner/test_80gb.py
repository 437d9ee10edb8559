"""80 GB, TP 2, Qwen3-8B with 1.7B: the planner's figures against arithmetic that is written out here.

Qwen3-8B: hidden 4,096, 36 layers, queries 4,096, keys 1,024, feed-forward 12,288, vocabulary 151,936, two matrices of
it. A layer: qkv 4,096·6,144 = 25,165,824; output 16,777,216; gate and up 100,663,296; down 50,331,648; norms 2·4,096 +
2·128 = 8,448: 192,946,432. All layers 6,946,071,552, both matrices 2·622,329,856. Half of it: 4,095,365,632.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from s2l_nemo.config.load import load_config
from s2l_nemo.config.schema import Config
from s2l_nemo.models.shape import public_shapes
from s2l_nemo.planner import cost
from s2l_nemo.planner.memory import (
    HostPart,
    Part,
    Phase,
    host_memory_by_part,
    memory_by_part,
    memory_by_phase,
    reserved_kv,
)

CONF = Path(__file__).parents[2] / "conf"
LEARNER, EXPLORER = public_shapes()["Qwen3-8B"], public_shapes()["Qwen3-1.7B"]
H100 = cost.GPUS[1]
GIB = 2**30
RANK = 4_095_365_632
WEIGHTS, GRADIENTS, MASTER, MOMENTS = 7.628, 15.256, 3.814, 7.628  # GiB: 2·RANK, 4·RANK, 4·RANK / 4, 8·RANK / 4
CONTEXTS = 1.5 + 2.0 + 2.5  # GiB: actor, explorer with graphs, learner with graphs and the server's own context


def paper(*overrides: str) -> Config:
    return load_config(["--config-name", "paper", "hardware=h100_80gb", *overrides], CONF)


def assumed(policy: cost.SchedulerPolicy) -> cost.Assumed:
    return cost.assumed_of(cost.PlanOptions(policy=policy), paper())


def gib(count: float) -> float:
    return count / GIB


def test_the_actor() -> None:
    parts = memory_by_part(paper(), LEARNER, [EXPLORER], H100.memory)
    assert parts[Part.weights] == 2 * RANK
    assert gib(parts[Part.weights]) == pytest.approx(WEIGHTS, abs=1e-3)
    assert gib(parts[Part.gradients]) == pytest.approx(GRADIENTS, abs=1e-3)
    assert gib(parts[Part.master]) == pytest.approx(MASTER, abs=1e-3)
    assert gib(parts[Part.optimizer]) == pytest.approx(MOMENTS, abs=1e-3)
    # Two fp32 tensors and a bf16 product of 2^25 logits, where all logits of 2·4,096 targets would be 4.98 GB each.
    assert gib(parts[Part.logits]) == 10 * 2**25 / GIB == 0.3125
    assert gib(parts[Part.output_gradient]) == pytest.approx(151_936 * 4096 / 2 * 2 / GIB)


def test_what_the_engines_find_free() -> None:
    # Explorer: 80 - 26.698 of the actor - 1.5 - 2 of contexts - its weights 1,720,574,976·2/2 bytes = 1.602.
    assert EXPLORER.parameters == 1_720_574_976
    first = 0.2 * (80 - (WEIGHTS + GRADIENTS + MASTER) - 1.5 - 2.0 - 1.602)  # 9.64
    # Learner: the explorer's weights, cache and contexts are gone as well.
    second = 0.2 * (80 - (WEIGHTS + GRADIENTS + MASTER) - 1.5 - (1.602 + 2.0 + first) - 7.628 - 2.5)  # 5.69
    found = reserved_kv(paper(), LEARNER, [EXPLORER], H100.memory)
    assert gib(found.explorers[0]) == pytest.approx(first, abs=2e-3) == pytest.approx(9.64, abs=5e-3)
    assert gib(found.learner) == pytest.approx(second, abs=2e-3) == pytest.approx(5.69, abs=5e-3)
    parts = memory_by_part(paper(), LEARNER, [EXPLORER], H100.memory)
    assert parts[Part.kv_cache] == found.explorers[0] + found.learner


@pytest.mark.parametrize(
    ("policy", "explorer", "learner"),
    [
        # Two GPUs: 2·9.64 GiB / 114,688 bytes = 180,500 tokens; 2·5.69 GiB / 147,456 = 82,800.
        (cost.SchedulerPolicy.no_evict, 180_500 / 4608, 82_800 / 4608),  # 39 and 18 whole sequences
        (cost.SchedulerPolicy.max_utilization, 180_500 / 1152, 82_800 / 1152),  # 157 and 72 of 128 + 2,048 / 2 tokens
    ],
)
def test_rows(policy: cost.SchedulerPolicy, explorer: float, learner: float) -> None:
    prediction = cost.predict(paper(), LEARNER, [EXPLORER], H100, assumed(policy))
    assert prediction.explorers[0].rows == pytest.approx(explorer, rel=2e-3)
    assert prediction.learner.rows == pytest.approx(learner, rel=2e-3)


def test_rows_have_an_upper_bound() -> None:
    few = cost.predict(paper("rollout.max_batch_rows=8"), LEARNER, [EXPLORER], H100,
                       assumed(cost.SchedulerPolicy.no_evict))  # fmt: skip
    assert few.learner.rows == 8
    # 8 whole sequences are reserved and no more: 8·4,608·147,456 bytes, half of them on each GPU.
    assert reserved_kv(paper("rollout.max_batch_rows=8"), LEARNER, [], H100.memory).learner == 4 * 4608 * 147_456


def test_an_engine_that_finds_nothing_takes_nothing() -> None:
    l20 = cost.GPUS[0]
    assert reserved_kv(paper(), LEARNER, [EXPLORER], 26 * GIB).learner == 0
    prediction = cost.predict(paper("model.tensor_model_parallel_size=1"), LEARNER, [EXPLORER], l20,
                              assumed(cost.SchedulerPolicy.no_evict))  # fmt: skip
    assert prediction.learner.rows == 1


def test_times() -> None:
    # 18 rows: (16.381 + 18·0.16987) GB / (0.7·2·3.35 TB/s) = 4.145 ms, 4,337 tokens/s, on four engines 17,340.
    # A step of 16,384·2,048 tokens takes 1,935 s.
    prediction = cost.predict(paper(), LEARNER, [EXPLORER], H100, assumed(cost.SchedulerPolicy.no_evict))
    assert prediction.learner.tokens_per_s == pytest.approx(17_340, rel=3e-3)
    assert prediction.grpo.learner == pytest.approx(1935, rel=3e-3)
    # 72 rows: (16.381 + 12.21) GB: 6.096 ms, 11,790 tokens/s, 47,160; 711 s.
    prediction = cost.predict(paper(), LEARNER, [EXPLORER], H100, assumed(cost.SchedulerPolicy.max_utilization))
    assert prediction.learner.tokens_per_s == pytest.approx(47_160, rel=3e-3)
    assert prediction.grpo.learner == pytest.approx(711, rel=3e-3)


def test_phases() -> None:
    cfg = paper()
    totals = memory_by_phase(cfg, memory_by_part(cfg, LEARNER, [EXPLORER], H100.memory))
    # Activations: (2·4,096 + 512) tokens · (36·4,096 + 4·4,096 + 3·4,096 + 3·1,024 + 3·12,288) · 2 bytes / 2 ranks.
    activations = 8704 * 216_064 / GIB
    training = WEIGHTS + GRADIENTS + MASTER + MOMENTS + activations + 0.3125 + 0.580 + CONTEXTS
    generating = WEIGHTS + GRADIENTS + MASTER + CONTEXTS + 1.602 + 7.628 + 9.64 + 5.69  # moments alone are offloaded
    assert gib(totals[Phase.training]) == pytest.approx(training, abs=0.01)
    assert gib(totals[Phase.generating]) == pytest.approx(generating, abs=0.01)


def test_host_memory() -> None:
    parts = host_memory_by_part(paper("model.offload_weights=true"), LEARNER, [EXPLORER])
    assert parts[HostPart.weights] == 8 * 8 * GIB  # 7.63 GiB a rank is pinned as 8 GiB
    assert gib(parts[HostPart.moments]) == pytest.approx(8 * MOMENTS, abs=0.01)
    assert gib(parts[HostPart.engines]) == pytest.approx(8 * (7.628 + 1.602), abs=0.01)  # 61.0 of them the learner's
    assert gib(parts[HostPart.reference]) == pytest.approx(8 * WEIGHTS, abs=0.01)
    one = host_memory_by_part(paper("model.offload_weights=true", "model.tensor_model_parallel_size=1"), LEARNER, [])
    assert one[HostPart.weights] == 8 * 16 * GIB  # 15.26 GiB a rank
    bare = paper("model.offload_optimizer=false", "algorithm.kl_coef=0", "engine.kind=embedded")
    assert host_memory_by_part(bare, LEARNER, [EXPLORER]) == {}


def test_vllm_takes_its_fraction_of_the_whole_memory_with_weights_and_all() -> None:
    """0.2 of 80 GiB are 16. A refit goes through host memory, so the learner's server has no context of its own."""
    cfg = paper("engine.kind=vllm")
    found = reserved_kv(cfg, LEARNER, [EXPLORER], H100.memory)
    of_explorer, of_learner = (shape.parameters / GIB for shape in (EXPLORER, LEARNER))  # 2 bytes on each of 2 GPUs
    assert gib(found.explorers[0]) == pytest.approx(16 - of_explorer - 2.0, abs=1e-6)
    assert gib(found.learner) == pytest.approx(16 - of_learner - 2.0, abs=1e-6)
    unbounded = reserved_kv(paper("engine.kind=vllm", "rollout.max_batch_rows=1"), LEARNER, [EXPLORER], H100.memory)
    assert unbounded == found  # TensorRT-LLM takes no more than its rows can need
    parts = host_memory_by_part(cfg, LEARNER, [EXPLORER])
    assert parts[HostPart.engines] == 4 * 2 * EXPLORER.parameters  # the learner's weights are not kept


def test_vllm_does_not_start_where_its_fraction_is_not_free() -> None:
    """Beside the actor's 28.2 GiB, 0.4 of 80 GiB are free once, and not twice."""
    found = reserved_kv(paper("engine.kind=vllm", "engine.memory_fraction=0.4"), LEARNER, [EXPLORER], H100.memory)
    assert found.explorers[0] > 0
    assert found.learner == 0
