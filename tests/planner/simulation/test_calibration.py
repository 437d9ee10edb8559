from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from s2l_nemo.errors import UserError
from s2l_nemo.planner.cost import Assumed, kv_bytes_per_token
from s2l_nemo.planner.simulation.calibration import Line, calibrated, fitted
from s2l_nemo.planner.simulation.outcome import phase_seconds
from s2l_nemo.planner.simulation.rates import DecodingRate, Rates, Room
from s2l_nemo.planner.simulation.recorded import RecordedStep
from s2l_nemo.planner.simulation.step import Run, Scenario, draw_steps, play_steps
from s2l_nemo.planner.simulation.timeline import Phase
from tests.planner.simulation.world import SHAPE, config, run

ASSUMED = Assumed(20, 3, 1.0, 1.0, 1.0)
CFG = config("trainer.devices=2")


def test_a_line_by_hand() -> None:
    """3 a count and 2 an amount."""
    found = fitted([1, 2, 5], [10, 4, 1], [3 * 1 + 2 * 10, 3 * 2 + 2 * 4, 3 * 5 + 2 * 1])
    assert [found.fixed, found.slope] == pytest.approx([3, 2])


def test_neither_part_is_negative() -> None:
    """The lines through both points are 3x - 2n and 4.43n - 0.86x. One part alone: relative errors 1 - b and 1 - b/2,
    least at 1.5 / 1.25, and 1 - a and 1 - a/4, least at 1.25 / 1.0625.
    """
    assert fitted([1, 2], [1, 4], [1, 8]) == Line(0.0, 1.2)
    assert fitted([1, 2], [4, 1], [1, 8]) == Line(1.25 / 1.0625, 0.0)
    assert fitted([2, 4], [1, 2], [6, 12]) == Line(0.0, 6)  # one cannot be told from the other


def truth() -> Rates:
    size = CFG.model.precision.element_bytes

    def decoding(step_s: float, bytes_per_s: float) -> DecodingRate:
        return DecodingRate(SHAPE, SHAPE.parameters * size, kv_bytes_per_token(SHAPE, size), bytes_per_s, 1e7, step_s)

    return Rates(decoding(0.02, 3e5), decoding(0.01, 4e5), 1e7, 4e6, 0.5, 1e4, 50.0, outside_s=0.125)


def measured(rates: Rates, explorers: list[int], noise: Callable[[], float] = lambda: 1.0) -> list[RecordedStep]:
    """What a run with these rates would record, one step for each number of explorer samples."""
    room, steps = Room(CFG.rollout.max_batch_rows), []
    for number, explorer in enumerate(explorers, start=2):
        its = Run(CFG, SHAPE, rates, (room, room), ASSUMED, run(CFG).lengths, explorer)
        (groups,) = draw_steps(its, 1, number)
        played = play_steps(its, Scenario(), [groups])
        seconds = {name: value * noise() for name, value in phase_seconds(played).items()}
        begins = 0.0
        for phase, name in ((Phase.explorer, "rollout_explorer"), (Phase.learner, "rollout_learner")):
            ends = [one.end for intervals in played.timeline.intervals for one in intervals if one.phase is phase]
            if ends:
                seconds[name] = (max(ends) - begins) * noise()
                begins = max(ends)
        steps.append(RecordedStep(number, groups, seconds))
    return steps


def test_the_rates_of_a_simulated_run_are_found() -> None:
    found = calibrated(CFG, SHAPE, SHAPE, measured(truth(), [4, 3, 2, 1, 0, 4, 2, 0]), ASSUMED)
    assert found.explorer is not None
    for mine, its in ((found.learner, truth().learner), (found.explorer, truth().explorer)):
        assert its is not None
        assert mine.step_s == pytest.approx(its.step_s, rel=1e-6)
        assert mine.bytes_per_s == pytest.approx(its.bytes_per_s, rel=1e-6)
    for name in ("logprob_flop_s", "update_flop_s", "refit_s", "exchange_bytes_s", "grades_per_s", "outside_s"):
        assert getattr(found, name) == pytest.approx(getattr(truth(), name)), name


def test_predictions_of_another_size_bear_noise() -> None:
    """Steps vary by a tenth; the mean step of twice the prompts is predicted within a twentieth."""
    rng = random.Random(1)
    steps = measured(truth(), [4, 3, 2, 1, 0] * 4, lambda: rng.gauss(1, 0.1))
    rates = calibrated(CFG, SHAPE, SHAPE, steps, ASSUMED)
    large = config("trainer.devices=2", "algorithm.prompts_per_step=16")
    its = [replace(run(large), rates=replace(one, refit_s=0.5), assumed=ASSUMED) for one in (truth(), rates)]
    ends = [play_steps(one, Scenario(), draw_steps(one, 5, 9)).steps[-1].end for one in its]
    assert ends[1] == pytest.approx(ends[0], rel=0.05)


def test_a_run_without_explorer_has_no_rate_of_one() -> None:
    found = calibrated(CFG, SHAPE, SHAPE, measured(truth(), [0, 0, 0, 1]), ASSUMED)
    assert found.explorer is None


def test_a_run_without_log_probs() -> None:
    """One update without a KL term needs none ahead: prompts are then computed at the rate of the update."""
    cfg = config("trainer.devices=2", "algorithm.kl_coef=0")
    found = calibrated(cfg, SHAPE, SHAPE, measured(truth(), [0, 0, 0]), ASSUMED)
    assert found.logprob_flop_s == found.update_flop_s == found.learner.prefill_flop_s


@pytest.mark.parametrize(
    ("explorers", "overrides", "message"),
    [
        ([0, 0], (), "2 steps after the first are too few"),
        ([4, 4, 4, 0], (), "the learner samples in too few steps"),
        ([0, 0, 0], ("algorithm.refill_rounds=1",), "samples some groups in several rounds"),
        ([0, 0, 0], ("engine.kind=server",), "engine.kind=server, whose engines sample at the same time"),
    ],
)
def test_runs_that_have_no_rates(explorers: list[int], overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        calibrated(config("trainer.devices=2", *overrides), SHAPE, SHAPE, measured(truth(), explorers), ASSUMED)
