"""Rules, schedules, aggregations and advantages of a user, named by their import paths in a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from s2l_nemo.algorithm.advantages import GroupAdvantage
from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.losses.importance.learner_old import LearnerOld
from s2l_nemo.algorithm.losses.importance.rule import Importance, RuleInput
from s2l_nemo.algorithm.losses.policy import PolicyLoss
from s2l_nemo.algorithm.options import ADVANTAGES, AlgorithmConfig, made
from s2l_nemo.algorithm.schedule import ScheduleKind, make_schedule
from s2l_nemo.config.checks import check_config
from s2l_nemo.config.load import load_config, resolved_yaml
from s2l_nemo.config.resume import check_resume
from s2l_nemo.errors import UserError
from s2l_nemo.types import Source
from tests.algorithm.by_hand import make_batch

CONF = Path(__file__).parents[2] / "conf"
HERE = "tests.algorithm.test_own_rules"
HALF = ScheduleKind(lambda step, options, outcomes: Fraction(1, 2), uses_t_mix=False)


@dataclass(frozen=True)
class Tripled:
    """Three times `learner_old`, with a key of `algorithm` and a field of its own."""

    importance_cap: float
    factor: float = 3.0

    def __call__(self, tokens: RuleInput) -> Importance:
        plain = LearnerOld()(tokens)
        return plain._replace(weight_BS=(self.factor * plain.weight_BS).clamp(max=self.importance_cap))


@dataclass(frozen=True)
class Needy:
    """Asks for what is no key."""

    colour: str

    def __call__(self, tokens: RuleInput) -> Importance:
        return LearnerOld()(tokens)


@dataclass(frozen=True)
class Ranks:
    """The place of a reward among those of its group, times a key."""

    adv_eps: float

    def __call__(self, rewards_PG: torch.Tensor, source_PG: torch.Tensor, kept_PG: torch.Tensor) -> torch.Tensor:
        return rewards_PG.argsort(1).argsort(1).float() * self.adv_eps


def total(losses_BS: torch.Tensor, _mask_BS: torch.Tensor, _scale: LossScale) -> torch.Tensor:
    return losses_BS.sum()


OVERRIDES = [
    f"algorithm.importance={HERE}:Tripled",
    f"algorithm.aggregation={HERE}:total",
    f"algorithm.schedule.name={HERE}:HALF",
    f"algorithm.advantage={HERE}:Ranks",
]


def test_a_configuration_with_paths() -> None:
    cfg = load_config([*OVERRIDES, "algorithm.importance_cap=2.5"], CONF)
    check_config(cfg)
    loss = PolicyLoss.of(cfg.algorithm)
    assert loss.importance == Tripled(importance_cap=2.5, factor=3.0)
    batch = make_batch([[1, 1.0]], [2.0], [Source.LEARNER], ref=0.0)
    value, _ = loss(torch.zeros(1, 2), batch, LossScale(1000, 1000, 1000))
    assert value.item() == -2.5 * 2 * 2
    schedule = make_schedule(cfg.algorithm.schedule, 4)
    assert (schedule(4, 8).explorer, schedule(4, 8).learner) == (4, 4)
    advantage = made(ADVANTAGES[cfg.algorithm.advantage], cfg.algorithm)
    assert advantage == Ranks(adv_eps=1e-6)
    found_PG = advantage(torch.tensor([[3.0, 1.0, 2.0]]), torch.zeros(1, 3), torch.ones(1, 3).bool())
    assert found_PG.tolist() == [pytest.approx([2e-6, 0, 1e-6])]


def test_a_run_goes_on_with_the_same_path_only() -> None:
    begun = resolved_yaml(load_config(OVERRIDES, CONF))
    check_resume(Path("run"), begun, begun, 1)
    other = resolved_yaml(load_config([*OVERRIDES, "algorithm.importance=learner_old"], CONF))
    with pytest.raises(UserError, match=f"was started with algorithm.importance={HERE}:Tripled, now learner_old"):
        check_resume(Path("run"), begun, other, 1)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algorithm.importance=no_such:Rule", "algorithm.importance=no_such:Rule: there is no module no_such"),
        (f"algorithm.importance={HERE}:total", "must be a dataclass"),
        (f"algorithm.importance={HERE}:Needy", "Needy.colour is no key of algorithm: give this field a default"),
        (f"algorithm.advantage={HERE}:Needy", "Needy.colour is no key of algorithm: give this field a default"),
        (f"algorithm.advantage={HERE}:HALF", "must be a dataclass"),
        (f"algorithm.aggregation={HERE}:HERE", "must be a function"),
        (f"algorithm.schedule.name={HERE}:total", "must be a ScheduleKind"),
        ("algorithm.schedule.name=x:", "algorithm.schedule.name=x: is no import path: give package.module:name"),
    ],
)
def test_a_wrong_path_is_one_line_before_any_model_loads(override: str, message: str) -> None:
    cfg = load_config([override], CONF)
    with pytest.raises(UserError) as caught:
        check_config(cfg)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_advantage_of_this_project() -> None:
    options = AlgorithmConfig(adv_eps=0.5)
    assert made(ADVANTAGES["group"], options) == GroupAdvantage(
        adv_std=options.adv_std, adv_baseline=options.adv_baseline, adv_norm=options.adv_norm, adv_eps=0.5
    )
    found_PG = made(ADVANTAGES["group"], options)(
        torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2), torch.ones(1, 2).bool()
    )
    half = 0.5 / (0.5**0.5 + 0.5)
    assert found_PG.tolist() == [pytest.approx([half, -half])]
