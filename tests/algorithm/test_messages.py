"""What each mistake is told, to the letter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from s2l_nemo.algorithm.advantages import group_advantages
from s2l_nemo.algorithm.batching import collate
from s2l_nemo.algorithm.groups import assemble_groups
from s2l_nemo.algorithm.options import AdvantageNorm, AdvantageStd, Baseline
from s2l_nemo.algorithm.order import take
from s2l_nemo.algorithm.schedule import ScheduleConfig, check_t_mix
from s2l_nemo.algorithm.sharing import balanced_replicas
from s2l_nemo.errors import UserError
from s2l_nemo.types import Completion, Group, Prompt, Source
from tests.arrays import ids, lps
from tests.schedules import made

PROMPT = Prompt(7, "?", "!", (1, 2))
E, L = Source.EXPLORER, Source.LEARNER


def completion(sample: int, source: Source = L, version: int = 4) -> Completion:
    return Completion(7, sample, source, ids([5] * (sample + 1)), lps([-1.0] * (sample + 1)), "stop", version, 1.0)


GROUP = Group(PROMPT, (completion(0), completion(1)))


@pytest.mark.parametrize(
    ("shapes", "shown"),
    [
        (((2, 3), (2, 2), (2, 3)), ("(2, 3)", "(2, 2)", "(2, 3)")),
        (((2, 3), (2, 3), (3, 2)), ("(2, 3)", "(2, 3)", "(3, 2)")),
        (((3,), (3,), (3,)), ("(3,)", "(3,)", "(3,)")),
    ],
)
def test_advantages_of_other_shapes(shapes: tuple[tuple[int, ...], ...], shown: tuple[str, ...]) -> None:
    rewards, sources, kept = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError) as caught:
        group_advantages(
            rewards, sources, kept.bool(),
            std=AdvantageStd.none, baseline=Baseline.mean, norm=AdvantageNorm.mixed, eps=0.0,
        )  # fmt: skip
    assert str(caught.value) == "rewards {}, sources {} and kept {} must all be (P, G)".format(*shown)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_rewards_that_are_not_finite(value: float) -> None:
    rewards_PG = torch.tensor([[1.0, value]])
    with pytest.raises(ValueError, match=r"^every reward must be finite$"):
        group_advantages(
            rewards_PG, torch.zeros(1, 2), torch.ones(1, 2).bool(),
            std=AdvantageStd.none, baseline=Baseline.mean, norm=AdvantageNorm.mixed, eps=0.0,
        )  # fmt: skip


def test_batches_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"^groups of different sizes: \[1, 2\]$"):
        collate([GROUP, Group(PROMPT, (completion(0),))], torch.zeros(2, 2), pad_token_id=0)
    with pytest.raises(ValueError, match=r"^advantages are \(2, 2\), the groups \(1, 2\)$"):
        collate([GROUP], torch.zeros(2, 2), pad_token_id=0)
    with pytest.raises(ValueError, match=r"^length 3 must be at least 4 and a multiple of 1$"):
        collate([GROUP], torch.zeros(1, 2), pad_token_id=0, length=3)
    with pytest.raises(ValueError, match=r"^length 6 must be at least 4 and a multiple of 4$"):
        collate([GROUP], torch.zeros(1, 2), pad_token_id=0, length=6, multiple_of=4)
    with pytest.raises(ValueError, match=r"^5 groups cannot be shared equally by 2 data-parallel ranks$"):
        balanced_replicas([1] * 5, 2, 5)


def test_what_the_filter_left_out_has_no_mask() -> None:
    batch = collate(
        [Group(PROMPT, (replace(completion(0), kept=False), completion(1)))], torch.zeros(1, 2), pad_token_id=0
    )
    assert batch.mask_BS.tolist() == [[0, 0, 0], [0, 1, 1]]
    assert batch.tokens_BT.dtype == torch.int64


@pytest.mark.parametrize(
    ("completions", "message"),
    [
        ([completion(2)], "prompt 7 sample 2 was not asked for: there are 1 prompts, and this one has 2 samples"),
        ([completion(-1)], "prompt 7 sample -1 was not asked for: there are 1 prompts, and this one has 2 samples"),
        (
            [replace(completion(0), prompt_id=8)],
            "prompt 8 sample 0 was not asked for: there are 1 prompts, and this one has 0 samples",
        ),
        ([completion(1), completion(1)], "prompt 7 sample 1 came twice"),
        ([completion(1, version=3)], "prompt 7 sample 1 was sampled by learner version 3, not by 4"),
        ([completion(1)], "prompt 7 lacks samples [0]"),
        ([], "prompt 7 lacks samples [0, 1]"),
        (
            [completion(0), completion(1, E, version=0)],
            "prompt 7 sample 1 is of source 1, not of 0",
        ),
    ],
)
def test_groups_that_do_not_come_together(completions: list[Completion], message: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        assemble_groups([PROMPT], completions, sources={7: (0, 0)}, learner_version=4)
    assert str(caught.value) == message


def test_groups_of_no_prompts_are_none() -> None:
    assert assemble_groups([], [], sources={}, learner_version=4) == []


def test_batches_of_prompts_that_cannot_be_taken() -> None:
    with pytest.raises(UserError) as caught:
        take(0, 5, 4, seed=1)
    assert str(caught.value) == (
        "a batch of 5 prompts needs as many different ones, but the data set has 4: lower "
        "algorithm.prompts_per_step or add prompts"
    )
    with pytest.raises(UserError) as caught:
        take(3, 2, 4, seed=1)
    assert str(caught.value) == (
        "3 prompts have been consumed, which is no whole number of batches of 2: continue with the "
        "algorithm.prompts_per_step that the run began with"
    )


@pytest.mark.parametrize(
    ("name", "t_mix", "alpha", "message"),
    [
        ("abrupt", 2, 1.5, "algorithm.schedule.alpha=1.5 is not a share: choose a number from 0 to 1"),
        ("abrupt", 2, -0.5, "algorithm.schedule.alpha=-0.5 is not a share: choose a number from 0 to 1"),
        (
            "slow", 2, 1.0,
            "algorithm.schedule.name=slow is unknown: choose one of linear, abrupt, constant, cosine, list, adaptive, "
            "none, package.module:name",
        ),
    ],
)  # fmt: skip
def test_schedules_that_do_not_fit(name: str, t_mix: int, alpha: float, message: str) -> None:
    with pytest.raises(UserError) as caught:
        made(name, steps=4, t_mix=t_mix, alpha=alpha)
    assert str(caught.value) == message


def test_a_transition_longer_than_the_run() -> None:
    with pytest.raises(UserError) as caught:
        check_t_mix(ScheduleConfig(t_mix=5), 4)
    assert str(caught.value) == (
        "algorithm.schedule.t_mix=5 is outside 0..4 (algorithm.steps): choose a step in that range, or null, which is "
        "also the T_mix of a run that continues"
    )


def test_steps_begin_at_1() -> None:
    schedule = made("linear", steps=4, t_mix=None, alpha=1.0)
    with pytest.raises(ValueError, match=r"^steps are counted from 1, got 0$"):
        schedule(0, 8)
