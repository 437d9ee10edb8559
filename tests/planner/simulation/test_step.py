"""Whole steps: the order of phases, who waits, and agreement with the planner's closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_nemo.config.load import load_config
from s2l_nemo.models.flops import flops_of, group_flops
from s2l_nemo.models.shape import public_shapes
from s2l_nemo.planner import cost
from s2l_nemo.planner.simulation.layout import layout_of
from s2l_nemo.planner.simulation.lengths import Answer, Distribution, NamedLengths
from s2l_nemo.planner.simulation.outcome import outcome_of, phase_seconds
from s2l_nemo.planner.simulation.rates import Links, data_sheet_rates, rooms
from s2l_nemo.planner.simulation.rollout import Dispatch
from s2l_nemo.planner.simulation.step import Played, Run, Scenario, draw_steps, play_steps
from s2l_nemo.planner.simulation.timeline import Phase, Timeline
from s2l_nemo.planner.simulation.training import exchange_bytes, rank_replicas, replicas_of, training_work
from tests.planner.simulation.world import CONF, SEPARATE, SHAPE, E, L, config, run


def played(its: Run, scenario: Scenario | None = None, steps: int = 3, seed: int = 0) -> Played:
    return play_steps(its, scenario or Scenario(), draw_steps(its, steps, seed))


def group(prompt_id: int, lengths: Sequence[int]) -> tuple[Answer, ...]:
    return tuple(Answer(prompt_id, sample, L, 3, length) for sample, length in enumerate(lengths))


def test_phases_follow_each_other() -> None:
    """One step of embedded engines: explorer, then learner, then all that waits for both."""
    its = played(run(config()), steps=1)
    step = its.steps[0]
    marks = [step.start, step.sampled, step.exchanged, step.graded, step.slept, step.prepared, step.trained]
    assert marks == sorted(marks)
    assert step.slept == step.graded  # embedded engines do not sleep
    assert step.refitted - step.trained == 3
    assert step.end - step.refitted == 0.25
    for intervals in its.timeline.intervals:
        phases = [one.phase for one in intervals if one.phase is not Phase.exchange]  # a rank may keep all it has
        assert phases == [
            Phase.explorer, Phase.learner, Phase.grading, Phase.logprobs, Phase.update, Phase.refit,
            Phase.outside,
        ]  # fmt: skip
    learner = [intervals[1].start for intervals in its.timeline.intervals]
    assert set(learner) == {max(intervals[0].end for intervals in its.timeline.intervals)}  # all wait for the last
    assert sum(phase_seconds(its).values()) == pytest.approx(step.end)


def test_grading_is_shared_by_the_ranks_of_a_replica() -> None:
    """32 answers: 8 for each of 4 replicas, or 16 for each of 2, on two ranks each; 4 a second."""
    step = played(run(config()), steps=1).steps[0]
    assert step.graded - step.exchanged == 2
    step = played(run(config("model.tensor_model_parallel_size=2")), steps=1).steps[0]
    assert step.graded - step.exchanged == 2


def test_exchange_by_hand() -> None:
    """Two ranks and two replicas. Rank 0 has sampled both groups, of 5 and 9 tokens, and keeps the first."""
    groups = [group(0, [2, 3]), group(1, [4, 5])]
    sampler = {(p, s): 0 for p in (0, 1) for s in (0, 1)}
    leaders = {L: (0, 1)}
    assert exchange_bytes(groups, [0, 1], [0, 1], sampler, leaders) == [9 * 8, 9 * 8]
    # one replica of two ranks: rank 1 gets both
    assert exchange_bytes(groups, [0, 0], [0, 0], sampler, leaders) == [14 * 8, 14 * 8]


def test_replicas_by_hand() -> None:
    groups = [group(p, [length]) for p, length in enumerate([9, 1, 8, 2])]
    assert replicas_of(groups, 2, 4, balanced=False) == [0, 1, 0, 1]
    assert replicas_of(groups, 2, 4, balanced=True) == [0, 0, 1, 1]
    assert rank_replicas(config("trainer.devices=8", "model.tensor_model_parallel_size=2")) == [0, 0, 1, 1, 2, 2, 3, 3]
    both = ("model.tensor_model_parallel_size=2", "model.pipeline_model_parallel_size=2", "trainer.devices=8")
    assert rank_replicas(config(*both)) == [0, 0, 1, 1, 0, 0, 1, 1]


def test_work_of_an_update_by_hand() -> None:
    """Two updates, one replica. Log-probs: the reference for both, old ones for the second update alone."""
    cfg = config("trainer.devices=1", "algorithm.prompts_per_step=2", "algorithm.mini_batch_prompts=1")
    groups = [group(0, [5, 6, 7, 8]), group(1, [1, 1, 1, 1])]
    work = training_work(cfg, SHAPE, groups, cost.Assumed(5, 3, 1.0, 1.0, 1.0), balanced=True)
    forward = [group_flops(SHAPE, 3, [one.length for one in its]) for its in groups]
    assert work.updates_UR == [[3 * its.layers + 4 * its.output] for its in forward]
    assert work.logprobs_R == [sum(n * (its.layers + its.output) for n, its in zip((1, 2), forward, strict=True))]
    assert forward[1] == flops_of(SHAPE, tokens=3 + 4, pairs=4.5 + 4 * 3.5, targets=4)


def test_it_agrees_with_the_closed_form() -> None:
    """Answers of one length, no prompts to compute: nobody waits, and both count the same work."""
    cfg = load_config(["--config-name", "paper", "algorithm.prompts_per_step=128"], CONF)
    learner, explorer = public_shapes()["Qwen3-8B"], public_shapes()["Qwen3-1.7B"]
    gpu, length = cost.GPUS[1], 512
    assumed = cost.Assumed(length, 0, 0.7, 0.4, 10.0)
    links = Links(FAST, FAST, FAST)
    lengths = NamedLengths(Distribution.fixed, length, 1.0, 0.0, 0, 4096)
    its = Run(
        cfg, learner, data_sheet_rates(cfg, learner, explorer, gpu, assumed, links),
        rooms(cfg, learner, explorer, gpu, assumed), assumed, lengths, 4,
    )  # fmt: skip
    found = phase_seconds(played(its, steps=1))
    of_learner, [of_explorer] = cost.decoding_of_models(cfg, learner, [explorer], gpu, assumed)
    closed = cost.step_seconds(
        cfg, learner, gpu, assumed, explorer_tokens_per_s=[of_explorer.tokens_per_s],
        learner_tokens_per_s=of_learner.tokens_per_s, explorer_samples=4,
    )  # fmt: skip
    assert found["update"] == pytest.approx(closed.update)
    assert found["logprobs"] == pytest.approx(closed.logprobs)
    assert found["refit"] == pytest.approx(closed.refit)
    assert found["rollout"] == pytest.approx(closed.rollouts, rel=1 / length)  # the last token is not read again


FAST = 1e12


def test_the_explorer_ahead() -> None:
    """It starts step 2 once step 1 is graded, and samples while the actor trains."""
    slow = NamedLengths(Distribution.fixed, 200, 1.0, 0.0, 3, 500)
    its = run(config("trainer.devices=4", *SEPARATE), explorer=3, lengths=slow, rows=2)
    waits, ahead = played(its), played(its, Scenario(ahead=True))
    devices = its.layout.engine_devices[E]
    assert devices == [[4], [5]]
    assert [one.start for one in waits.timeline.intervals[4]] == [step.start for step in waits.steps]
    begins = [interval.start for interval in ahead.timeline.intervals[4]]
    assert begins == [0, *(step.graded for step in ahead.steps[:-1])]
    assert ahead.steps[-1].end < waits.steps[-1].end


def test_spare_gpus_are_the_explorers() -> None:
    cfg = config("engine.kind=server", "engine.replicas_per_node=4")
    layout = layout_of(cfg, spare=2)
    assert layout.devices == 6
    assert layout.engine_devices == {E: [[4], [5]], L: [[0], [1], [2], [3]]}
    its = played(run(cfg, spare=2), steps=1)
    assert {one.phase for one in its.timeline.intervals[5]} == {Phase.explorer}
    assert Phase.both in {one.phase for one in played(run(cfg), steps=1).timeline.intervals[0]}


def test_devices_of_two_nodes_by_hand() -> None:
    cfg = config("trainer.num_nodes=2", *SEPARATE)
    layout = layout_of(cfg)
    assert layout.devices == 16
    assert layout.rank_devices == (0, 1, 2, 3, 8, 9, 10, 11)
    assert layout.engine_devices == {E: [[4], [5], [12], [13]], L: [[6], [7], [14], [15]]}
    assert layout.leaders == {E: (0, 1, 4, 5), L: (0, 1, 4, 5)}
    assert [layout.users[device] for device in range(8)] == [*["actor"] * 4, *["explorer"] * 2, *["learner"] * 2]
    assert set(layout_of(config()).users.values()) == {"actor, engines"}
    assert set(layout_of(config("algorithm.schedule.name=none")).engine_devices) == {L}


CASES = st.sampled_from(
    [
        (),
        ("model.tensor_model_parallel_size=2",),
        ("algorithm.mini_batch_prompts=4", "algorithm.optimizer_passes=2"),
        ("engine.kind=server", "engine.replicas_per_node=2"),
        SEPARATE,
    ]
)


@settings(deadline=None, max_examples=25)
@given(CASES, st.sampled_from(Dispatch), st.booleans(), st.integers(0, 4), st.integers(0, 99))
def test_busy_and_idle_make_the_span(
    overrides: tuple[str, ...], dispatch: Dispatch, balanced: bool, explorer: int, seed: int
) -> None:
    its = run(config(*overrides), explorer)
    ahead = overrides == SEPARATE
    one = played(its, Scenario(dispatch, 3, balanced, ahead), seed=seed)
    start, end = one.steps[1].start, one.steps[-1].end
    timeline = one.timeline
    for device, intervals in enumerate(timeline.intervals):
        clipped = [(max(part.start, start), min(part.end, end)) for part in intervals if part.end > start]
        edges = [start, *(edge for pair in clipped for edge in pair), end]
        waiting = sum(edges[n + 1] - edges[n] for n in range(0, len(edges), 2))
        assert timeline.busy(device, start, end) + waiting == pytest.approx(end - start)
    found = outcome_of(one)
    assert found.idle == pytest.approx(found.idle_sampling + found.idle_training + found.idle_between)
    assert 0 <= found.idle < 1
    work = [one for step in one.work for its in step.values() for one in its]
    assert sum(one_work.tokens for one_work in work) == sum(one.tokens)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 4), st.integers(0, 99), st.floats(1, 3))
def test_what_cannot_make_a_step_faster(explorer: int, seed: int, factor: float) -> None:
    def seconds(its: Run, scenario: Scenario | None = None) -> float:
        return played(its, scenario, seed=seed).steps[-1].end

    apart, here = run(config(*SEPARATE), explorer), run(config(), explorer)
    assert seconds(apart, Scenario(ahead=True)) <= seconds(apart)
    assert seconds(here) <= seconds(here, Scenario(slow=frozenset({1}), slowdown=factor))
    slower = replace(here, rates=replace(here.rates, update_flop_s=here.rates.update_flop_s / factor))
    assert seconds(here) <= seconds(slower)


def test_balancing_helps_on_average() -> None:
    its = run(config("trainer.devices=2", "algorithm.prompts_per_step=16"))
    balanced, in_turn = (
        outcome_of(played(its, Scenario(balanced=chosen), steps=30)).training_s for chosen in (True, False)
    )
    assert balanced < in_turn


def test_a_timeline_by_hand() -> None:
    timeline = Timeline(2)
    timeline.add(0, Phase.update, 0, 3)
    timeline.add(0, Phase.refit, 3, 4)
    assert timeline.together([0, 1], Phase.exchange, 4, [1, 2]) == 6
    assert timeline.busy(0, 1, 5) == 4
    assert timeline.busy(0, 1, 5, frozenset({Phase.update})) == 2
    assert timeline.idle(0, 6) == pytest.approx(5 / 12)  # the first waits for the last second, the other one for 4
    assert timeline.bins(0, 0, 8, 2) == [Phase.update, None]  # 3 of 4 s, then 1 of 4
    assert timeline.bins(0, 2.5, 4, 1) == [Phase.refit]
    assert timeline.bins(1, 0, 6, 3) == [None, None, Phase.exchange]
    with pytest.raises(AssertionError):
        timeline.add(1, Phase.update, 5, 7)
