from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from numpy.typing import NDArray

from s2l_nemo.measures.diversity import (
    DiversityScores,
    Samples,
    choose_like_learner,
    diversity,
    diversity_P,
    edit_diversity,
    match_learner_diversity,
    self_bleu,
    unique_fraction,
)

Tokens = list[list[int]]
Rollouts = Sequence[tuple[Sequence[int], str | None]]  # tokens and answer of each

A, B, C = [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]
# Few tokens, so that n-grams repeat; many lengths, 0 among them.
sequences = st.lists(st.integers(0, 3), max_size=12)
groups = st.lists(sequences, min_size=2, max_size=7)
rollouts = st.lists(st.tuples(sequences, st.sampled_from([None, "1", "2", "3"])), min_size=2, max_size=7)


def nltk_self_bleu(tokens_K: Tokens) -> float:
    smoothing = SmoothingFunction().method1
    others = [tokens_K[:k] + tokens_K[k + 1 :] for k in range(len(tokens_K))]
    scores = [sentence_bleu(o, t, smoothing_function=smoothing) for o, t in zip(others, tokens_K, strict=True)]
    return float(np.mean(scores))


def levenshtein(a: Sequence[int], b: Sequence[int]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def scores_3(rollouts: Rollouts) -> NDArray[np.float64]:
    tokens, answers = zip(*rollouts, strict=True)
    return np.array([self_bleu(tokens), edit_diversity(tokens), unique_fraction(answers)])


def gap(rollouts: Rollouts, target_3: NDArray[np.float64]) -> float:
    kept_3 = scores_3(rollouts)
    larger = np.maximum(kept_3, target_3)
    return float(sum(abs(a - b) / c for a, b, c in zip(kept_3, target_3, larger, strict=True) if c > 0))


def match(explorer: Rollouts, learner: Rollouts, keep_min: int = 2, seed: int = 0) -> list[int]:
    return match_learner_diversity(
        [r[0] for r in explorer],
        [r[1] for r in explorer],
        [r[0] for r in learner],
        [r[1] for r in learner],
        keep_min=keep_min,
        seed=seed,
    )


@given(groups)
def test_self_bleu_equals_nltk(tokens: Tokens) -> None:
    assert self_bleu(tokens) == pytest.approx(nltk_self_bleu(tokens), abs=1e-12)


def test_self_bleu_of_long_texts_equals_nltk() -> None:
    rng = np.random.default_rng(0)
    words = [np.minimum(rng.zipf(1.3, length), 150_000).tolist() for length in (400, 300, 400, 41, 3)]
    tokens = [*words, words[0][:200] + words[1][100:]]
    assert 0.1 < self_bleu(tokens) < 0.9
    assert self_bleu(tokens) == pytest.approx(nltk_self_bleu(tokens), abs=1e-12)


def test_self_bleu_by_hand() -> None:
    assert self_bleu([A, A, A]) == 1.0
    assert self_bleu([A, B, C]) == 0.0
    # Either has 2 of 4 tokens, 1 of 3 bigrams, 0 of 2 trigrams and 0 of 1 4-grams in the other.
    assert self_bleu([[1, 1, 1, 1], [1, 1, 2, 2]]) == pytest.approx((1 / 2 * 1 / 3 * 0.1 / 2 * 0.1 / 1) ** 0.25)
    # All of A's n-grams are in the longer one, exp(1 - 5/4) for its length; of the other 4/5, 3/4, 2/3, 1/2.
    expected = (np.exp(-0.25) + (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25) / 2
    assert self_bleu([A, [*A, 5]]) == pytest.approx(expected)
    assert self_bleu([[], [], A]) == 0.0


@given(groups)
def test_edit_diversity_equals_brute_force(tokens: Tokens) -> None:
    pairs = [levenshtein(a, b) / max(len(a), len(b), 1) for a, b in itertools.combinations(tokens, 2)]
    assert edit_diversity(tokens) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_edit_diversity_by_hand() -> None:
    assert edit_diversity([[1, 2, 3], [1, 3], []]) == pytest.approx((1 / 3 + 1 + 1) / 3)
    assert edit_diversity([[], []]) == 0.0
    assert edit_diversity([[151_000, 2, 70_000], [151_001, 2, 70_000]]) == pytest.approx(1 / 3)


def test_unique_fraction_by_hand() -> None:
    assert unique_fraction(["1", "1", "2", None, None]) == pytest.approx(3 / 5)
    assert unique_fraction([None, "None"]) == 1.0


def test_diversity_is_the_mean_over_problems() -> None:
    same, other = Samples([A, A], ["1", "1"]), Samples([A, B], ["1", None])
    assert diversity_P([same, other]) == [DiversityScores(1.0, 0.0, 0.5), DiversityScores(0.0, 1.0, 1.0)]
    assert diversity([same, other]) == DiversityScores(0.5, 0.5, 0.75)


@pytest.mark.parametrize("size", [0, 1])
def test_fewer_than_two_samples_are_refused(size: int) -> None:
    for metric in (self_bleu, edit_diversity):
        with pytest.raises(ValueError, match="at least 2 samples"):
            metric([[1, 2]] * size)
    with pytest.raises(ValueError, match="at least 2 samples"):
        unique_fraction(["1"] * size)
    with pytest.raises(ValueError, match="at least 2 samples"):
        match([(A, "1"), (B, "2")], [(A, "1")] * size)


def test_other_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one problem"):
        diversity([])
    with pytest.raises(ValueError, match="2 samples with 1 answers"):
        Samples([A, B], ["1"])
    with pytest.raises(ValueError, match="keep_min=1"):
        match([(A, "1")] * 3, [(A, "1")] * 3, keep_min=1)


def choose(explorer: Rollouts, learner: Rollouts, size: int) -> list[int]:
    return choose_like_learner(
        [r[0] for r in explorer], [r[1] for r in explorer], [r[0] for r in learner], [r[1] for r in learner], size
    )


def test_choose_by_hand() -> None:
    a, b, c = (A, "1"), (B, "2"), (C, "3")
    # {a, b, c} to begin with. The second a replaces b, the first of two equal ones, and the third one replaces c.
    assert choose([a, b, c, a, a], [a, a, a], 3) == [0, 3, 4]
    assert choose([a, b, c, a], [a, a, a], 3) == [0, 2, 3]  # as near as it comes
    assert choose([a, b, c, a, a], [a, b, c], 3) == [0, 1, 2]  # the first ones are as diverse already
    assert choose([a, a, a, b, c], [a, b, c], 3) == [2, 3, 4]  # a learner that is more diverse is matched, too
    assert choose([a, b], [a, a], 2) == [0, 1]  # no choice


@given(rollouts, rollouts, st.integers(2, 7))
def test_choosing_equals_brute_force_and_never_widens_the_gap(explorer: Rollouts, learner: Rollouts, size: int) -> None:
    size = min(size, len(explorer))
    target_3 = scores_3(learner)
    chosen, smallest = list(range(size)), gap(explorer[:size], target_3)
    for newcomer in range(size, len(explorer)):
        joined = [*chosen, newcomer]
        gaps = [gap([explorer[k] for k in joined if k != one], target_3) for one in joined]
        if gaps[-1] > min(gaps) + 1e-12:
            chosen = [k for k in joined if k != joined[next(i for i, g in enumerate(gaps) if g <= min(gaps) + 1e-12)]]
    assert choose(explorer, learner, size) == sorted(chosen)
    assert gap([explorer[k] for k in chosen], target_3) <= smallest + 1e-9


@pytest.mark.parametrize("size", [1, 4])
def test_a_choice_of_too_few_or_too_many_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"size={size} of 3 rollouts"):
        choose([(A, "1")] * 3, [(A, "1")] * 3, size)


def test_match_by_hand() -> None:
    # The learner: Self-BLEU 3/4, edit 3/6, unique 2/4. The explorer without B or without C is the same.
    explorer = [(A, "1"), (A, "1"), (B, "2"), (A, "1"), (C, "3")]
    learner = [(A, "1"), (A, "1"), (A, "1"), (B, "2")]
    kept = {tuple(match(explorer, learner, seed=seed)) for seed in range(10)}
    assert kept == {(0, 1, 2, 3), (0, 1, 3, 4)}  # the seed decides
    assert match(explorer, learner, keep_min=5) == [0, 1, 2, 3, 4]


def test_match_tells_no_answer_from_the_text_none() -> None:
    # All answers differ, whichever goes. Were the first two one answer, 1/2 without the third would be nearer to 1/3.
    assert match([(A, None), (A, "None"), (A, "1")], [(A, "1")] * 3) == [0, 1, 2]


def test_match_goes_on_where_one_removal_alone_does_not_help() -> None:
    # Two of each: without one, its twin stands alone, and Self-BLEU and the unique answers are further off.
    explorer = [(A, "1"), (A, "1"), (B, "2"), (B, "2"), (C, "3"), (C, "3")]
    learner = [(A, "1"), (A, "1"), (B, "2"), (B, "2")]
    assert gap(explorer[:5], scores_3(learner)) > gap(explorer, scores_3(learner))
    kept = match(explorer, learner)
    assert gap([explorer[k] for k in kept], scores_3(learner)) == pytest.approx(0)
    assert len(kept) == 4


def test_match_leaves_a_less_diverse_explorer_alone() -> None:
    assert match([(A, "1")] * 4, [(A, "1"), (B, "2"), (C, "3")]) == [0, 1, 2, 3]


def test_match_of_few_explorer_rollouts_keeps_them() -> None:
    learner = [(A, "1")] * 3
    assert [match([(B, None)] * size, learner) for size in range(3)] == [[], [0], [0, 1]]


@given(rollouts, st.integers(0, 3))
def test_match_leaves_identical_sets_alone(rollouts: Rollouts, seed: int) -> None:
    assert match(rollouts, rollouts[::-1], seed=seed) == list(range(len(rollouts)))


def greedy(explorer: Rollouts, learner: Rollouts, keep_min: int, seed: int) -> list[int]:
    """The search of `match_learner_diversity`, with every metric of every set computed anew."""
    target_3 = scores_3(learner)
    order = np.random.default_rng(seed).permutation(len(explorer)).tolist()
    way = [order]
    while len(order) > keep_min:
        if not ((scores_3([explorer[k] for k in order]) - target_3) * [-1, 1, 1] > 1e-12).any():
            break
        gaps = [gap([explorer[k] for k in order if k != out], target_3) for out in order]
        best = next(i for i, value in enumerate(gaps) if value <= min(gaps) + 1e-12)
        order = order[:best] + order[best + 1 :]
        way.append(order)
    gaps = [gap([explorer[k] for k in order], target_3) for order in way]
    return sorted(next(order for order, value in zip(way, gaps, strict=True) if value <= min(gaps) + 1e-12))


@settings(max_examples=60)
@given(rollouts, rollouts, st.integers(2, 4), st.integers(0, 3))
def test_match_is_the_greedy_search(explorer: Rollouts, learner: Rollouts, keep_min: int, seed: int) -> None:
    assert match(explorer, learner, keep_min, seed) == greedy(explorer, learner, keep_min, seed)


def test_match_is_the_greedy_search_where_one_sample_repeats_itself() -> None:
    """A sample that holds an n-gram several times more than any other: its excess grows by more than one."""
    rng = random.Random(0)
    for seed in range(30):
        lengths = [rng.randint(4, 30) for _ in range(6)]
        explorer = [([rng.choice([0, 0, 0, 0, 1, 2]) for _ in range(length)], "1") for length in lengths]
        learner = [([0] * 12, "1"), ([0] * 11 + [1], "1"), ([0] * 9, "1")]
        assert match(explorer, learner, 2, seed) == greedy(explorer, learner, 2, seed)


@given(rollouts, rollouts, st.integers(2, 4), st.integers(0, 3))
def test_match_never_widens_the_gap(explorer: Rollouts, learner: Rollouts, keep_min: int, seed: int) -> None:
    kept = match(explorer, learner, keep_min, seed)
    assert kept == sorted(set(kept))
    assert len(kept) >= min(keep_min, len(explorer))
    target_3 = scores_3(learner)
    assert gap([explorer[k] for k in kept], target_3) <= gap(explorer, target_3) + 1e-9
    assert kept == match(explorer, learner, keep_min, seed)
