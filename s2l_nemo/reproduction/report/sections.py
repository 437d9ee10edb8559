"""Which pictures the report has, by section. A picture without any value in any run is named instead of drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from s2l_nemo.evaluation.plots import TITLES
from s2l_nemo.reproduction.report.chart import Chart, line_chart
from s2l_nemo.reproduction.report.cost import cost_chart
from s2l_nemo.reproduction.report.curves import AXIS_TITLES, Axis, Values, curves, metric, validation
from s2l_nemo.reproduction.report.pass_at_k import pass_at_k_charts
from s2l_nemo.reproduction.report.runs import EVALUATED, HELD_OUT, Run, Study


class Asked(NamedTuple):
    """A metric to draw over steps. `{}` in key and title stands for the name of a sampler."""

    key: str
    title: str
    y_title: str
    is_share: bool = False
    note: str = ""


SCHEDULE = (
    Asked("alpha", "Scheduled share of the explorer", "share of a group", True, "What Algorithm 1 asks for."),
    Asked("group/{}", "Realised samples of the {} in a group", "samples", False, "Mean over the groups of a step."),
)
SOURCES = (
    Asked("reward/{}", "Reward of the {}'s samples", "mean reward"),
    Asked("response_length/{}", "Length of the {}'s responses", "tokens"),
    Asked("response_length/truncated_fraction_{}", "The {}'s responses cut at the limit", "share", True),
    Asked("clip_fraction/{}", "Clipped tokens of the {}", "share", True, "Of the sampler's tokens, once a pass."),
    Asked("pass@G/{}", "Groups in which the {} has a right answer", "share", True),
    Asked("gradient/{}", "The {}'s part of the gradient", "share", True, "Of the sum of |d loss / d log-prob|."),
)
GROUPS = (
    Asked(
        "rescue/only_explorer", "Groups that only the explorer solves", "share", True,
        "Of the groups that both have sampled: the explorer has a right answer, the learner has none.",
    ),
    Asked(
        "rescue/variance", "Groups with a gradient thanks to the explorer", "share", True,
        "Of the groups that both have sampled: the learner's rewards are all equal, the group's are not.",
    ),
    Asked("group/zero_variance_fraction", "Groups without a gradient", "share", True, "All rewards are equal."),
    Asked("entropy", "Entropy of the learner", "nats per token"),
    Asked("kl", "KL to the reference", "nats per token"),
)  # fmt: skip
DIVERSITY = (
    Asked("diversity/self_bleu_{}", "Self-BLEU of the {} (lower is more diverse)", "Self-BLEU"),
    Asked("diversity/edit_{}", "Edit diversity of the {}", "edit diversity"),
    Asked("diversity/unique_answers_{}", "Unique answers of the {}", "distinct answers / answers"),
)


@dataclass(frozen=True)
class Section:
    """A part of the page. `missing` are titles of pictures for which no run has a value."""

    id: str
    title: str
    text: str
    charts: list[Chart]
    missing: list[str] = field(default_factory=list)


def sections(study: Study) -> list[Section]:
    """All pictures, in the order of the page."""
    groups = "Of all groups of the training steps, before the explorer filter."
    measured = "On the first groups of each step (logging.diversity_groups), both samplers on as many answers."
    return [
        _learning(study),
        _metrics(study, "schedule", "Schedule", "What the schedule asked for, and what the groups had.", SCHEDULE),
        _metrics(study, "sources", "By source", groups, (*SOURCES, *GROUPS)),
        _metrics(study, "diversity", "Diversity in training", measured, DIVERSITY),
        Section(
            "passk", "pass@k", "From the evaluations of the trained models, and of the models before training.",
            pass_at_k_charts(study), [] if pass_at_k_charts(study) else ["pass@k (no run has an evaluation)"],
        ),
        _cost(study),
    ]  # fmt: skip


def training_basis(study: Study) -> str:
    """How many problems a training step asks, in words."""
    settings = [(run.setting("algorithm.prompts_per_step"), run.setting("algorithm.group_size")) for run in study.runs]
    known = list(dict.fromkeys(f"{p} prompts x {g} samples a step" for p, g in settings if None not in (p, g)))
    return " or ".join(known) or "an unknown number of prompts a step"


def validation_basis(study: Study, name: str) -> str:
    """How many problems a validation asks, in words."""
    asked = [one for run in study.runs for one in run.over_steps.get(name, {}).values()]
    return " or ".join(dict.fromkeys(f"{one.problems} problems x {one.samples} samples" for one in asked))


def _learning(study: Study) -> Section:
    names = [experiment.name for experiment in study.experiments]
    sets = list(dict.fromkeys(name for run in study.runs for name in run.over_steps)) or [HELD_OUT]
    charts, missing = [], []
    whats: list[tuple[str, str, Callable[[Run], Values], str | None]] = [
        (f"pass_at_1_{name}".rstrip("_"), _pass_title(name), validation(name), name) for name in sets
    ]
    whats += [("reward", "Mean reward in training", metric("reward/mean"), None)]
    for slug, title, values, name in whats:
        basis = training_basis(study) if name is None else validation_basis(study, name)
        for axis in Axis:
            found = curves(study.experiments, values, axis)
            whole = f"{title}, over {_over(axis)}"
            if not found:
                missing.append(whole)
                continue
            y_title = "mean reward" if name is None else "pass@1"
            charts.append(
                line_chart(
                    f"{slug}_over_{axis.value}", whole, y_title, found, axis=axis, names=names, basis=basis,
                    is_share=name is not None,
                )
            )  # fmt: skip
    text = (
        "Generated tokens are those of both samplers. FLOP are the work of all models of the run: sampling, log-probs "
        "and updates; rollouts from a store cost the run nothing. Each band is for its own line: two methods share "
        "seeds and problems, so a difference may be clear where bands overlap. Tables and claims have differences."
    )
    return Section("learning", "Learning curves", text, charts, missing)


def _pass_title(name: str) -> str:
    if name == HELD_OUT:
        return "pass@1, held-out prompts"
    benchmark = name.removesuffix(EVALUATED)
    return f"pass@1, {TITLES.get(benchmark, benchmark)}{name.removeprefix(benchmark)}"


def _over(axis: Axis) -> str:
    return {Axis.steps: "steps", Axis.flops: "FLOP"}.get(axis, AXIS_TITLES[axis])


def _metrics(study: Study, id_: str, title: str, text: str, asked: Sequence[Asked]) -> Section:
    names = [experiment.name for experiment in study.experiments]
    charts, missing = [], []
    for one in _by_source(asked, study.sources):
        found = curves(study.experiments, metric(one.key))
        if found:
            basis = training_basis(study)
            charts.append(
                line_chart(
                    one.key, one.title, one.y_title, found, note=one.note, names=names, basis=basis,
                    is_share=one.is_share,
                )
            )  # fmt: skip
        else:
            missing.append(one.title)
    return Section(id_, title, text, charts, missing)


def _by_source(asked: Iterable[Asked], sources: Sequence[str]) -> Iterable[Asked]:
    for one in asked:
        for source in sources if "{}" in one.key else [""]:
            yield one._replace(key=one.key.replace("{}", source), title=one.title.replace("{}", source))


def _cost(study: Study) -> Section:
    chart = cost_chart(study)
    text = (
        "Mean seconds of a step by phase. Engines of explorer and learner may sample at the same time; their bars then "
        "add up to more than the step took."
    )
    return Section("cost", "Cost by phase", text, [chart] if chart else [], [] if chart else ["seconds by phase"])
