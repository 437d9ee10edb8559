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
    "Of the first seed of each experiment with rollouts: the first group of its first step, of the first step in which "
    "explorer and learner have sampled together, and of its last step; and of the first 64 groups of each of these the "
    "first one that the explorer alone has solved, if there is one."
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
        mixed = next((file for file in files if _is_mixed(read_groups(file, None, 1)[0])), files[-1])
        chosen = dict.fromkeys((files[0], mixed, files[-1]))
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
    right = {row.source == "learner" for row in group if (row.reward or 0) > 0}
    return _is_mixed(group) and right == {False}


def _is_mixed(group: Sequence[RolloutRow]) -> bool:
    return len({row.source == "learner" for row in group}) == 2


def _files(run: Path) -> list[Path]:
    return sorted(RunDir(run).rollouts.glob("step_*.parquet"))
