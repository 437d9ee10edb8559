"""A loss rule, a schedule, an engine kind and a model family from outside: one registration each, one run with all."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.algorithm.losses.importance.learner_old import LearnerOld
from s2l_nemo.algorithm.losses.importance.rule import Importance, RuleInput
from s2l_nemo.algorithm.options import IMPORTANCE
from s2l_nemo.algorithm.schedule import SCHEDULES, ScheduleKind
from s2l_nemo.engines.embedded.engine import EmbeddedEngine, EmbeddedLearnerEngine
from s2l_nemo.engines.embedded.make import EmbeddedMaker
from s2l_nemo.engines.kinds import ENGINES, EngineKind
from s2l_nemo.engines.settings import EngineSettings
from s2l_nemo.models.families import FAMILIES, EngineForm, Family
from s2l_nemo.models.open import Model
from s2l_nemo.records.metrics import read_metrics
from tests.distributed.ranks import run_ranks
from tests.distributed.test_training import BASE, layout, rollouts, train
from tests.models.test_families import MINE, write_mine


@dataclass(frozen=True)
class Twice:
    """Twice the ratio of `learner_old`. Its field is no key of `algorithm`, so it keeps its default."""

    factor: float = 2.0

    def __call__(self, tokens: RuleInput) -> Importance:
        plain = LearnerOld()(tokens)
        return plain._replace(ratio_BS=self.factor * plain.ratio_BS)


class CountingMaker(EmbeddedMaker):
    """Embedded engines, with a list of what was made."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def explorer(self, settings: EngineSettings, model: Model) -> EmbeddedEngine:
        self.made.append(settings.source.name)
        return super().explorer(settings, model)

    def learner(self, settings: EngineSettings, model: Model) -> EmbeddedLearnerEngine:
        self.made.append(settings.source.name)
        return super().learner(settings, model)


def register_and_train(overrides: list[str]) -> dict[str, Any]:
    """One rank, whose process ends with the test."""
    maker = CountingMaker()
    IMPORTANCE.register("twice", Twice)
    SCHEDULES.register("half", ScheduleKind(lambda step, options, outcomes: Fraction(1, 2), uses_t_mix=False))
    ENGINES.register("counting", EngineKind(maker))
    form = EngineForm("llama", dropped=("use_alibi",), added={})
    FAMILIES.register("mymodel", Family(table=MINE, architecture="MyModelForCausalLM", engine_form=form))
    return {**train(overrides), "made": maker.made}


def test_a_run_with_four_registrations(tmp_path: Path) -> None:
    learner, run = write_mine(tmp_path), tmp_path / "run"
    choices = ["algorithm.importance=twice", "algorithm.schedule.name=half", "engine.kind=counting"]
    models = [f"model.path={learner}", f"explorer.path={tmp_path / 'llama'}"]
    steps = ["algorithm.steps=2", "algorithm.schedule.t_mix=null", f"run.dir={run}"]
    results = run_ranks(register_and_train, 2, [*BASE, *models, *choices, *steps, *layout(2, 1, 2)])
    assert [result["made"] for result in results] == [["EXPLORER", "LEARNER"]] * 2
    metrics = read_metrics(run / "metrics.jsonl")
    assert [line["group/explorer"] for line in metrics] == [2, 2]
    for line in metrics:
        assert line["ratio/mean"] == pytest.approx(2.0, abs=1e-3)  # one update a step: pi is still pi_old
        assert line["logprob_diff/learner"] < 1e-5  # the actor computes what the Llama form computes
    assert {row.source for row in rollouts(run, 1)} == {"explorer", "learner"}
