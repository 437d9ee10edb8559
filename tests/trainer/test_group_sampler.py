"""Which groups a step has: rescue, dynamic sampling and several explorers, with scripted engines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s2l_nemo.algorithm.groups import explorer_seed, sample_seed
from s2l_nemo.algorithm.options import AlgorithmConfig, RescueWhen
from s2l_nemo.algorithm.schedule import ScheduleConfig
from s2l_nemo.trainer.exchange import StepGroups
from s2l_nemo.trainer.group_sampler import ExplorerRole
from s2l_nemo.trainer.metrics import Metrics
from s2l_nemo.trainer.progress import Progress
from s2l_nemo.trainer.stop import StopRequest
from s2l_nemo.types import SampleRequest, Source
from tests.trainer.scripted import (
    RUN_SEED,
    SAMPLING,
    Answer,
    Answers,
    Run,
    ScriptedActor,
    ScriptedEngine,
    make_run,
    prompts,
)
from tests.trainer.world import ThreadRanks, on_all_ranks

RIGHT, WRONG = Answer((1, 2)), Answer((0, 2))


def algorithm(**changes: Any) -> AlgorithmConfig:
    keys: dict[str, Any] = {
        "steps": 9,
        "prompts_per_step": 2,
        "group_size": 4,
        "kl_coef": 0.0,
        "schedule": ScheduleConfig(name="constant", alpha=1.0),
    }
    return AlgorithmConfig(**(keys | changes))


def by_prompt(rewards: dict[int, Sequence[int]]) -> Answers:
    """The answer of each sample of a prompt: 1 is right. Other prompts are answered wrongly."""
    return lambda request: RIGHT if rewards.get(request.prompt_id, [0] * 99)[request.sample_id] else WRONG


def sources(groups: StepGroups) -> list[list[int]]:
    return [[int(source) for source in row] for row in groups.source_PG]


def asked(engine: ScriptedEngine) -> list[list[tuple[int, int]]]:
    """(prompt, sample) of each call."""
    return [[(one.prompt_id, one.sample_id) for one in requests] for requests, _ in engine.asked]


def step(run: Run, number: int = 1) -> tuple[Metrics, StepGroups]:
    metrics, groups, _ = run.trainer.train_step(number)
    return metrics, groups


BY_LEARNER = by_prompt({5: [0, 0, 1, 1], 6: [0, 1, 0, 0], 7: [1, 1, 1, 1]})


class TestRescue:
    def run(self, folder: Path, stop: StopRequest, **keys: Any) -> Run:
        config = algorithm(rescue_first=2, prompts_per_step=3, **keys)
        return make_run(folder, stop, config, train=prompts(5, 6, 7), by_learner=BY_LEARNER)

    def test_explorers_fill_up_the_groups_that_the_learner_fails(self, tmp_path: Path, stop: StopRequest) -> None:
        run = self.run(tmp_path, stop)
        metrics, groups = step(run)
        order = [group.prompt.prompt_id for group in groups.own.values()]
        rows = dict(zip(order, sources(groups), strict=True))
        assert rows == {5: [0, 0, 1, 1], 6: [0] * 4, 7: [0] * 4}
        first, rest = asked(run.learner)
        assert sorted(first) == [(p, s) for p in (5, 6, 7) for s in (0, 1)]
        assert sorted(rest) == [(p, s) for p in (6, 7) for s in (2, 3)]
        (filled,) = asked(run.explorer)
        assert filled == [(5, 2), (5, 3)]
        requests, _ = run.explorer.asked[0]
        assert [one.seed for one in requests] == [explorer_seed(RUN_SEED, 1, 5, draw) for draw in (0, 1)]
        assert run.learner.asked[1][0][0].seed == sample_seed(RUN_SEED, 1, *asked(run.learner)[1][0])
        assert metrics["group/explorer"] == pytest.approx(2 / 3)
        assert metrics["group/learner"] == pytest.approx(10 / 3)

    def test_all_right_may_be_filled_up_too(self, tmp_path: Path, stop: StopRequest) -> None:
        _, groups = step(self.run(tmp_path, stop, rescue_when=RescueWhen.all_equal))
        order = [group.prompt.prompt_id for group in groups.own.values()]
        rows = dict(zip(order, sources(groups), strict=True))
        assert rows == {5: [0, 0, 1, 1], 6: [0] * 4, 7: [0, 0, 1, 1]}

    def test_the_schedule_bounds_what_explorers_fill_up(self, tmp_path: Path, stop: StopRequest) -> None:
        quarter = ScheduleConfig(name="constant", alpha=0.25)
        run = self.run(tmp_path, stop, schedule=quarter)
        _, groups = step(run)
        rows = dict(zip([g.prompt.prompt_id for g in groups.own.values()], sources(groups), strict=True))
        assert rows[5] == [0, 0, 1, 0]

    def test_nothing_is_asked_of_an_explorer_that_is_not_needed(self, tmp_path: Path, stop: StopRequest) -> None:
        right = by_prompt({n: [1, 0, 0, 0] for n in (5, 6, 7)})
        run = make_run(
            tmp_path, stop, algorithm(rescue_first=2, prompts_per_step=3), train=prompts(5, 6, 7), by_learner=right
        )
        metrics, _ = step(run)
        assert run.explorer.asked == []
        assert metrics["time/rollout_explorer"] is None


class TestDynamicSampling:
    def run(self, folder: Path, stop: StopRequest, good: Sequence[int], rounds: int = 2, **keys: Any) -> Run:
        """Groups of `good` prompts have rewards that differ."""
        return make_run(
            folder, stop, algorithm(refill_rounds=rounds, **keys), train=prompts(*range(20, 28)),
            by_explorer=by_prompt({n: [1, 0, 0, 0] for n in good}),
        )  # fmt: skip

    def test_groups_of_equal_rewards_are_replaced(self, tmp_path: Path, stop: StopRequest) -> None:
        run = self.run(tmp_path, stop, good=[20, 21, 22, 23, 24, 25])
        seen: list[int] = []
        for number in range(1, 5):
            metrics, groups = step(run, number)
            ids = [group.prompt.prompt_id for group in groups.own.values()]
            assert not {26, 27} & set(ids)
            assert metrics["group/zero_variance_fraction"] == 0.0
            assert metrics["group/zero_variance_first"] == (metrics["group/refilled"] or 0) / 2
            seen += ids
        assert len(seen) == 8
        asked_for = sum(len(call) for call in asked(run.explorer))
        assert metrics["total/tokens_explorer"] == asked_for * 2
        assert metrics["total/tokens_learner"] == 0

    def test_the_bound_holds_and_what_was_dropped_stays(self, tmp_path: Path, stop: StopRequest) -> None:
        run = self.run(tmp_path, stop, good=[], rounds=2)
        metrics, groups = step(run)
        first = asked(run.explorer)[0]
        assert [group.prompt.prompt_id for group in groups.own.values()] == list(dict.fromkeys(p for p, _ in first))
        assert len(run.explorer.asked) == 3
        assert metrics["group/refilled"] == 0
        assert metrics["group/refill_prompts"] == 4
        # Six prompts were asked for four answers of two tokens each, and two groups are trained on.
        assert (metrics["total/prompts"], metrics["total/tokens_explorer"]) == (6, 6 * 4 * 2)
        assert metrics["group/zero_variance_first"] == 1.0
        assert run.trainer.progress.position == 6

    def test_it_ends_when_every_prompt_was_asked(self, tmp_path: Path, stop: StopRequest) -> None:
        run = self.run(tmp_path, stop, good=[], rounds=100)
        step(run)
        assert len({prompt for call in asked(run.explorer) for prompt, _ in call}) == 8
        assert sum(len(call) for call in asked(run.explorer)) == 8 * 4
        again = make_run(tmp_path / "one", stop, algorithm(refill_rounds=9, prompts_per_step=1), train=prompts(3))
        step(again)  # one prompt that everybody answers rightly
        step(again, 2)
        assert [len(requests) for requests, _ in again.explorer.asked] == [4, 4]


@pytest.mark.parametrize("keys", [{"refill_rounds": 2}, {"rescue_first": 2}, {"refill_rounds": 1, "rescue_first": 1}])
@pytest.mark.parametrize("name", ["constant", "adaptive"])
def test_a_resumed_run_asks_what_the_other_one_asked(
    tmp_path: Path, stop: StopRequest, keys: dict[str, Any], name: str
) -> None:
    def answers(request: SampleRequest) -> Answer:
        return RIGHT if request.seed % 5 == 0 else WRONG

    schedule = ScheduleConfig(name=name, alpha=0.5, target=0.2, gain=0.5)
    config = algorithm(schedule=schedule, **keys)

    def run_of(folder: str, progress: Progress | None = None) -> Run:
        return make_run(
            tmp_path / folder, stop, config, train=prompts(*range(20, 29)), by_explorer=answers, by_learner=answers,
            progress=progress,
        )  # fmt: skip

    whole = run_of("whole")
    for number in range(1, 4):
        step(whole, number)
    state = json.loads(json.dumps(whole.trainer.progress.state()))
    before = [len(engine.asked) for engine in (whole.explorer, whole.learner)]
    resumed = run_of("resumed", Progress.of(state, prompts_per_step=2))
    resumed.trainer.rollouts.refit(3)
    for number in range(4, 7):
        metrics, _ = step(whole, number)
        others, _ = step(resumed, number)
        assert metrics == others | {key: value for key, value in metrics.items() if key.startswith("time/")}
    assert [resumed.explorer.asked, resumed.learner.asked] == [
        engine.asked[count:] for engine, count in zip((whole.explorer, whole.learner), before, strict=True)
    ]
    assert resumed.trainer.progress == whole.trainer.progress


class TestSeveralExplorers:
    def test_each_has_its_share_its_sampling_and_its_name(self, tmp_path: Path, stop: StopRequest) -> None:
        run = make_run(
            tmp_path, stop, algorithm(schedule=ScheduleConfig(name="constant", alpha=0.75)), train=prompts(5, 6)
        )
        hot = replace(SAMPLING, temperature=1.5, max_new_tokens=5)
        run.trainer.sampler.explorers = [ExplorerRole("cold", 1.0, SAMPLING), ExplorerRole("hot", 2.0, hot)]
        run.trainer.loss = replace(run.trainer.loss, explorers=("cold", "hot"))
        second = ScriptedEngine(Source.EXPLORER, lambda _: WRONG, run.time, 1.0)
        run.trainer.rollouts.explorers = {1: run.explorer, 2: second}
        metrics, groups = step(run)
        assert sources(groups) == [[1, 2, 2, 0]] * 2
        assert [params for _, params in run.explorer.asked + second.asked] == [SAMPLING, hot]
        assert [[(one.sample_id, one.draw) for one in requests] for requests, _ in second.asked] == [
            [(1, 0), (2, 1)] * 2
        ]
        seeds = {one.seed for engine in (run.explorer, second) for requests, _ in engine.asked for one in requests}
        assert len(seeds) == 6
        assert (metrics["reward/cold"], metrics["reward/hot"], metrics["reward/explorer"]) == (1.0, 0.0, 1 / 3)
        assert (metrics["group/cold"], metrics["group/hot"], metrics["group/explorer"]) == (1, 2, 3)
        assert metrics["kl/hot"] is None
        assert metrics["clip_fraction/hot"] == 0.0
        assert run.trainer.progress.drawn == {
            (1, 5): 1, (1, 6): 1, (2, 5): 2, (2, 6): 2, (0, 5): 1, (0, 6): 1,
        }  # fmt: skip

    def test_they_may_share_an_engine(self, tmp_path: Path, stop: StopRequest) -> None:
        run = make_run(tmp_path, stop, algorithm(), train=prompts(5, 6))
        hot = replace(SAMPLING, temperature=1.5)
        run.trainer.sampler.explorers = [ExplorerRole("cold", 1.0, SAMPLING), ExplorerRole("hot", 1.0, hot)]
        run.trainer.rollouts.explorers = {1: run.explorer, 2: run.explorer}
        _, groups = step(run)
        assert sources(groups) == [[1, 1, 2, 2]] * 2
        assert [params.temperature for _, params in run.explorer.asked] == [1.5, SAMPLING.temperature]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    good=st.sets(st.integers(0, 11)),
    rounds=st.integers(0, 3),
    first=st.sampled_from([None, 1, 3]),
    replicas=st.sampled_from([1, 2]),
)
def test_all_replicas_train_on_as_many_groups(
    tmp_path_factory: pytest.TempPathFactory, stop: StopRequest, good: set[int], rounds: int, first: int | None,
    replicas: int,
) -> None:  # fmt: skip
    """Whatever the rewards: the same decisions on every rank, P groups in all, as many on each replica."""
    config = algorithm(prompts_per_step=4, refill_rounds=rounds, rescue_first=first, mini_batch_prompts=2)
    answers = by_prompt({n: [0, 1, 0, 1] if n % 2 else [0, 0, 1, 0] for n in good})

    def job(ranks: ThreadRanks) -> tuple[Any, Any, list[int], Progress]:
        folder = tmp_path_factory.mktemp("run")
        actor = ScriptedActor(rank=ranks.rank, replicas=replicas)
        run = make_run(
            folder, stop, config, train=prompts(*range(12)), by_explorer=answers, by_learner=answers, actor=actor,
            ranks=ranks,
        )  # fmt: skip
        _, groups = step(run)
        ids = [group.prompt.prompt_id for group in groups.own.values()]
        assert len(ids) == 4 // replicas
        run.trainer.progress.totals.pop("flops_trained")  # of one replica: the scripted actor adds none of the other
        return groups.reward_PG.tolist(), groups.source_PG.tolist(), ids, run.trainer.progress

    results = on_all_ranks(job, range(replicas))
    assert all(result[:2] + result[3:] == results[0][:2] + results[0][3:] for result in results)
    trained = [prompt for *_, ids, _ in results for prompt in ids]
    assert len(set(trained)) == 4


TWO = {"schedule": ScheduleConfig(name="list", shares=[0.5, 1.0, 0.0]), "mini_batch_prompts": 1}


class TestTwoUpdates:
    """Of each policy's answers to a prompt the first is right. Groups of 2 + 2, then 4 + 0, then 0 + 4."""

    def run(self, folder: Path, stop: StopRequest, by_learner: Answers | None = None, **keys: Any) -> Run:
        answers = by_prompt({5: [1, 0, 0, 0], 6: [1, 0, 0, 0]})
        return make_run(
            folder, stop, algorithm(**TWO, **keys), train=prompts(5, 6), by_explorer=answers,
            by_learner=by_learner or answers, two_updates=True,
        )  # fmt: skip

    def test_an_update_on_the_explorers_answers_comes_before_the_learner_samples(
        self, tmp_path: Path, stop: StopRequest
    ) -> None:
        run = self.run(tmp_path, stop)
        metrics, groups = step(run)
        assert sources(groups) == [[1, 1, 0, 0]] * 2
        assert run.learner.versions == [1, 2]
        assert [(one.sample_id, one.source, one.weight_version) for one in groups.own[0].completions] == [
            (0, 1, 0), (1, 1, 0), (2, 0, 1), (3, 0, 1),
        ]  # fmt: skip
        # Four optimizer steps: two explorer answers of one prompt each, then two learner answers of one prompt each.
        assert [batch.source_B.tolist() for batch in run.actor.mini_batches] == [[1, 1], [1, 1], [0, 0], [0, 0]]
        assert (metrics["group/explorer"], metrics["group/learner"]) == (2, 2)
        assert metrics["time/rollout"] == 2.0
        assert run.trainer.progress.drawn == {(1, 5): 2, (1, 6): 2, (0, 5): 2, (0, 6): 2}
        assert run.trainer.progress.position == 2

    def test_mini_batches_of_explorer_answers_count_sequences(self, tmp_path: Path, stop: StopRequest) -> None:
        run = self.run(tmp_path, stop, explorer_mini_batch=3)
        step(run)
        assert [batch.source_B.tolist() for batch in run.actor.mini_batches] == [[1, 1, 1], [1], [0, 0], [0, 0]]

    def test_a_step_of_one_policy_has_one_part(self, tmp_path: Path, stop: StopRequest) -> None:
        run = self.run(tmp_path, stop)
        for number in (1, 2, 3):
            step(run, number)
        assert run.learner.versions == [1, 2, 4, 6]
        assert (len(run.explorer.asked), len(run.learner.asked)) == (2, 2)

    def test_advantages_are_taken_over_each_half(self, tmp_path: Path, stop: StopRequest) -> None:
        run = self.run(tmp_path, stop, by_learner=lambda _: WRONG)
        _, _, advantages_PG = run.trainer.train_step(1)
        half = 0.5 / 0.5**0.5  # of 1 and 0, over all four it would be 0.75 / 0.5
        assert advantages_PG.tolist() == [[pytest.approx(half, rel=1e-4), pytest.approx(-half, rel=1e-4), 0.0, 0.0]] * 2


class TestTheLearnerExplores:
    """`explorer.source=learner`: the learner gives the explorer's share, too."""

    def test_two_updates_are_of_the_same_rows_as_with_an_explorer(self, tmp_path: Path, stop: StopRequest) -> None:
        answers = by_prompt({5: [1, 0, 0, 0], 6: [1, 0, 0, 0]})
        run = make_run(tmp_path, stop, algorithm(**TWO, explorer_mini_batch=3), train=prompts(5, 6), by_learner=answers,
                       two_updates=True)  # fmt: skip
        run.trainer.sampler.explorers = []
        metrics, groups = step(run)
        assert sources(groups) == [[0, 0, 0, 0]] * 2
        assert [(one.sample_id, one.weight_version) for one in groups.own[0].completions] == [
            (0, 0), (1, 0), (2, 1), (3, 1),
        ]  # fmt: skip
        # Four answers ahead of time, in mini-batches of three sequences, then two answers of each prompt.
        assert [len(batch.source_B) for batch in run.actor.mini_batches] == [3, 1, 2, 2]
        assert (metrics["group/explorer"], metrics["group/learner"]) == (0, 4)
        (first, _), (second, _) = run.learner.asked
        assert [one.seed for one in first[:2]] == [sample_seed(RUN_SEED, 1, 5, sample) for sample in (0, 1)]
        assert [one.seed for one in second[:2]] == [sample_seed(RUN_SEED, 1, 5, sample) for sample in (2, 3)]
        assert run.explorer.asked == []

    def test_with_one_update_it_is_grpo(self, tmp_path: Path, stop: StopRequest) -> None:
        found = []
        for name in ("constant", "none"):
            config = algorithm(schedule=ScheduleConfig(name=name, alpha=0.5))
            run = make_run(tmp_path / name, stop, config, train=prompts(5, 6))
            run.trainer.sampler.explorers = []
            _, groups = step(run)
            rows = [len(batch.source_B) for batch in run.actor.mini_batches]
            found.append((run.learner.asked, sources(groups), rows))
        assert found[0] == found[1]


def test_a_run_of_two_updates_counts_its_optimizer_steps() -> None:
    from s2l_nemo.config.schema import Config
    from s2l_nemo.trainer.optimizer_steps import optimizer_steps

    cfg = Config()
    cfg.algorithm = algorithm(**TWO, steps=4, prompts_per_step=4, explorer_mini_batch=3, optimizer_passes=2)
    cfg.rollout.two_updates = True
    # explorer: ceil(4 * 2 / 3) = 3, ceil(16 / 3) = 6, 0, 0; learner: 4 mini-batches where it samples
    assert optimizer_steps(cfg) == 2 * ((3 + 4) + 6 + 4 + 4)
    cfg.rollout.two_updates = False
    assert optimizer_steps(cfg) == 2 * 4 * 4


def test_diversity_is_measured_on_as_many_answers_of_each_sampler(tmp_path: Path, stop: StopRequest) -> None:
    """Three answers of the first explorer, two of the second, three of the learner: two of each count."""
    config = algorithm(group_size=8, schedule=ScheduleConfig(name="constant", alpha=0.625))
    run = make_run(
        tmp_path, stop, config, train=prompts(5, 6),
        by_explorer=lambda request: Answer((0, 3) if request.sample_id == 2 else (0, 2)),
        by_learner=lambda request: Answer((1, request.sample_id)),
    )  # fmt: skip
    run.trainer.sampler.explorers = [ExplorerRole("same", 3.0, SAMPLING), ExplorerRole("other", 2.0, SAMPLING)]
    run.trainer.loss = replace(run.trainer.loss, explorers=("same", "other"))
    run.trainer.rollouts.explorers = {1: run.explorer, 2: run.explorer}
    metrics, groups = step(run)
    assert sources(groups)[0] == [1, 1, 1, 2, 2, 0, 0, 0]
    assert metrics["diversity/unique_answers_same"] == 0.5  # the third one, which differs, does not count
    assert metrics["diversity/edit_same"] == 0.0
    assert metrics["diversity/unique_answers_learner"] == 1.0
    assert metrics["diversity/edit_learner"] == 0.5
    run.trainer.diversity_groups = 0
    assert {value for name, value in step(run, 2)[0].items() if name.startswith("diversity/")} == {None}
