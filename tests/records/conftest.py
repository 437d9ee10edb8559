"""A scripted run: metrics of any step, with the gaps that real ones have."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from s2l_nemo.records.metrics import REQUIRED_KEYS, Value

MetricsOf = Callable[[int], dict[str, Value]]  # step -> its metrics


def scripted_metrics(step: int) -> dict[str, Value]:
    """Explorer and learner in steps 1 to 3, with no learner rollouts in step 1; then the learner alone."""
    explorer = {1: 16, 2: 9, 3: 4}.get(step, 0)
    values: dict[str, Value] = dict.fromkeys(REQUIRED_KEYS, 0.1 * step)
    values |= {"alpha": explorer / 16, "group/explorer": explorer, "group/learner": 16 - explorer}
    values |= {"response_length/mean": 40.4, "group/zero_variance_fraction": 0.25, "time/step": 12.34}
    values |= dict.fromkeys(("time/reward", "time/logprobs", "time/update", "time/refit"), 0.5)
    if explorer == 0:
        values |= {"reward/explorer": None, "time/rollout_explorer": None}
    if explorer == 16:
        values |= {"reward/learner": None, "time/rollout_learner": None, "logprob_diff/learner": None}
    return values


@pytest.fixture
def metrics_of() -> MetricsOf:
    return scripted_metrics
