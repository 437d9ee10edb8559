"""Example groups of the runs, for a person to read. They are chosen by a rule, not by what they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from s2l_nemo.records.directory import RunDir
from s2l_nemo.records.dump import RolloutRow
from s2l_nemo.records.transcript import group_html, read_groups, title
from s2l_nemo.reproduction.report.runs import Study

RULE = (
    "Of the first seed of each experiment: the first group of the first step, of the middle one and of the last one "
    "that left rollouts, and of the first 64 groups of each of these steps the first one that the explorer alone has "
    "solved, if there is one."
)
READ = 64  # groups of a step
LONGEST = 3000  # characters of a text; a group of the paper has 16 of up to 4,096 tokens


@dataclass(frozen=True)
class Example:
    """A group of an experiment as escaped HTML. `heading` says which it is, and how many of each sampler are right."""

    experiment: str
    seed: int
    heading: str
    html: str
    file: str


def examples(study: Study) -> list[Example]:
    """The groups that RULE names. Raises UserError if a file of rollouts is broken."""
    found = []
    for experiment in study.experiments:
        run = next((run for run in experiment.runs if _files(run.folder)), None)
        if run is None:
            continue
        files = _files(run.folder)
        chosen = dict.fromkeys((files[0], files[len(files) // 2], files[-1]))
        groups = [(file, group) for file in chosen for group in read_groups(file, None, READ)]
        first = [next(pair for pair in groups if pair[0] == file) for file in chosen]
        rescued = next((pair for pair in groups if only_explorer(pair[1])), None)
        for file, group in [*first, *([rescued] if rescued and rescued not in first else [])]:
            mark = " (the explorer alone is right)" if only_explorer(group) else ""
            place = str(file.relative_to(study.root))
            found.append(Example(experiment.name, run.seed, title(group) + mark, group_html(group, LONGEST), place))
    return found


def only_explorer(group: Sequence[RolloutRow]) -> bool:
    """Whether both have sampled, and the explorer has a right answer and the learner none."""
    right = dict.fromkeys((True, False), False)
    for row in group:
        right[row.source == "learner"] |= (row.reward or 0) > 0
    sampled = {row.source == "learner" for row in group}
    return len(sampled) == 2 and right[False] and not right[True]


def _files(run: Path) -> list[Path]:
    return sorted(RunDir(run).rollouts.glob("step_*.parquet"))
