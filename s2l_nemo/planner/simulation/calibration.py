"""The rates of a measured run, in place of data sheets.

Every recorded step is played again with the lengths that it had. That gives the work of each phase: decoding steps,
bytes read, FLOP. The rates are those with which this work takes the seconds that were measured:

    rollout      decoding steps · a + bytes / b    least squares of relative errors over all steps, a and b not negative
    log-probs    FLOP of the fullest replica / c   c is the median over the steps; so is that of the update
    refit, exchange, grading, outside              medians of what they took; of exchange and grading a byte or answer

A phase lasts until its last rank is done, so the rank counts whose work takes longest under the rates found before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean, median

from s2l_nemo.config.schema import Config
from s2l_nemo.errors import UserError
from s2l_nemo.models.shape import ModelShape
from s2l_nemo.planner.cost import Assumed, kind_of, kv_bytes_per_token
from s2l_nemo.planner.memory import layout
from s2l_nemo.planner.simulation.engine import Work
from s2l_nemo.planner.simulation.layout import played_shapes
from s2l_nemo.planner.simulation.lengths import Model, RecordedLengths
from s2l_nemo.planner.simulation.rates import DecodingRate, Rates, Room
from s2l_nemo.planner.simulation.recorded import RecordedStep, middle_of, recorded_steps
from s2l_nemo.planner.simulation.step import Played, Run, Scenario, play_steps
from s2l_nemo.records.directory import read_config

PHASE_OF = {Model.explorer: "rollout_explorer", Model.learner: "rollout_learner"}
ROUNDS = 5  # of choosing the slowest engine and fitting anew; more change nothing
LEAST_STEPS = 3


def calibration_of(runs: Sequence[str], cfg: Config, prompt: int) -> tuple[Rates, list[RecordedStep]]:
    """The rates of a run and its repeats for `cfg`, and the steps from which they come. Prompts have `prompt` tokens.

    Raises UserError as `calibrated`, and if the models of `cfg`, or how they are divided, are not those of the run.
    """
    its = read_config("calibrate", runs[0])
    learner, explorer = played_shapes(its)
    ours, theirs = (
        (played_shapes(one)[0], one.model.tensor_model_parallel_size, one.model.pipeline_model_parallel_size)
        for one in (cfg, its)
    )
    if ours != theirs:
        raise UserError(
            f"calibrate={runs[0]}: that run has the learner {its.model.path}, {layout(its)}: give the same model.path, "
            "TP and PP"
        )
    if kind_of(cfg).served:
        raise UserError(f"calibrate with engine.kind={cfg.engine.kind}: only embedded engines have such rates")
    steps = middle_of([recorded_steps("calibrate", run, prompt) for run in runs])
    length = round(mean(answer.length for step in steps for group in step.groups for answer in group))
    return calibrated(its, learner, explorer, steps, Assumed(length, prompt, 1.0, 1.0, 1.0)), steps


@dataclass(frozen=True)
class Line:
    """y = fixed + slope · x of some steps, neither negative."""

    fixed: float
    slope: float


def calibrated(
    cfg: Config, learner: ModelShape, explorer: ModelShape | None, steps: Sequence[RecordedStep], assumed: Assumed
) -> Rates:
    """The rates of the `steps` of one run, or of the medians of its repeats.

    Raises UserError if engines are servers, whose phases overlap, or sample in several rounds, or there are fewer than
    3 steps, or 3 in which the learner samples. Without 3 in which the explorer does, its rate is None.
    """
    if kind_of(cfg).served:
        raise UserError(
            f"calibrate: the run has engine.kind={cfg.engine.kind}, whose engines sample at the same time: give one of "
            "embedded engines"
        )
    if cfg.algorithm.rescue_first is not None or cfg.algorithm.refill_rounds or cfg.rollout.two_updates:
        raise UserError(
            "calibrate: the run samples some groups in several rounds (algorithm.rescue_first, "
            "algorithm.refill_rounds, rollout.two_updates): give one that does not"
        )
    if len(steps) < LEAST_STEPS:
        raise UserError(f"calibrate: {len(steps)} steps after the first are too few for rates: give a longer run")
    size = cfg.model.precision.element_bytes

    def unit(shape: ModelShape) -> DecodingRate:
        return DecodingRate(shape, shape.parameters * size, kv_bytes_per_token(shape, size), 1.0, 1.0)

    rates = Rates(unit(learner), unit(explorer) if explorer else None, 1.0, 1.0, 0.0, 1.0, 1.0)
    room = Room(cfg.rollout.max_batch_rows)
    lengths = RecordedLengths((), assumed.prompt, cfg.rollout.max_response_length)  # recorded steps need no draw
    run = Run(cfg, learner, rates, (room, room if explorer else None), assumed, lengths, 0)
    played = play_steps(run, Scenario(), [step.groups for step in steps])
    if sum(Model.learner in work for work in played.work) < LEAST_STEPS:
        raise UserError("calibrate: the learner samples in too few steps for its rates: give a run with more of them")
    passes = cfg.algorithm.optimizer_passes
    explores = sum(Model.explorer in work for work in played.work) >= LEAST_STEPS
    flops = [passes * sum(max(flops_R) for flops_R in work.updates_UR) for work in played.training]
    update_flop_s = _flop_rate(steps, "update", flops)
    assert update_flop_s is not None
    # A run without log-probs ahead of the update has no rate of a forward pass alone.
    logprob_flop_s = _flop_rate(steps, "logprobs", [max(work.logprobs_R) for work in played.training]) or update_flop_s
    return replace(
        _between(run, played, steps),
        learner=_decoding(Model.learner, rates.learner, steps, played, logprob_flop_s),
        explorer=_decoding(Model.explorer, rates.explorer, steps, played, logprob_flop_s) if explores else None,
        logprob_flop_s=logprob_flop_s,
        update_flop_s=update_flop_s,
    )


def _flop_rate(steps: Sequence[RecordedStep], phase: str, flops: Sequence[float]) -> float | None:
    """The median over the steps; None if the phase has no work."""
    return median(work / step.seconds[phase] for step, work in zip(steps, flops, strict=True)) if max(flops) else None


def _decoding(
    model: Model, unit: DecodingRate | None, steps: Sequence[RecordedStep], played: Played, prefill_flop_s: float
) -> DecodingRate:
    """The rate of an engine. A prompt is computed at the rate of the log-probs."""
    assert unit is not None
    pairs = [
        (step.seconds[PHASE_OF[model]], work[model])
        for step, work in zip(steps, played.work, strict=True)
        if model in work
    ]
    rate = replace(unit, prefill_flop_s=prefill_flop_s)
    chosen = [max(work, key=lambda one: one.read) for _, work in pairs]
    for _ in range(ROUNDS):
        line = fitted(
            [one.steps for one in chosen],
            [one.read for one in chosen],
            [seconds - one.prefilled / prefill_flop_s for (seconds, _), one in zip(pairs, chosen, strict=True)],
        )
        rate = replace(rate, step_s=line.fixed, bytes_per_s=1 / line.slope if line.slope else float("inf"))
        slowest = _slowest(rate)
        chosen = [max(work, key=slowest) for _, work in pairs]
    return rate


def _slowest(rate: DecodingRate) -> Callable[[Work], float]:
    return lambda work: rate.seconds(work.steps, work.read, work.prefilled)


def fitted(counts: Sequence[float], amounts: Sequence[float], seconds: Sequence[float]) -> Line:
    """seconds ≈ counts · fixed + amounts · slope, by least squares of relative errors. Neither is negative.

    If the best fit has a negative one, it is 0 and the other one fits alone.
    """
    rows = [(n / s, x / s) for n, x, s in zip(counts, amounts, seconds, strict=True) if s > 0]
    nn, nx, xx = sum(n * n for n, _ in rows), sum(n * x for n, x in rows), sum(x * x for _, x in rows)
    n1, x1 = sum(n for n, _ in rows), sum(x for _, x in rows)
    determinant = nn * xx - nx * nx
    if determinant > 1e-12 * nn * xx:
        fixed, slope = (n1 * xx - x1 * nx) / determinant, (x1 * nn - n1 * nx) / determinant
        if fixed >= 0 and slope >= 0:
            return Line(fixed, slope)
        if fixed < 0:
            return Line(0.0, x1 / xx)
        return Line(n1 / nn, 0.0)
    return Line(0.0, x1 / xx)


def _between(run: Run, played: Played, steps: Sequence[RecordedStep]) -> Rates:
    """The phases without rows or FLOP, and what the phases of a step leave out."""
    answers = run.cfg.algorithm.prompts_per_step * run.cfg.algorithm.group_size / len(run.replica_of)
    exchange = [
        max(moved) / step.seconds["exchange"] if max(moved) else float("inf")
        for step, moved in zip(steps, played.exchanged, strict=True)
    ]
    return replace(
        run.rates,
        refit_s=median(step.seconds["refit"] for step in steps),
        exchange_bytes_s=median(exchange),
        grades_per_s=answers / median(step.seconds["reward"] for step in steps),
        outside_s=median(step.seconds["outside"] for step in steps),
    )
