"""The planner's formulas against values worked out by hand and the orientation figures of the design."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.config.load import load_config
from s2l_nemo.config.schema import Config
from s2l_nemo.errors import UserError
from s2l_nemo.models.shape import ModelShape, public_shapes
from s2l_nemo.planner import cost

CONF = Path(__file__).parents[2] / "conf"
LEARNER, EXPLORER = public_shapes()["Qwen3-8B"], public_shapes()["Qwen3-1.7B"]
L20, H100, H200 = cost.GPUS
ASSUMED = cost.Assumed(length=2048, prompt=128, bandwidth=1.0, mfu=0.5, refit_gb_s=16.38147072)


def paper(*overrides: str) -> Config:
    return load_config(["--config-name", "paper", *overrides], CONF)


def toy_shape() -> ModelShape:
    """h 4, 2 layers, q 6, kv 3, ffn 5, V 10."""
    return ModelShape("qwen3", 10, 4, 2, 2, 1, 3, 5, 8, False, 1e6, 1e-6)


def full_tokens_per_s(shape: ModelShape, gpu: cost.Gpu) -> float:
    found = cost.decoding(paper(), shape, gpu, ASSUMED).full_tokens_per_s
    assert found is not None
    return found


def test_data_sheets() -> None:
    assert [gpu.name for gpu in cost.GPUS] == [name.value for name in cost.GpuName]
    assert [gpu.memory // 2**30 for gpu in cost.GPUS] == [48, 80, 141]
    assert [gpu.bandwidth for gpu in cost.GPUS] == [864e9, 3.35e12, 4.8e12]
    assert [gpu.peak for gpu in cost.GPUS] == [119.5e12, 989e12, 989e12]


def test_kv_bytes_of_a_token() -> None:
    assert cost.kv_bytes_per_token(EXPLORER, 2) == 114_688
    assert cost.kv_bytes_per_token(LEARNER, 2) == 147_456


def test_mean_context_is_the_prompt_and_half_of_the_answer() -> None:
    assert ASSUMED.context == 1152
    filled = cost.assumed_of(cost.PlanOptions(), paper())  # 512 / 4 and 4096 / 2
    assert (filled.prompt, filled.length) == (128, 2048)


@pytest.mark.parametrize(
    ("gpu", "tokens_per_s", "ratio"), [(L20, 3_300, 1.84), (H100, 15_500, 1.56), (H200, 24_900, 1.42)]
)
def test_orientation_figures(gpu: cost.Gpu, tokens_per_s: float, ratio: float) -> None:
    learner = full_tokens_per_s(LEARNER, gpu)
    assert learner == pytest.approx(tokens_per_s, rel=5e-3)
    assert full_tokens_per_s(EXPLORER, gpu) / learner == pytest.approx(ratio, abs=5e-3)


def test_decoding_by_hand() -> None:
    # 10 GB usable, 2 GB of weights, 1 MB a token and 1,000 tokens a row: 8 rows. A step reads all 10 GB.
    assert cost.full_memory_rows(10e9, 2e9, 1e6, 1000) == 8
    assert cost.seconds_per_token(8, 2e9, 1e6, 1000, 1e12) == pytest.approx(10e9 / 1e12 / 8)
    assert cost.seconds_per_token(1, 2e9, 1e6, 1000, 1e12) == pytest.approx(3e9 / 1e12)
    assert cost.seconds_per_token(1, 2e9, 1e6, 1e-9, 1e12) == pytest.approx(2e9 / 1e12)  # W / BW


@given(
    memory=st.floats(20e9, 200e9),
    weights=st.floats(1e8, 18e9),
    kv=st.floats(1e4, 1e6),
    context=st.floats(10, 1e5),
    bandwidth=st.floats(1e11, 1e13),
)
def test_full_memory_is_the_closed_form(
    memory: float, weights: float, kv: float, context: float, bandwidth: float
) -> None:
    rows = cost.full_memory_rows(memory, weights, kv, context)
    closed = memory * kv * context / ((memory - weights) * bandwidth)
    assert cost.seconds_per_token(rows, weights, kv, context, bandwidth) == pytest.approx(closed, rel=1e-9)


def test_forward_flops_by_hand() -> None:
    # Layers, a token: 2 layers x (2·4·6 + 2·4·3 + 3·4·5) = 264. Tokens: 1 prompt of 3, 2 responses of 4: 11.
    # Attention, 4·q a pair in 2 layers: 3²/2 pairs in the prompt, 2·4·(3 + 2) from the responses.
    work = cost.forward_flops(toy_shape(), prompts=1, prompt=3, responses=2, length=4)
    assert work.layers == 2 * 11 * 264 + 4 * 2 * (4.5 + 40) * 6
    assert work.output == 2 * 8 * 40  # response tokens alone: h·V


def test_forward_flops_of_8b_are_near_two_a_parameter() -> None:
    inputs_only = LEARNER.parameters - LEARNER.embedding_parameters  # the embedding is looked up
    work = cost.forward_flops(LEARNER, prompts=0, prompt=0, responses=1, length=1)
    assert work.layers + work.output == pytest.approx(2 * inputs_only, rel=1e-3)


@pytest.mark.parametrize(
    ("overrides", "shared"),
    [
        ((), 2),  # model.micro_batch_size
        (("model.micro_batch_size=64",), 16),  # no more than the group
        (("model.micro_batch_tokens=8320",), 4),  # (8,320 - 128) / 2,048
        (("model.micro_batch_tokens=4608", "rollout.max_response_length=4096"), 2.1875),
    ],
)
def test_responses_that_share_a_prompt(overrides: tuple[str, ...], shared: float) -> None:
    assert cost.responses_of_a_prompt(paper(*overrides), ASSUMED) == shared


def test_what_is_computed_ahead_of_the_updates() -> None:
    assert cost.share_ahead(paper(), 64) == 63 / 64
    assert cost.share_ahead(paper(), 1) == 0
    assert cost.share_ahead(paper("algorithm.optimizer_passes=2"), 1) == 1
    assert cost.share_ahead(paper("algorithm.rejected=drop"), 1) == 1


def test_phases_of_a_step_by_hand() -> None:
    cfg = paper("algorithm.prompts_per_step=64", "algorithm.group_size=4", "trainer.devices=4")
    # 64 x 4 responses; two rows of a micro-batch share a prompt, so that every prompt is computed twice
    work = cost.forward_flops(LEARNER, prompts=128, prompt=128, responses=256, length=2048)
    rate = 0.5 * 989e12 * 4
    step = cost.step_seconds(
        cfg, LEARNER, H100, ASSUMED, explorer_tokens_per_s=[2048.0], learner_tokens_per_s=1024.0, explorer_samples=1
    )
    assert step.explorer == 64  # 64 prompts x 1 sample x 2,048 tokens
    assert step.learner == 64 * 3 * 2
    # the reference for all rows, the policy for three of four mini-batches
    assert step.logprobs == pytest.approx(1.75 * (work.layers + work.output) / rate)
    assert step.update == pytest.approx((4 * work.layers + 4 * work.output) / rate)  # full checkpointing
    assert step.refit == 1  # 8,190,735,360 parameters x 2 bytes at that rate
    assert step.rollouts == step.explorer + step.learner
    assert step.total == step.explorer + step.learner + step.logprobs + step.update + step.refit


def test_phases_follow_the_configuration() -> None:
    def step(*overrides: str) -> cost.StepSeconds:
        cfg = paper(*overrides)
        return cost.step_seconds(
            cfg, LEARNER, H100, ASSUMED, explorer_tokens_per_s=[1e4], learner_tokens_per_s=1e4, explorer_samples=4
        )

    base = step()
    assert step("algorithm.kl_coef=0").logprobs == pytest.approx(base.logprobs * (63 / 64) / (1 + 63 / 64))
    assert step("algorithm.kl_coef=0", "algorithm.mini_batch_prompts=1024").logprobs == 0
    assert step("algorithm.optimizer_passes=3").update == pytest.approx(base.update * 3)
    work = cost.forward_flops(LEARNER, prompts=8192, prompt=128, responses=16384, length=2048)
    three, four = (layers * work.layers + 4 * work.output for layers in (3, 4))
    assert step("model.activation_checkpointing=selective").update == pytest.approx(base.update * three / four)
    assert step("trainer.num_nodes=2").update == pytest.approx(base.update / 2)
    apart = step("engine.kind=tensorrt_llm", "engine.placement=separate")
    assert apart.rollouts == max(base.explorer, base.learner)


TWO = [f"explorers.{name}.path=Qwen3-{size}" for name, size in (("small", "1.7B"), ("large", "4B"))]


def test_each_explorer_counts_by_its_samples() -> None:
    """Of 4 samples one by the small one, three by the large one; a third explorer shares the small one's engine."""
    cfg = paper(*TWO, "explorers.large.share=3")
    assert cost.samples_of_engines(cfg, 4) == [1, 3]
    assert cost.samples_of_engines(paper(*TWO, "explorers.hot.path=Qwen3-1.7B", "explorers.hot.share=2"), 4) == [3, 1]
    assert cost.samples_of_engines(paper(*TWO, "explorers.large.source=store"), 4) == [2]
    step = cost.step_seconds(
        cfg, LEARNER, H100, ASSUMED, explorer_tokens_per_s=[1024.0, 512.0], learner_tokens_per_s=1e9, explorer_samples=4
    )
    assert step.explorer == 1024 * 2 + 1024 * 3 * 4  # 1,024 prompts of 2,048 tokens


def test_a_mean_token_of_explorers() -> None:
    shapes = [public_shapes()[name] for name in ("Qwen3-1.7B", "Qwen3-4B")]
    cfg = paper(*TWO, "explorers.large.share=3", "algorithm.schedule.name=constant", "algorithm.schedule.alpha=0.25")
    found = cost.predict(cfg, LEARNER, shapes, H100, ASSUMED)
    small, large = (found.learner.tokens_per_s / one.tokens_per_s for one in found.explorers)
    assert found.cost_ratio == pytest.approx((small + 3 * large) / 4)
    assert small < large < 1
    stored = cost.predict(paper(*TWO, "explorers.large.source=store"), LEARNER, shapes[:1], H100, ASSUMED)
    assert stored.cost_ratio < small  # half of its samples cost nothing


def test_two_updates_of_a_step_by_hand() -> None:
    """1 of 4 samples by the explorer: 256 answers in 8 mini-batches of 32, then 768 in 4 of 64 prompts."""
    keys = ["algorithm.prompts_per_step=256", "algorithm.group_size=4", "algorithm.mini_batch_prompts=64"]
    two = ["rollout.two_updates=true", "algorithm.explorer_mini_batch=32", "model.micro_batch_tokens=1000000"]
    separate = ["engine.kind=tensorrt_llm", "engine.placement=separate"]
    cfg = paper(*keys, *two, *separate)
    step = cost.step_seconds(
        cfg, LEARNER, H100, ASSUMED, explorer_tokens_per_s=[2048.0], learner_tokens_per_s=1024.0, explorer_samples=1
    )
    rate = 0.5 * 989e12 * 8
    of_explorer, of_learner = (
        cost.forward_flops(LEARNER, prompts=256, prompt=128, responses=256 * samples, length=2048) for samples in (1, 3)
    )
    assert step.logprobs == pytest.approx(((1 + 7 / 8) * of_explorer.whole + (1 + 3 / 4) * of_learner.whole) / rate)
    works = (of_explorer, of_learner)
    assert step.update == pytest.approx(sum(4 * work.layers + 4 * work.output for work in works) / rate)
    assert step.refit == 2
    assert step.rollouts == step.explorer + step.learner == 256 + 256 * 3 * 2


def test_a_pipeline_idles_at_its_ends() -> None:
    # 16 prompts x 16 samples over DP 4 = 64 sequences, 32 micro-batches of 2, and one more of idling.
    assert cost.idle_stages(paper("model.pipeline_model_parallel_size=2"), ASSUMED) == 1 / 32
    assert cost.idle_stages(paper(), ASSUMED) == 0
    # 64 sequences of 2,048 tokens and a quarter of a prompt of 128 in micro-batches of 8,320 tokens: 16
    tokens = ("model.pipeline_model_parallel_size=2", "model.micro_batch_tokens=8320")
    assert cost.idle_stages(paper(*tokens), ASSUMED) == 1 / 16


def test_rows_that_decode_together() -> None:
    def rows(*overrides: str) -> float:
        return cost.decoding(paper(*overrides), LEARNER, H100, ASSUMED).rows

    assert rows() == 32  # rollout.max_batch_rows
    assert rows("rollout.max_batch_rows=4000") == 1024 * 16 / 8  # all sequences of a rank
    # 20 GiB on each of two GPUs, over 147,456 bytes x 1,152 tokens; whole sequences of 4,608 tokens without eviction
    cfg = paper("rollout.max_batch_rows=4000", "engine.kind=tensorrt_llm", "engine.tensor_parallel_size=2")
    assert cost.decoding(cfg, LEARNER, H100, ASSUMED, 20 * 2**30).rows == pytest.approx(
        2 * 20 * 2**30 / (147_456 * 1152)
    )
    whole = replace(ASSUMED, policy=cost.SchedulerPolicy.no_evict)
    assert cost.decoding(cfg, LEARNER, H100, whole, 20 * 2**30).rows == pytest.approx(2 * 20 * 2**30 / (147_456 * 4608))
    assert cost.decoding(cfg, LEARNER, H100, whole, 1e13).rows == 4000


def test_engines_of_each_kind() -> None:
    assert cost.engines_of(paper("trainer.num_nodes=2")) == cost.Engines(16, 1)
    assert cost.engines_of(paper("trainer.num_nodes=2", "engine.kind=server")) == cost.Engines(2, 1)
    sizes = ("engine.tensor_parallel_size=2", "engine.replicas_per_node=4")
    assert cost.engines_of(paper("trainer.num_nodes=2", "engine.kind=tensorrt_llm", *sizes)) == cost.Engines(8, 2)


def test_saving_of_the_papers_schedule() -> None:
    assert cost.mean_alpha(paper()) == 67 / 256
    assert cost.saving(0.8, 67 / 256, 1 / 1.56) == pytest.approx(0.8 * 0.26171875 * (1 - 1 / 1.56))
    assert cost.saving(0.8, 0.25, 0) == pytest.approx(0.2)  # stored rollouts
    assert cost.saving(1, 0.25, 1) == 0  # an explorer as dear as the learner


def test_the_steps_of_a_run_save_what_the_closed_form_says() -> None:
    prediction = cost.predict(paper(), LEARNER, [EXPLORER], H200, ASSUMED)
    ratio = prediction.learner.tokens_per_s / prediction.explorers[0].tokens_per_s
    assert prediction.cost_ratio == pytest.approx(ratio)
    assert prediction.run_saving == pytest.approx(
        cost.saving(prediction.rollout_share, prediction.alpha, ratio), rel=1e-9
    )
    assert prediction.steps[0].learner == 0  # step 1 is the explorer's alone
    assert prediction.steps[-1] == prediction.grpo


def test_engines_that_work_at_once_save_more() -> None:
    cfg = paper("engine.kind=tensorrt_llm", "engine.placement=separate")
    prediction = cost.predict(cfg, LEARNER, [EXPLORER], H200, ASSUMED)
    rollouts = [max(step.explorer, step.learner) for step in prediction.steps]
    others = prediction.grpo.total - prediction.grpo.rollouts
    whole = sum(rollouts) + others * len(rollouts)
    assert prediction.run_saving == pytest.approx(1 - whole / (len(rollouts) * prediction.grpo.total))
    assert sum(rollouts) < sum(step.explorer + step.learner for step in prediction.steps)


def test_the_worked_example_of_the_docs() -> None:
    cfg = paper()
    assumed = cost.assumed_of(cost.PlanOptions(), cfg)
    prediction = cost.predict(cfg, LEARNER, [EXPLORER], H100, assumed)
    [explorer], learner, grpo = prediction.explorers, prediction.learner, prediction.grpo
    ratio = learner.tokens_per_s / explorer.tokens_per_s
    shown = [
        f"{learner.full_tokens_per_s:,.0f} tokens/s. For 1.7B",
        f"{explorer.full_tokens_per_s:,.0f} tokens/s, 1.56",
        f"{learner.tokens_per_s:,.0f} on 8 GPUs",
        f"{explorer.tokens_per_s:,.0f} on 8 GPUs, {1 / ratio:.2f} times",
        f"tokens in {grpo.learner:,.0f} s",
        f"update 4 times it, {grpo.update:.0f} s; log-probs 1 + 63/64 times, {grpo.logprobs:.0f} s",
        f"10 GB/s, {grpo.refit:.1f} s",
        f" = {grpo.learner:,.0f} / {grpo.total:,.0f} = {prediction.rollout_share:.1%}",
        f"= {cost.saving(1, prediction.alpha, ratio):.1%} of the rollout time, "
        f"{cost.saving(prediction.rollout_share, prediction.alpha, ratio):.1%} of the run",
    ]
    page = " ".join((CONF.parent / "docs/planner.md").read_text().split())
    assert [text for text in shown if text not in page] == []


def test_plain_grpo_has_no_explorer() -> None:
    prediction = cost.predict(paper("experiment=grpo"), LEARNER, [], H100, ASSUMED)
    assert prediction.explorers == ()
    assert all(step == prediction.grpo for step in prediction.steps)


def test_a_learner_that_explores_saves_nothing() -> None:
    keys = ["rollout.two_updates=true", "algorithm.explorer_mini_batch=16", "model.micro_batch_tokens=9216"]
    prediction = cost.predict(paper("experiment=grpo_step_matched", *keys), LEARNER, [], H100, ASSUMED)
    assert prediction.alpha == 0
    assert all(step.explorer == 0 for step in prediction.steps)
    assert all(step.learner == pytest.approx(prediction.grpo.learner) for step in prediction.steps)
    assert prediction.run_saving <= 0  # each half computes its prompts, and there are two refits


def test_weights_that_do_not_fit_have_no_full_rate() -> None:
    huge = ModelShape("qwen3", 151936, 8192, 80, 64, 8, 128, 49152, 32768, False, 1e6, 1e-6)
    assert cost.decoding(paper(), huge, H200, ASSUMED).full_tokens_per_s is None


@pytest.mark.parametrize(("overrides", "named"), [({"length": 5000}, "length=5000"), ({"prompt": 600}, "prompt=600")])
def test_lengths_above_the_limit_are_refused(overrides: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=f"{named} is more than rollout.max_"):
        cost.assumed_of(cost.PlanOptions(**overrides), paper())


@pytest.mark.parametrize(("rounds", "equal", "factor"), [(0, 0.5, 1), (1, 0.5, 1.5), (3, 0.2, 1.248), (2, 1, 3)])
def test_refill_rounds_are_rollouts_and_nothing_else(rounds: int, equal: float, factor: float) -> None:
    """z of the groups are asked anew, z of these once more, and so on: 1 + z + z^2 + z^3."""
    options = cost.PlanOptions(equal=equal)
    learner, explorer = public_shapes()["Qwen3-8B"], public_shapes()["Qwen3-1.7B"]
    steps = []
    for keys in ([], [f"algorithm.refill_rounds={rounds}"]):
        cfg = load_config(["--config-name", "paper", *keys], CONF)
        steps.append(cost.predict(cfg, learner, [explorer], cost.GPUS[1], cost.assumed_of(options, cfg)).steps[3])
    without, refilled = steps
    assert refilled.explorer == pytest.approx(factor * without.explorer)
    assert refilled.learner == pytest.approx(factor * without.learner)
    assert (refilled.logprobs, refilled.update, refilled.refit) == (without.logprobs, without.update, without.refit)
