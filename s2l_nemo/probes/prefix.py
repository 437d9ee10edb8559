r"""How soon rollouts leave the reference trace: the prefix-match decay (Eqs. 7 to 10, Lemma E.1).

The reference o* is the learner's greedy response: "a deterministic reference decoding trace under the base policy".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from s2l_nemo.probes.intervals import Floats


def matched_NT(responses: Sequence[Sequence[int]], reference: Sequence[int], steps: int) -> NDArray[np.bool_]:
    """M_t = 1{(a_1, ..., a_t) = (a*_1, ..., a*_t)} for t = 1..`steps` (Eq. 7).

    A response that ends is followed by nothing but its end. So M_t stays as it was at the end of the reference, and it
    is 0 from the end of a response that is a proper prefix of it.
    """
    target_T = _padded(reference, steps)
    equal = np.array([_padded(response, steps) == target_T for response in responses])
    return np.logical_and.accumulate(equal, axis=1)


def match_probability_T(deviation_T: ArrayLike) -> Floats:
    """Pr(M_t = 1) = prod_{j <= t} Pr(a_j = a*_j | M_{j-1} = 1) (Eq. 8), exact.

    `deviation_T` has Pr(a_j != a*_j | M_{j-1} = 1), which one pass over the reference gives: given M_{j-1} = 1, the
    prefix is the reference's.
    """
    return np.cumprod(1.0 - np.asarray(deviation_T, dtype=np.float64))


def decay_bound_T(deviation_T: ArrayLike) -> Floats:
    """(1 - p)^t (Eq. 10), with p the largest number that Eq. 9 allows: the smallest deviation on the reference."""
    deviation = np.asarray(deviation_T, dtype=np.float64)
    result: Floats = (1.0 - deviation.min()) ** np.arange(1, len(deviation) + 1)
    return result


def decay_rate(deviation_T: ArrayLike) -> float:
    """The deviation per step that would give Pr(M_L = 1) if it were the same at every step: 1 - Pr(M_L = 1)^(1/L)."""
    deviation = np.asarray(deviation_T, dtype=np.float64)
    return float(-np.expm1(np.log1p(-deviation).mean())) if deviation.max() < 1 else 1.0


def held_T(values_T: ArrayLike, steps: int) -> Floats:
    """A curve on the reference, continued to `steps`: after its end nothing changes."""
    values = np.asarray(values_T, dtype=np.float64)
    return np.pad(values, (0, steps - len(values)), mode="edge")


def _padded(tokens: Sequence[int], steps: int) -> NDArray[np.int64]:
    """Tokens, then -1, which no token is."""
    return np.pad(np.asarray(tokens, dtype=np.int64), (0, steps - len(tokens)), constant_values=-1)
