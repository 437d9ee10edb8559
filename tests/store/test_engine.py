"""The engine that answers from a store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_nemo.config.schema import DrawOrder
from s2l_nemo.engines.protocol import Bucket, LearnerEngine, RolloutEngine
from s2l_nemo.errors import UserError
from s2l_nemo.store.engine import ReplayedLearner, StoreEngine, permutations
from s2l_nemo.store.reader import Store
from s2l_nemo.types import Completion, SampleRequest, Source
from tests.arrays import tokens_of
from tests.store.stores import PARAMS, PROMPTS, facts_of, rollout, write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(write_store(tmp_path_factory.mktemp("store") / "one"))


def engine_of(store: Store, order: DrawOrder = DrawOrder.stored, samples: int = 4, seed: int = 1) -> StoreEngine:
    return StoreEngine(store, samples=samples, order=order, seed=seed, needs_logprobs=True)


def request(prompt_id: int, draw: int, sample_id: int = 0) -> SampleRequest:
    return SampleRequest(prompt_id, sample_id, (prompt_id, 20), seed=0, draw=draw)


def test_it_is_a_frozen_engine(store: Store) -> None:
    engine: RolloutEngine = engine_of(store)
    assert not isinstance(engine, LearnerEngine)
    assert engine.weight_hash() == "a" * 64
    assert engine.restarts is None
    engine.sleep()
    engine.resume()
    assert engine.generate([], PARAMS) == []
    with pytest.raises(RuntimeError, match="cannot be lost"):
        engine.restart()


def test_draws_in_stored_order(store: Store) -> None:
    requests = [request(5, 2, sample_id=0), request(3, 1, sample_id=4), request(5, 1, sample_id=1)]
    written = [rollout(5, 2), rollout(3, 1), rollout(5, 1)]
    assert engine_of(store).generate(requests, PARAMS) == [
        Completion(one.prompt_id, asked.sample_id, Source.EXPLORER, one.token_ids, one.logprobs, one.finish_reason, 0)
        for asked, one in zip(requests, written, strict=True)
        if one.logprobs is not None
    ]


def test_the_second_explorer_has_its_number(store: Store) -> None:
    engine = StoreEngine(store, samples=4, order=DrawOrder.stored, seed=1, needs_logprobs=True, source=2)
    assert [one.source for one in engine.generate([request(5, 0), request(3, 1)], PARAMS)] == [2, 2]


def test_the_run_limit_cuts(store: Store) -> None:
    [completion] = engine_of(store).generate([request(5, 0)], replace(PARAMS, max_new_tokens=3))
    assert (completion.token_ids.tolist(), completion.finish_reason) == ([5, 20, 40], "length")


@pytest.mark.parametrize("order", DrawOrder)
@pytest.mark.parametrize(("draw", "samples"), [(4, 4), (2, 2)])
def test_a_draw_beyond_the_samples_is_refused(store: Store, order: DrawOrder, draw: int, samples: int) -> None:
    message = (
        rf"prompt 5 needs {draw + 1} stored samples and has {samples} \(4 in .*, of which the run uses {samples}\)"
    )
    with pytest.raises(UserError, match=message):
        engine_of(store, order, samples).generate([request(3, 0), request(5, draw)], PARAMS)


def test_a_permutation_needs_all_samples(store: Store) -> None:
    with pytest.raises(UserError, match=r"prompt 5 needs 6 stored samples and has 4"):
        engine_of(store, DrawOrder.shuffled, samples=6).generate([request(5, 0)], PARAMS)
    assert tokens_of(engine_of(store, samples=6).generate([request(5, 1)], PARAMS)) == [[5, 9]]


def test_a_prompt_that_is_not_there_is_refused(store: Store) -> None:
    with pytest.raises(UserError, match="prompt 4 needs 1 stored samples and has 0"):
        engine_of(store).generate([request(4, 0)], PARAMS)


def test_other_sampling_is_refused_every_time(store: Store) -> None:
    engine = engine_of(store)
    engine.generate([request(5, 0)], PARAMS)
    for _ in range(2):
        with pytest.raises(UserError, match=r"sampled with temperature=1\.0, the run asks for 2"):
            engine.generate([request(5, 0)], replace(PARAMS, temperature=2))


def order_of(engine: StoreEngine, prompt_id: int, samples: int) -> list[int]:
    """Which stored samples the draws of a prompt are. Their second token tells."""
    drawn = engine.generate([request(prompt_id, draw) for draw in range(samples)], PARAMS)
    sample_of = {tuple(rollout(prompt_id, n).token_ids.tolist()): n for n in range(4)}
    return [sample_of[tuple(one.token_ids.tolist())] for one in drawn]


@given(seed=st.integers(0, 2**40), samples=st.integers(1, 4))
def test_shuffled_draws_are_a_permutation_for_each_prompt(store: Store, seed: int, samples: int) -> None:
    engine = engine_of(store, DrawOrder.shuffled, samples, seed)
    for prompt in PROMPTS:
        order = order_of(engine, prompt.prompt_id, samples)
        assert sorted(order) == list(range(samples))
        assert order == order_of(engine_of(store, DrawOrder.shuffled, samples, seed), prompt.prompt_id, samples)


def test_seed_and_prompt_decide_the_order(store: Store) -> None:
    orders = {
        (seed, one.prompt_id): tuple(order_of(engine_of(store, DrawOrder.shuffled, seed=seed), one.prompt_id, 4))
        for seed in range(8)
        for one in PROMPTS
    }
    assert len({orders[seed, 5] for seed in range(8)}) > 3
    assert any(orders[seed, 5] != orders[seed, 3] for seed in range(8))


def test_the_order_is_the_same_on_every_machine(store: Store) -> None:
    expected = permutations(3, [5], 4)[0].tolist()
    assert order_of(engine_of(store, DrawOrder.shuffled, seed=3), 5, 4) == expected == [0, 2, 3, 1]


def splitmix(value: int) -> int:
    """With Python's integers, which do not wrap."""
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


@given(
    seed=st.integers(0, 2**70),
    prompt_ids=st.lists(st.integers(0, 2**40), min_size=1, max_size=4),
    samples=st.integers(1, 9),
)
def test_permutations_by_their_definition(seed: int, prompt_ids: list[int], samples: int) -> None:
    for prompt_id, order in zip(prompt_ids, permutations(seed, prompt_ids, samples).tolist(), strict=True):
        base = splitmix((splitmix(seed % 2**64) + prompt_id) % 2**64)
        assert order == sorted(range(samples), key=lambda n: splitmix((base + n) % 2**64))


def test_every_sample_is_as_often_first() -> None:
    first = permutations(1, range(4000), 4)[:, 0]
    counts = np.bincount(first, minlength=4)
    assert (abs(counts - 1000) < 5 * 27.4).all()  # the standard deviation is sqrt(4000 * 3 / 16)


def test_an_extended_store_keeps_the_order(tmp_path: Path) -> None:
    small = Store.open(
        write_store(tmp_path / "small", [[rollout(one.prompt_id, n) for one in PROMPTS for n in (0, 1)]])
    )
    large = Store.open(write_store(tmp_path / "large"))
    for seed in range(6):
        of_small, of_large = (engine_of(one, DrawOrder.shuffled, 2, seed) for one in (small, large))
        assert order_of(of_small, 5, 2) == order_of(of_large, 5, 2)


def test_a_loss_that_needs_log_probs_is_refused_at_once(tmp_path: Path) -> None:
    rollouts = [replace(rollout(one.prompt_id, 0), logprobs=None) for one in PROMPTS]
    store = Store.open(write_store(tmp_path / "store", [rollouts], facts_of(has_logprobs=False, weight_hash=None)))
    with pytest.raises(UserError, match=r"algorithm\.importance=learner_old"):
        engine_of(store)
    engine = StoreEngine(store, samples=1, order=DrawOrder.stored, seed=1, needs_logprobs=False)
    assert engine.generate([request(5, 0)], PARAMS)[0].logprobs.tolist() == [0.0] * 6
    assert engine.weight_hash() == facts_of().prompts_hash
    engine.close()


class TestReplay:
    def test_it_is_a_learner_that_takes_no_weights(self, store: Store) -> None:
        engine = ReplayedLearner(store, needs_logprobs=True)
        assert isinstance(engine, LearnerEngine)

        def buckets() -> Iterator[Bucket]:
            raise AssertionError("nobody may make a bucket")
            yield

        engine.update_weights(buckets(), version=3)
        assert (engine.weight_version, engine.last_refit) == (3, None)

    def test_completions_are_of_the_version_that_trains_on_them(self, store: Store) -> None:
        engine = ReplayedLearner(store, needs_logprobs=True)
        engine.update_weights([], version=3)
        written = rollout(5, 3)
        [one] = engine.generate([request(5, 3, sample_id=2)], PARAMS)
        assert (one.source, one.sample_id, one.weight_version) == (Source.LEARNER, 2, 3)
        assert one.token_ids.tolist() == written.token_ids.tolist()

    def test_a_prompt_may_have_fewer_samples_than_others(self, tmp_path: Path) -> None:
        rows = [[rollout(3, 0), rollout(5, 0), rollout(5, 1)]]
        engine = ReplayedLearner(Store.open(write_store(tmp_path / "uneven", rows)), needs_logprobs=True)
        assert len(engine.generate([request(3, 0), request(5, 1)], PARAMS)) == 2
        with pytest.raises(UserError, match=r"prompt 3 needs 2 stored samples and has 1"):
            engine.generate([request(3, 1)], PARAMS)

    def test_log_probs_that_a_loss_needs_must_be_there(self, tmp_path: Path) -> None:
        rows = [[replace(rollout(3, 0), logprobs=None)]]
        store = Store.open(write_store(tmp_path / "without", rows, facts_of(has_logprobs=False)))
        with pytest.raises(UserError, match="has no log-probs of its sampler"):
            ReplayedLearner(store, needs_logprobs=True)
