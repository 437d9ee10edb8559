"""Diversity of samples: in training, and of models as in Table 3 beside the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from s2l_nemo.errors import UserError
from s2l_nemo.measures.crossed import crossed_mean
from s2l_nemo.measures.statistics import Interval, mean
from s2l_nemo.reproduction.report.paper import TABLE_3, TABLE_3_BENCHMARK, TABLE_3_SAMPLES, DiversityFigures
from s2l_nemo.reproduction.report.runs import Experiment, Study, read_object

METRICS = {"self_bleu": "Self-BLEU ↓", "edit": "Edit diversity ↑", "unique_answers": "Unique answers ↑"}
# As Table 3 has them, and recipes/diversity.py.
OF_MODELS = {
    "self_bleu": "Self-BLEU ↓",
    "edit": "Edit diversity ↑",
    "unique": "Unique answers ↑",
}


@dataclass(frozen=True)
class TrainingRow:
    """The diversity of a sampler's answers in the steps of an experiment, by metric; None if it was not measured.

    It is a mean over steps and seeds, with its 95 % interval for other seeds. That of one seed has no width.
    """

    experiment: str
    source: str
    seeds: tuple[int, ...]
    by_metric: dict[str, Interval | None]


def training_rows(study: Study) -> list[TrainingRow]:
    """A row for each experiment and sampler that finished runs have measured in any step."""
    rows = []
    for experiment in study.experiments:
        for source in study.sources:
            found = {metric: _of_seeds(experiment, f"diversity/{metric}_{source}") for metric in METRICS}
            if any(found.values()):
                seeds = tuple(run.seed for run in experiment.finished)
                rows.append(TrainingRow(experiment.name, source, seeds, found))
    return rows


def _of_seeds(experiment: Experiment, key: str) -> Interval | None:
    """Of each run the mean over the steps that have the metric."""
    of_runs = [
        mean([float(line[key]) for line in run.metrics if line.get(key) is not None]) for run in experiment.finished
    ]
    known = [value for value in of_runs if value is not None]
    return crossed_mean([[value] for value in known]) or Interval(*(known * 3)) if known else None


@dataclass(frozen=True)
class ModelRow:
    """A model of Table 3, one metric: the paper's figure, ours with its interval, and how far apart they are.

    `away` is None if `why_not` says why there is none.
    """

    model: str
    metric: str
    paper: float | None
    ours: Interval | None
    away: Interval | None
    why_not: str


def model_rows(study: Study) -> list[ModelRow]:
    """The paper's rows, then the models of `ROOT/diversity/diversity.json` that it does not have.

    Raises UserError if that file is not as recipes/diversity.py writes it.
    """
    path = study.root / "diversity" / "diversity.json"
    models: Sequence[Any] = read_object(path).get("models", [])
    try:
        by_name = {str(model["name"]): model for model in models}
        rows = [row for figures in TABLE_3 for row in _paper_rows(figures, by_name)]
        others = [model for name, model in by_name.items() if name not in {one.model for one in TABLE_3}]
        reason = "not comparable: the paper did not measure this model on these problems"
        return rows + [
            ModelRow(_named(model), title, None, _interval(model[metric]), None, reason)
            for model in others
            for metric, title in OF_MODELS.items()
        ]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not as recipes/diversity.py writes it ({error!r:.200}): measure again") from None


def _interval(content: Any) -> Interval:
    interval = Interval(**content)
    if not all(type(value) in (int, float) for value in interval):
        raise TypeError(f"{interval!r:.100} is no interval")
    return interval


def _named(model: Any) -> str:
    return f"{model['name']} on {model['benchmark']}, {model['problems']} problems, K = {model['samples']}"


def _paper_rows(figures: DiversityFigures, by_name: dict[str, Any]) -> list[ModelRow]:
    model = by_name.get(figures.model)
    rows = []
    for metric, title in OF_MODELS.items():
        printed: float = getattr(figures, metric)
        if model is None:
            rows.append(ModelRow(figures.model, title, printed, None, None, "not run"))
            continue
        ours = _interval(model[metric])
        asked = (model["benchmark"], model["samples"])
        if asked != (TABLE_3_BENCHMARK, TABLE_3_SAMPLES):
            reason = f"not comparable: measured on {asked[0]}, K = {asked[1]}"
            rows.append(ModelRow(figures.model, title, printed, ours, None, reason))
        else:
            away = Interval(*(end - printed for end in ours))
            rows.append(ModelRow(figures.model, title, printed, ours, away, ""))
    return rows
