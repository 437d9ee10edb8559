"""Which stores a run may use: their log-probs, how many rollouts they have, and how those were sampled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from omegaconf import OmegaConf

from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.losses.policy import PolicyLoss
from s2l_nemo.algorithm.options import IMPORTANCE
from s2l_nemo.algorithm.order import take
from s2l_nemo.config.load import load_config
from s2l_nemo.config.schema import Config
from s2l_nemo.errors import UserError
from s2l_nemo.trainer.stored import REPLAY, check_stores, draws_of, needs_logprobs, replay_identity
from s2l_nemo.types import Prompt, Source, TrainBatch
from tests.store import stores
from tests.store.stores import write_store

CONF = Path(__file__).resolve().parents[2] / "conf"


def loss_with(options: Any, sampler_logprob: float, advantage: float) -> float:
    """Of two answers, the explorer's with this advantage, and this log-prob of each token."""
    ones_BS = torch.ones(2, 3)
    batch = TrainBatch(
        tokens_BT=torch.arange(8).view(2, 4),
        mask_BS=ones_BS,
        sampler_logprobs_BS=torch.tensor([[sampler_logprob], [-1.0]]) * ones_BS,
        advantages_B=torch.tensor([advantage, -0.5]),
        source_B=torch.tensor([Source.EXPLORER, Source.LEARNER]),
        prompt_length_B=torch.ones(2, dtype=torch.long),
        length_B=torch.full((2,), 4),
        prompt_id_B=torch.zeros(2, dtype=torch.long),
        sample_id_B=torch.arange(2),
        old_logprobs_BS=-1.5 * ones_BS,
        group_logprob_B=torch.full((2,), sampler_logprob),
    )
    value, _ = PolicyLoss.of(options)(-1.25 * ones_BS, batch, LossScale(6, 2, 8))
    return value.item()


@pytest.mark.parametrize("to_sampler", [False, True])
@pytest.mark.parametrize("rule", IMPORTANCE.names())
def test_a_rule_needs_the_samplers_log_probs_if_they_change_its_loss(rule: str, to_sampler: bool) -> None:
    cfg = cast(Config, OmegaConf.structured(Config))
    cfg.algorithm.importance, cfg.algorithm.ratio_to_sampler, cfg.algorithm.kl_coef = rule, to_sampler, 0.0
    cfg.algorithm.clip_low = cfg.algorithm.clip_high = None
    logprobs = (0.0, -0.5, -1.25, -3.0, -9.0)
    losses = [{loss_with(cfg.algorithm, logprob, advantage) for logprob in logprobs} for advantage in (1.0, -1.0)]
    assert needs_logprobs(cfg) == any(len(found) > 1 for found in losses)


def test_a_rule_of_a_user_may_read_them() -> None:
    cfg = cast(Config, OmegaConf.structured(Config))
    cfg.algorithm.importance = "my.rules:Mine"
    assert needs_logprobs(cfg)


FIT = ["algorithm.steps=4", "algorithm.prompts_per_step=2", "algorithm.group_size=4"]
PROMPTS = [Prompt(number, f"question {number}", "1", (number,)) for number in (20, 21, 22, 23)]


def config(*keys: str) -> Config:
    return load_config([*FIT, *keys], CONF)


def test_draws_of_a_run_by_hand() -> None:
    """alpha 1, 1/2, 0, 0: the explorer gives 4, 2, 0, 0 of each group. Two steps ask all four prompts, and again."""
    cfg = config("algorithm.schedule.t_mix=3")
    explorer, learner = draws_of(cfg, 1, PROMPTS), draws_of(cfg, Source.LEARNER, PROMPTS)
    first = [PROMPTS[index].prompt_id for index in take(0, 2, 4, cfg.run.seed)]
    third = [PROMPTS[index].prompt_id for index in take(4, 2, 4, cfg.run.seed)]
    assert explorer == {prompt.prompt_id: 4 if prompt.prompt_id in first else 2 for prompt in PROMPTS}
    assert learner == {
        prompt.prompt_id: (0 if prompt.prompt_id in first else 2) + 4 for prompt in PROMPTS
    }  # steps 3 and 4 ask all of them again
    assert len({*third}) == 2


def test_a_learner_that_explores_draws_all_of_each_group() -> None:
    cfg = config("explorer.source=learner", "explorer.path=null", "algorithm.schedule.t_mix=3")
    assert set(draws_of(cfg, Source.LEARNER, PROMPTS).values()) == {4 + 4}


def test_a_control_draws_all_its_candidates_where_it_has_a_choice() -> None:
    """alpha 1, 2/3, 1/3, 0: of groups of 4 the explorer gives 4, 3, 2, 0, of groups of 2 it gives 2, 2, 1, 0."""
    keys = ["rollout.explorer_filter=match_learner_diversity", "rollout.filter_candidates=6"]
    keys += ["algorithm.schedule.t_mix=4", "algorithm.prompts_per_step=4"]
    assert set(draws_of(config(*keys), 1, PROMPTS).values()) == {6 + 6 + 6}
    assert set(draws_of(config(*keys, "algorithm.group_size=2"), 1, PROMPTS).values()) == {6 + 6 + 1}


def test_shares_of_several_explorers() -> None:
    named = [f"explorers.{name}.path=x" for name in ("one", "two")]
    cfg = config(*named, "explorers.two.share=3", "algorithm.schedule.name=constant")
    assert set(draws_of(cfg, 1, PROMPTS).values()) == {2}
    assert set(draws_of(cfg, 2, PROMPTS).values()) == {6}


@pytest.mark.parametrize(
    "key", ["algorithm.schedule.name=adaptive", "algorithm.rescue_first=1", "algorithm.refill_rounds=1"]
)
def test_nobody_knows_the_draws_if_rewards_decide(key: str) -> None:
    assert draws_of(config(key), Source.LEARNER, PROMPTS) == {}


class TestChecks:
    """A store of 4 samples each of prompts 3, 5 and 11, whose sampling the run has."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return write_store(tmp_path / "one")

    def check(self, *keys: str) -> None:
        cfg = config("algorithm.prompts_per_step=3", *keys)
        check_stores(cfg, stores.PROMPTS, "b" * 64, {0: stores.PARAMS, 1: stores.PARAMS})

    def test_a_replay_has_what_it_draws(self, folder: Path) -> None:
        keys = [f"rollout.replay={folder}", "algorithm.schedule.name=none"]
        self.check(*keys, "algorithm.steps=1")
        message = (
            rf"rollout\.replay={folder}: the run draws 8 samples of prompt \d+ and may use 4 \(3 of 3 prompts have "
            r"too few\): sample more with recipes/sample_explorer\.py, or lower algorithm\.steps"
        )
        with pytest.raises(UserError, match=message):
            self.check(*keys, "algorithm.steps=2")

    def test_a_stored_explorer_too(self, folder: Path) -> None:
        keys = [f"explorer.path={folder}", "explorer.source=store", "algorithm.schedule.name=constant"]
        self.check(*keys, "algorithm.steps=1")
        with pytest.raises(UserError, match=r"explorer\.path=.* draws 8 samples of prompt \d+ and may use 4"):
            self.check(*keys, "algorithm.steps=2")
        with pytest.raises(UserError, match=r"draws 4 samples of prompt \d+ and may use 3"):
            self.check(*keys, "algorithm.steps=1", "explorer.samples=3")

    def test_uneven_stores_are_drawn_as_they_lie(self, tmp_path: Path) -> None:
        rows = [[stores.rollout(3, 0), stores.rollout(3, 1)]]
        folder = write_store(tmp_path / "uneven", rows)
        keys = [f"explorer.path={folder}", "explorer.source=store", "algorithm.schedule.name=adaptive"]
        self.check(*keys, "explorer.draw=stored")
        with pytest.raises(UserError, match=r"explorer\.draw=shuffled: .* set explorer\.draw=stored, or sample them"):
            self.check(*keys)

    def test_other_sampling_is_refused(self, folder: Path) -> None:
        cfg = config(f"rollout.replay={folder}")
        with pytest.raises(UserError, match=r"was sampled with temperature=1\.0, the run asks for 0\.5"):
            check_stores(cfg, stores.PROMPTS, "b" * 64, {0: replace(stores.PARAMS, temperature=0.5)})

    def test_the_identity_is_of_the_store(self, folder: Path, tmp_path: Path) -> None:
        moved = write_store(tmp_path / "moved", facts=stores.facts_of(model="elsewhere"))
        other = write_store(tmp_path / "other", facts=stores.facts_of(seed=8))
        found = [replay_identity(config(f"rollout.replay={one}"))[REPLAY] for one in (folder, moved, other)]
        assert found[0] == found[1] != found[2]
        assert replay_identity(config()) == {}
