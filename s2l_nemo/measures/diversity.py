"""How diverse K samples of one problem are (Table 3), and the filter that removes the difference (Table 4).

The paper names its metrics without formulas. These are ours, on token ids:

- Self-BLEU is the mean over samples of BLEU-4 of one sample against all others. BLEU-4 is exp of the mean of log p_n,
  n = 1..4, times the brevity penalty with the closest reference length. p_n is the share of n-grams that are found in
  the references; an n-gram is found at most as often as in one of them. If no n-gram is found, p_n is 0.1 / their
  number (method1 of Chen and Cherry, 2014). If no token is found, BLEU is 0. This is nltk's `sentence_bleu`. A lower
  value is more diverse.
- Edit diversity is the mean over pairs of Levenshtein distance / length of the longer one. A higher value is more
  diverse.
- Unique answers is distinct normalised answers / K. "No answer" counts as an answer. A higher value is more diverse.

With more samples Self-BLEU rises and unique answers falls, so compare them only at the same K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MAX_N = 4
EPSILON = 0.1  # how many matches count if there is none
TOLERANCE = 1e-12  # rounding of sums


@dataclass(frozen=True)
class Samples:
    """K samples of one problem: token ids and normalised answers. An answer is None if the response has none."""

    tokens_K: Sequence[Sequence[int]]
    answers_K: Sequence[str | None]

    def __post_init__(self) -> None:
        if len(self.tokens_K) != len(self.answers_K):
            raise ValueError(f"{len(self.tokens_K)} samples with {len(self.answers_K)} answers")


@dataclass(frozen=True)
class DiversityScores:
    """Each from 0 to 1. A lower `self_bleu`, a higher `edit` and a higher `unique` are more diverse."""

    self_bleu: float
    edit: float
    unique: float


def self_bleu(tokens_K: Sequence[Sequence[int]]) -> float:
    """Mean BLEU-4 of a sample against the others. Raises ValueError for fewer than two samples."""
    return _SelfBleu(tokens_K).score()


def edit_diversity(tokens_K: Sequence[Sequence[int]], workers: int = 2) -> float:
    """Mean over pairs of the normalised Levenshtein distance, in `workers` threads. Two empty samples are 0 apart.

    Raises ValueError for fewer than two samples. Its time grows with the square of the length.
    """
    return _mean_of_pairs(_distances_KK(tokens_K, workers))


def unique_fraction(answers_K: Sequence[str | None]) -> float:
    """Distinct answers / K. None is an answer too. Raises ValueError for fewer than two samples.

    Give normalised answers, so that two spellings are one answer.
    """
    _check_samples(len(answers_K))
    return len(set(answers_K)) / len(answers_K)


def diversity_P(problems: Sequence[Samples], workers: int = 2) -> list[DiversityScores]:
    """The three metrics of every problem. Raises ValueError for a problem with fewer than two samples."""
    return [
        DiversityScores(self_bleu(p.tokens_K), edit_diversity(p.tokens_K, workers), unique_fraction(p.answers_K))
        for p in problems
    ]


def diversity(problems: Sequence[Samples], workers: int = 2) -> DiversityScores:
    """Means of the three metrics over problems. Raises ValueError if there is no problem, and as `diversity_P`."""
    if not problems:
        raise ValueError("diversity needs at least one problem")
    means = np.mean([astuple(scores) for scores in diversity_P(problems, workers)], axis=0)
    return DiversityScores(*map(float, means))


def match_learner_diversity(
    explorer_tokens: Sequence[Sequence[int]],
    explorer_answers: Sequence[str | None],
    learner_tokens: Sequence[Sequence[int]],
    learner_answers: Sequence[str | None],
    keep_min: int,
    seed: int,
) -> list[int]:
    """Which explorer rollouts of a group to keep, so that they are no more diverse than the learner's (Table 4).

    The gap is the sum of |explorer - learner| / max(explorer, learner) over the three metrics. The search is greedy. It
    goes on while the kept rollouts are more diverse than the learner's in one of the metrics, and more than `keep_min`
    are left. Each step drops the rollout whose removal leaves the smallest gap; `seed` decides between equal ones. Of
    all sets on the way, the one with the smallest gap is kept; of equal ones, the largest.

    Returns indices in ascending order: all of them if there are no more than `keep_min`. Self-BLEU and unique answers
    depend on K, so give as many learner rollouts as explorer ones. With fewer, the learner seems more diverse than it
    is.

    Raises ValueError if `keep_min` is below 2, or for fewer than two learner rollouts, which have no diversity.
    """
    if keep_min < 2:
        raise ValueError(f"keep_min={keep_min}: fewer than 2 rollouts have no diversity")
    target_3 = np.array(astuple(diversity([Samples(learner_tokens, learner_answers)], workers=1)))
    if len(explorer_tokens) <= keep_min:
        return list(range(len(explorer_tokens)))
    group = _ShrinkingGroup(Samples(explorer_tokens, explorer_answers))
    # The first of equal ones is dropped. The order is random, so that the place in the batch does not matter.
    candidates = np.random.default_rng(seed).permutation(len(explorer_tokens))
    gap, is_more_diverse = _gap(group.scores_3(), target_3)
    smallest, kept = gap, candidates
    while is_more_diverse and len(candidates) > keep_min:
        gaps, _ = _gap(group.scores_without(candidates), target_3)
        best = int(np.argmax(gaps <= gaps.min() + TOLERANCE))
        group.drop(int(candidates[best]))
        candidates = np.delete(candidates, best)
        gap, is_more_diverse = _gap(group.scores_3(), target_3)
        if gap < smallest - TOLERANCE:
            smallest, kept = gap, candidates
    return sorted(int(index) for index in kept)


def choose_like_learner(
    explorer_tokens: Sequence[Sequence[int]],
    explorer_answers: Sequence[str | None],
    learner_tokens: Sequence[Sequence[int]],
    learner_answers: Sequence[str | None],
    size: int,
) -> list[int]:
    """Which `size` of more explorer rollouts are about as diverse as the learner's (Table 4, at a constant group size).

    The gap is that of `match_learner_diversity`. All sets that are compared have `size` rollouts, because the metrics
    depend on K. The first ones are chosen. Then each further one joins in turn, and the one leaves whose absence leaves
    the smallest gap: the newcomer itself unless another is better, and the first of equal ones. So the gap never grows.

    Returns indices in ascending order. Give `size` learner rollouts. Raises ValueError if `size` is below 2 or above
    the number of explorer rollouts, or for fewer than two learner rollouts.
    """
    if not 2 <= size <= len(explorer_tokens):
        raise ValueError(f"size={size} of {len(explorer_tokens)} rollouts: choose 2 at least, and no more than all")
    target_3 = np.array(astuple(diversity([Samples(learner_tokens, learner_answers)], workers=1)))
    group = _ShrinkingGroup(Samples(explorer_tokens, explorer_answers))
    for newcomer in range(size, len(explorer_tokens)):
        group.drop(newcomer)
    chosen = list(range(size))
    for newcomer in range(size, len(explorer_tokens)):
        group.add(newcomer)
        chosen.append(newcomer)
        gaps, _ = _gap(group.scores_without(np.array(chosen)), target_3)
        best = int(np.argmax(gaps <= gaps.min() + TOLERANCE)) if gaps[-1] > gaps.min() + TOLERANCE else size
        group.drop(chosen.pop(best))
    return sorted(chosen)


def _gap(scores_3: Floats, target_3: Floats) -> tuple[Floats, Bools]:
    """The sum of relative differences over the metrics (last axis), and whether any metric is more diverse."""
    difference = (scores_3 - target_3) * [-1, 1, 1]
    larger = np.maximum(scores_3, target_3)
    relative = np.divide(difference, larger, out=np.zeros_like(difference), where=larger > 0)
    return np.abs(relative).sum(axis=-1), (difference > TOLERANCE).any(axis=-1)


class _ShrinkingGroup:
    """The three metrics of the samples that are kept, and what they would be without one more of them.

    A sample that was dropped may come back.
    """

    def __init__(self, samples: Samples) -> None:
        self._bleu = _SelfBleu(samples.tokens_K)
        self._distances_KK = _distances_KK(samples.tokens_K, workers=1)
        self._answer_K = np.unique([repr(answer) for answer in samples.answers_K], return_inverse=True)[1]
        self._is_kept_K = np.ones(len(samples.tokens_K), dtype=bool)

    def drop(self, index: int) -> None:
        self._is_kept_K[index] = False
        self._bleu.drop(index)

    def add(self, index: int) -> None:
        self._is_kept_K[index] = True
        self._bleu.add(index)

    def scores_3(self) -> Floats:
        kept = np.flatnonzero(self._is_kept_K)
        edit = _mean_of_pairs(self._distances_KK[np.ix_(kept, kept)])
        return np.array([self._bleu.score(), edit, len(np.unique(self._answer_K[kept])) / len(kept)])

    def scores_without(self, candidates: Ints) -> Floats:
        """[i]: the three metrics of the kept samples without candidate i. Every candidate is a kept sample."""
        kept = np.flatnonzero(self._is_kept_K)
        rest = len(kept) - 1
        distances = self._distances_KK[np.ix_(kept, kept)].sum()
        edit = (distances - 2 * self._distances_KK[np.ix_(candidates, kept)].sum(axis=1)) / (rest * (rest - 1))
        answers = np.bincount(self._answer_K[kept])
        unique = (np.count_nonzero(answers) - (answers[self._answer_K[candidates]] == 1)) / rest
        return np.stack([self._bleu.without_K()[candidates], edit, unique], axis=1)


class _SelfBleu:
    """Self-BLEU of samples that can be dropped one by one.

    For one n-gram, rank the samples by how often they hold it. A sample finds it in the others as often as the highest
    of them holds it. So every sample but the first finds all that it holds. The first one lacks its excess over the
    second, or over the third once the second is dropped.
    """

    def __init__(self, tokens_K: Sequence[Sequence[int]]) -> None:
        _check_samples(len(tokens_K))
        self._length_K = np.array([len(tokens) for tokens in tokens_K])
        self._is_kept_K = np.ones(len(tokens_K), dtype=bool)
        self._all_N = _count_ngrams(tokens_K)
        self._counts_N = self._all_N
        self._total_KN = np.maximum(self._length_K[:, None] - np.arange(MAX_N), 0)

    def drop(self, index: int) -> None:
        self._is_kept_K[index] = False
        self._counts_N = [counts.of(self._is_kept_K) for counts in self._counts_N]

    def add(self, index: int) -> None:
        self._is_kept_K[index] = True
        self._counts_N = [counts.of(self._is_kept_K) for counts in self._all_N]

    def score(self) -> float:
        """Self-BLEU of the kept samples."""
        kept = self._is_kept_K
        found_KN = self._total_KN - np.stack([c.excess_K(len(kept)) for c in self._counts_N], axis=1)
        reference_K = self._length_K[self._closest_two_K2()[:, 0]]
        return float(_bleu(found_KN, self._total_KN, self._length_K, reference_K)[kept].mean())

    def without_K(self) -> Floats:
        """[j]: Self-BLEU of the kept samples without sample j, for every kept j. At least three must be kept."""
        size, kept = len(self._is_kept_K), np.flatnonzero(self._is_kept_K)
        excess_KN = np.stack([c.excess_K(size) for c in self._counts_N], axis=1)
        found_KKN = (self._total_KN - excess_KN) - np.stack([c.excess_growth_KK(size) for c in self._counts_N], axis=2)
        closest_K, second_K = self._closest_two_K2().T
        is_closest_KK = closest_K == np.arange(size)[:, None]
        reference_KK = self._length_K[np.where(is_closest_KK, second_K, closest_K)]
        bleu_KK = _bleu(found_KKN, self._total_KN, self._length_K, reference_KK)
        np.fill_diagonal(bleu_KK, 0.0)
        sums_K: Floats = bleu_KK[:, kept].sum(axis=1)
        return sums_K / (len(kept) - 1)

    def _closest_two_K2(self) -> Ints:
        """The two other kept samples closest in length to each one. The shorter of equally close ones comes first."""
        length_K = self._length_K
        distance_KK = np.abs(length_K[:, None] - length_K) * (length_K.max() + 1.0) + length_K
        distance_KK[:, ~self._is_kept_K] = np.inf
        np.fill_diagonal(distance_KK, np.inf)
        return np.argsort(distance_KK, axis=1, kind="stable")[:, :2]


@dataclass(frozen=True)
class _Counts:
    """How often each sample holds each n-gram, without zeros. Sorted by n-gram, then by count, the highest first."""

    gram: Ints
    sample: Ints
    count: Ints

    def of(self, is_kept_K: Bools) -> _Counts:
        rows = is_kept_K[self.sample]
        return _Counts(self.gram[rows], self.sample[rows], self.count[rows])

    def excess_K(self, size: int) -> Floats:
        """By how much the counts of a sample exceed the highest of the others, summed over n-grams."""
        first = self._ranks()
        excess = self.count[first] - self._at_rank(first, 1)
        return np.bincount(self.sample[first], excess, size).astype(np.float64, copy=False)

    def excess_growth_KK(self, size: int) -> Floats:
        """[j, k]: by how much the excess of sample k grows if sample j is dropped."""
        first = self._ranks()
        growth = self._at_rank(first, 1) - self._at_rank(first, 2)
        rows = np.flatnonzero(growth)
        first, growth = first[rows], growth[rows]
        pair = self.sample[first + 1] * size + self.sample[first]
        growth_KK = np.bincount(pair, growth, size * size).reshape(size, size)
        return growth_KK + growth_KK.T

    def _ranks(self) -> Ints:
        """The row of the highest count of each n-gram."""
        return np.flatnonzero(np.diff(self.gram, prepend=-1))

    def _at_rank(self, first: Ints, rank: int) -> Ints:
        """The count `rank` places below the highest one; 0 if fewer samples hold the n-gram."""
        row = np.minimum(first + rank, len(self.gram) - 1)
        is_same = (self.gram[row] == self.gram[first]) & (row == first + rank)
        return np.where(is_same, self.count[row], 0)


def _count_ngrams(tokens_K: Sequence[Sequence[int]]) -> list[_Counts]:
    """Counts for n = 1..4. An (n+1)-gram is numbered by its n-gram and its last token, so that numbers stay small."""
    sample_T = np.repeat(np.arange(len(tokens_K)), [len(tokens) for tokens in tokens_K])
    token_T = np.concatenate([np.asarray(tokens, dtype=np.int64) for tokens in tokens_K])
    vocabulary = token_T.max(initial=0) + 1
    sample_bits = len(tokens_K).bit_length()
    gram_T = np.zeros_like(token_T)
    counts = []
    for n in range(1, MAX_N + 1):
        end = np.arange(n - 1, len(token_T))
        start = end - (n - 1)
        is_inside = sample_T[start] == sample_T[end]
        start, end = start[is_inside], end[is_inside]
        key = ((gram_T[start] * vocabulary + token_T[end]) << sample_bits) | sample_T[start]
        order = np.argsort(key)
        key = key[order]
        gram = np.cumsum(np.diff(key >> sample_bits, prepend=-1) != 0) - 1
        gram_T[start[order]] = gram
        first = np.flatnonzero(np.diff(key, prepend=-1))
        count = np.diff(first, append=len(key))
        gram, sample = gram[first], sample_T[start[order[first]]]
        # The counts are nearly sorted, and the stable sort makes use of that.
        highest_first = np.argsort(gram * (count.max(initial=0) + 1) - count, kind="stable")
        counts.append(_Counts(gram[highest_first], sample[highest_first], count[highest_first]))
    return counts


def _bleu(found_N: Floats, total_N: Ints, length: Ints, reference: Ints) -> Floats:
    """BLEU from the numbers of found and of all n-grams (last axis: n), the lengths and the reference lengths."""
    precision_N = np.where(found_N == 0, EPSILON, found_N) / np.maximum(total_N, 1)
    penalty = np.exp(np.minimum(1.0 - reference / np.maximum(length, 1), 0.0))
    return np.where(found_N[..., 0] == 0, 0.0, penalty * np.exp(np.log(precision_N).mean(axis=-1)))


def _distances_KK(tokens_K: Sequence[Sequence[int]], workers: int) -> Floats:
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    _check_samples(len(tokens_K))
    return cdist(tokens_K, tokens_K, scorer=Levenshtein.normalized_distance, dtype=np.float64, workers=workers)


def _mean_of_pairs(distances_KK: Floats) -> float:
    size = len(distances_KK)
    return float(distances_KK.sum()) / (size * (size - 1))


def _check_samples(size: int) -> None:
    if size < 2:
        raise ValueError(f"diversity needs at least 2 samples of a problem, got {size}")
