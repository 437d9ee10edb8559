"""The rule, written before the runs: from the runs of two experiments to a verdict on a claim.

1. Both experiments are compared on the same problems with the same seeds; what only one of them has is left out and
   named. Other problems are not compared.
2. The difference of every problem and seed, first - second, is averaged. Its 95 % interval is for other seeds and
   other problems (`measures.crossed`). With one seed it is for other problems only, and the claim says so.
3. If the whole interval lies where the paper says, the claim is reproduced. If no part of it does, it is not
   reproduced: the difference has the other sign, or is smaller than the bound. Otherwise it is undecided. So it is
   without an interval, and if the interval has no width, because nothing differs anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import assert_never

from s2l_nemo.config.reproduction import Scale
from s2l_nemo.errors import UserError
from s2l_nemo.measures.crossed import crossed_mean
from s2l_nemo.measures.statistics import Floats, Interval
from s2l_nemo.reproduction.claims import Claim, Expected, Side, Verdict
from s2l_nemo.reproduction.outcomes import Metric, Rates, Stage, at_stage, read_model, read_outcome, rollout_flops
from s2l_nemo.reproduction.plan import run_folder

METRICS = {
    Metric.pass_at_1: "pass@1 on {problems}",
    Metric.table_1: "pass@1 on AIME24, AIME25, MATH-500 and OlympiadBench, all problems of the same weight",
    Metric.table_2: "accuracy on CommonsenseQA",
    Metric.models_at_1: "pass@1 on {problems}, of models before training",
    Metric.models_at_k: "pass@K of all K samples on {problems}, of models before training",
    Metric.rollout_flops: "rollout FLOP saved, as a share of the second experiment's",
}
PROBLEMS_OF = {Scale.toy: "held-out prompts", Scale.paper: "AIME24 and AIME25"}  # of Metric.pass_at_1
OF_MODELS = (Metric.models_at_1, Metric.models_at_k)
STAGES = {
    Stage.start: "before training",
    Stage.quarter: "after a quarter of the steps",
    Stage.half: "after half of the steps",
    Stage.end: "after the last step",
    Stage.course: "mean over the course of training",
}


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict. `interval` is None if there is none; `note` says why, and what else one must know."""

    claim: Claim
    interval: Interval | None
    verdict: Verdict
    seeds: tuple[int, ...]
    problems: int
    note: str
    scale: Scale

    def to_json(self) -> dict[str, Any]:
        claim = self.claim
        mean, low, high = self.interval or (None, None, None)
        return {
            "id": claim.id,
            "text": claim.text,
            "source": claim.source,
            "experiments": list(dict.fromkeys((claim.first.experiment, claim.second.experiment))),
            "metric": metric_in_words(claim, self.scale),
            "difference": mean,
            "low": low,
            "high": high,
            "bound": claim.bound,
            "verdict": self.verdict.value,
            "seeds": list(self.seeds),
            "problems": self.problems,
            "rule": rule_in_words(claim),
            "note": self.note,
        }


def judge(claim: Claim, root: Path, scale: Scale, seeds: dict[str, set[int]]) -> Judged:
    """Applies the rule to the finished runs in ROOT. `seeds` of each experiment are those that were asked for.

    What is missing, or cannot be compared, is told in the note.
    """
    first, second = (seeds.get(side.experiment, set()) for side in (claim.first, claim.second))
    rows, used, notes = list[Floats](), list[int](), list[str]()
    origins = set[tuple[Any, ...]]()
    if first ^ second:
        notes.append(f"only one of the two has seed {', '.join(map(str, sorted(first ^ second)))}, left out")
    for seed in sorted(first & second):
        try:
            row, origin = _row(claim, root, scale, seed)
        except UserError as error:
            notes.append(f"seed {seed} is left out: {error}")
            continue
        origins.add(origin)
        rows.append(row)
        used.append(seed)
    if len(origins) > 1:
        return _without(claim, scale, [*notes, "not compared: the seeds were asked different problems"])
    if not rows:
        return _without(claim, scale, [*notes, "there is nothing to compare"])
    interval = crossed_mean(np.stack(rows))
    problems = 0 if claim.metric is Metric.rollout_flops else len(rows[0])
    if claim.metric in OF_MODELS:
        notes.append("of two models before training: the interval is for other problems")
    elif len(rows) == 1:
        covered = "the interval does not cover seeds" if interval else "there is no interval"
        notes.append(f"one seed: {covered}, another one may say something else")
    verdict = decide(interval, claim.expected, claim.bound)
    if interval is not None and interval.low == interval.high:
        notes.append("nothing differs between problems or seeds, so the interval has no width and decides nothing")
    return Judged(claim, interval, verdict, tuple(used), problems, "; ".join(notes), scale)


def decide(interval: Interval | None, expected: Expected, bound: float) -> Verdict:
    """Point 3 of the rule."""
    if interval is None or interval.low == interval.high:
        return Verdict.undecided
    low, high = expected.region(bound)
    if low < interval.low and interval.high < high:
        return Verdict.reproduced
    if interval.high <= low or high <= interval.low:
        return Verdict.not_reproduced
    return Verdict.undecided


def judge_all(claims: Sequence[Claim], root: Path, scale: Scale, seeds: dict[str, set[int]]) -> list[Judged]:
    """All claims of a scale whose two experiments were asked for."""
    return [
        judge(claim, root, scale, seeds)
        for claim in claims
        if scale in claim.scales and {claim.first.experiment, claim.second.experiment} <= seeds.keys()
    ]


def metric_in_words(claim: Claim, scale: Scale) -> str:
    """What is compared, and when."""
    what = METRICS[claim.metric].format(problems=PROBLEMS_OF[scale])
    if claim.metric in (Metric.rollout_flops, *OF_MODELS):
        return what
    stages = [STAGES[stage] for stage in (claim.first.stage, claim.second.stage)]
    return f"{what}, {stages[0]}" if stages[0] == stages[1] else f"{what}, {stages[0]} less {stages[1]}"


def rule_in_words(claim: Claim) -> str:
    """The rule with the figures of this claim."""
    bound = f"{claim.bound:g}"
    match claim.expected:
        case Expected.more:
            there, away = f"above {bound}", f"at or below {bound}"
        case Expected.no_more:
            there, away = f"below {bound}", f"at or above {bound}"
        case Expected.no_less:
            there, away = f"above -{bound}", f"at or below -{bound}"
        case Expected.same:
            there, away = f"between -{bound} and {bound}", "outside of that"
        case _:
            assert_never(claim.expected)
    first, second = claim.first.experiment, claim.second.experiment
    compared = f"{first} less {second}, paired by seed and problem"
    if claim.metric is Metric.rollout_flops:
        compared = f"what {first} saves of {second}'s, paired by seed"
    return (
        f"{compared}: reproduced if the whole 95 % interval lies {there}, "
        f"not reproduced if all of it lies {away}, else undecided"
    )


def _row(claim: Claim, root: Path, scale: Scale, seed: int) -> tuple[Floats, tuple[Any, ...]]:
    """The differences of one seed, problem by problem, and which problems these are."""
    one, other = claim.first, claim.second
    if claim.metric is Metric.rollout_flops:
        first, second = (_of(run_folder(root, side.experiment, seed), rollout_flops) for side in (one, other))
        return np.array([(second - first) / second]), ()
    (steps, origin, before), (other_steps, other_origin, after) = (
        _side(claim, root, scale, seed, side) for side in (one, other)
    )
    if origin != other_origin or before.keys() != after.keys():
        raise UserError(
            f"{one.experiment} has {len(before)} problems and {other.experiment} {len(after)}, "
            "and they are not the same, or not asked alike"
        )
    if one.stage is other.stage and steps != other_steps:
        raise UserError(f"{one.experiment} was asked after steps {steps}, {other.experiment} after steps {other_steps}")
    problems = sorted(before)
    return np.array([before[problem] - after[problem] for problem in problems]), (origin, *problems)


def _side(claim: Claim, root: Path, scale: Scale, seed: int, side: Side) -> tuple[tuple[int, ...], str, Rates]:
    """The steps, which problems, and pass@1 of each of one side of a claim."""
    if claim.metric in OF_MODELS:
        curve = read_model(root, side.experiment, claim.metric)
        steps, rates = at_stage(curve, side.stage)
        return steps, curve.origin, rates
    folder = run_folder(root, side.experiment, seed)
    curve = _of(folder, lambda run: read_outcome(run, claim.metric, scale))
    steps, rates = _of(folder, lambda _run: at_stage(curve, side.stage))
    return steps, curve.origin, rates


def _of(folder: Path, read: Callable[[Path], Any]) -> Any:
    """What a function reads of a run; its mistakes name the run."""
    try:
        return read(folder)
    except UserError as error:
        raise UserError(str(error) if str(folder) in str(error) else f"{folder}: {error}") from None


def _without(claim: Claim, scale: Scale, notes: Sequence[str]) -> Judged:
    return Judged(claim, None, Verdict.undecided, (), 0, "; ".join(notes), scale)
