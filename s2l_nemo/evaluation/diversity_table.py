"""The diversity of several models' samples as in Table 3, from the raw outputs of evaluations."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import track
from rich.table import Table

from s2l_nemo.config.diversity import DiversityConfig
from s2l_nemo.config.schema import AnswerKind, RewardsConfig
from s2l_nemo.data.benchmarks import benchmark_kind
from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.answers import config_of, stated_answer
from s2l_nemo.evaluation.raw import SUFFIX, read_raw
from s2l_nemo.measures.diversity import Samples, diversity_P
from s2l_nemo.measures.statistics import Interval, bootstrap_mean
from s2l_nemo.models.files import hf_files_folder
from s2l_nemo.models.tokenizer import load_tokenizer
from s2l_nemo.rewards.answers import extract_choice, last_boxed, normalize_answer

METRICS = {"self_bleu": "Self-BLEU ↓", "edit": "Edit diversity ↑", "unique": "Unique answers ↑"}
FORMULAS = (
    "Self-BLEU: mean over samples of BLEU-4 of one against the others (uniform weights, closest reference length,"
    " 0.1 for n-grams without a match), on token ids.",
    "Edit diversity: mean over pairs of Levenshtein distance / longer length, on token ids.",
    "Unique answers: distinct normalised answers / K; no answer is one of them.",
    "Means over problems; in brackets 95 % bootstrap intervals over problems.",
)


@dataclass(frozen=True)
class DiversityRow:
    """The metrics of one model: the mean of each over `problems`, with its interval, at K = `samples`."""

    name: str
    benchmark: str
    problems: int
    samples: int
    self_bleu: Interval
    edit: Interval
    unique: Interval

    def to_json(self) -> dict[str, Any]:
        """One of the `models` of diversity.json."""
        return asdict(self) | {metric: getattr(self, metric)._asdict() for metric in METRICS}


@dataclass(frozen=True)
class _Outputs:
    """The first K outputs of every problem, from one file."""

    path: Path
    questions_P: list[str]
    texts_PK: list[list[str]]


def measure(cfg: DiversityConfig) -> list[DiversityRow]:
    """One row a run, in the order given, tokens of all runs by one tokenizer.

    Raises UserError if outputs are missing, malformed, fewer than `samples` or of other problems than the first run's,
    and if there is no tokenizer.
    """
    runs = [Path(run) for run in cfg.runs]
    benchmark = cfg.benchmark or _common_benchmark(runs)
    outputs = [_read_outputs(run / f"{benchmark}{SUFFIX}", cfg.samples) for run in runs]
    for other in outputs[1:]:
        if other.questions_P != outputs[0].questions_P:
            raise UserError(
                f"{other.path} has other problems than {outputs[0].path}: evaluate all models on the same file"
            )
    path = cfg.tokenizer or _tokenizer_of(runs)
    tokenizer = load_tokenizer(hf_files_folder("tokenizer", path), path)
    names = [re.sub(r"_\d{8}-\d{6}$", "", run.resolve().name) for run in runs]
    if len({*names}) < len(names):
        names = [run.resolve().name for run in runs]
    kind = benchmark_kind(benchmark, cfg.answer or _stated(runs)).answer
    return [_measure_run(name, benchmark, kind, one, tokenizer) for name, one in zip(names, outputs, strict=True)]


def render(rows: Sequence[DiversityRow]) -> Table:
    """The table for a console without markup, models in rows."""
    table = Table(title=f"Diversity on {rows[0].benchmark}: {rows[0].problems} problems, K = {rows[0].samples}")
    table.add_column("model")
    for title in METRICS.values():
        table.add_column(title, justify="right")
    for row in rows:
        cells = ("{:.3f} [{:.3f}, {:.3f}]".format(*getattr(row, metric)) for metric in METRICS)
        table.add_row(row.name, *cells)
    return table


def _measure_run(name: str, benchmark: str, kind: AnswerKind, outputs: _Outputs, tokenizer: Any) -> DiversityRow:
    scores = []
    for texts in track(outputs.texts_PK, description=name, transient=True, disable=not sys.stdout.isatty()):
        tokens = tokenizer(texts, add_special_tokens=False)["input_ids"]
        scores += diversity_P([Samples(tokens, [_answer(text, kind) for text in texts])])
    bands = {metric: bootstrap_mean([[getattr(score, metric)] for score in scores]) for metric in METRICS}
    return DiversityRow(name, benchmark, len(scores), len(outputs.texts_PK[0]), **bands)


def _answer(text: str, kind: AnswerKind) -> str | None:
    if kind is AnswerKind.choice:
        return extract_choice(text)
    boxed = last_boxed(text)
    return None if boxed is None else normalize_answer(boxed)


def _common_benchmark(runs: Sequence[Path]) -> str:
    """The one that all runs have."""
    found = [{path.name.removesuffix(SUFFIX) for path in run.glob(f"*{SUFFIX}")} for run in runs]
    for run, names in zip(runs, found, strict=True):
        if not names:
            raise UserError(f"{run} holds no *{SUFFIX}: give output folders of recipes/evaluate.py, output/NAME_TIME")
    common = sorted(set.intersection(*found))
    if not common:
        raise UserError(f"runs={[str(run) for run in runs]} have no benchmark in common")
    if len(common) > 1:
        raise UserError(f"the runs have several benchmarks: give benchmark={' or '.join(common)}")
    return common[0]


def _tokenizer_of(runs: Sequence[Path]) -> str:
    """The model of the first run whose configuration names one that is still there."""
    for run in runs:
        model = config_of(run).get("model")
        if isinstance(model, str) and Path(model).exists():
            return model
    raise UserError(f"no config.txt in {', '.join(map(str, runs))} names a model that exists: give tokenizer=PATH")


def _stated(runs: Sequence[Path]) -> AnswerKind:
    """What the first run whose configuration says it says, else the default of `rewards.answer`."""
    return next((stated for run in runs if (stated := stated_answer(run)) is not None), RewardsConfig().answer)


def _read_outputs(path: Path, samples: int) -> _Outputs:
    if not path.is_file():
        raise UserError(f"no file {path}: give a benchmark that was evaluated")
    outputs = _Outputs(path, [], [])
    for row in read_raw(path):
        if len(row.outputs) < samples:
            raise UserError(f"{path}: problem {row.id} has {len(row.outputs)} outputs, fewer than samples={samples}")
        outputs.questions_P.append(row.question)
        outputs.texts_PK.append(row.outputs[:samples])
    if not outputs.texts_PK:
        raise UserError(f"{path} is empty: evaluate the model first")
    return outputs
