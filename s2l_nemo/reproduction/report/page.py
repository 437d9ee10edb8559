"""The report of a folder of runs: one page that needs nothing but itself, and the files of its pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from s2l_nemo.files import write_text_atomic
from s2l_nemo.reproduction.report import comparisons, diversity, groups, paper
from s2l_nemo.reproduction.report.chart import Drawn, draw, with_slugs
from s2l_nemo.reproduction.report.claims import Claim, read_claims, tally
from s2l_nemo.reproduction.report.runs import Run, Study, read_study
from s2l_nemo.reproduction.report.sections import Section, sections

NAME = "report.html"
FOLDER = "report"  # of pictures and data, beside the page


def write_report(root: Path) -> Path:
    """Writes `root/report.html`, and PNG and CSV of each picture into `root/report`. Returns the page.

    `root` holds EXPERIMENT/seed_N/ or is the folder of one run; runs may be unfinished. `claims.json` and `plan.json`
    are read if they are there. Raises UserError if there is no run, or a file is damaged.
    """
    study = read_study(root)
    claims = read_claims(root / "claims.json")
    page = root / NAME
    write_text_atomic(page, _render(study, claims, _draw(sections(study), root / FOLDER)))
    return page


def _draw(found: Sequence[Section], folder: Path) -> list[tuple[Section, list[Drawn]]]:
    """Draws everything, and takes away what an earlier report has left in the folder."""
    folder.mkdir(exist_ok=True)
    named = iter(with_slugs([chart for section in found for chart in section.charts]))
    drawn = [(section, [draw(next(named), folder) for _ in section.charts]) for section in found]
    kept = {name for _, charts in drawn for one in charts for name in (Path(one.png).name, Path(one.csv).name)}
    for file in [*folder.glob("*.png"), *folder.glob("*.csv")]:
        if file.name not in kept:
            file.unlink()
    return drawn


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("s2l_nemo.reproduction.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "safe_svg": Markup}
    return environment


def _render(study: Study, claims: Sequence[Claim] | None, drawn: Sequence[tuple[Section, list[Drawn]]]) -> str:
    environment = _environment()
    style = Markup(environment.get_template("style.css").render())
    context: dict[str, Any] = {
        "style": style,
        "name": study.root.resolve().name,
        "command": f"python tools/report.py {study.root}",
        "study": study,
        "progress": progress(study),
        "states": {(run.experiment, run.seed): state(run) for run in study.runs},
        "anchors": {(run.experiment, run.seed): f"run-{index}" for index, run in enumerate(study.runs)},
        "claims": claims,
        "tally": tally(claims) if claims else "",
        "drawn": drawn,
        "tables": [(table, comparisons.rows_of(table, study)) for table in paper.TABLES],
        "other_jobs": [job for job in study.jobs if not any(job in run.jobs for run in study.runs)],
        "own_rows": comparisons.own_rows(paper.TABLES, study),
        "paper": paper,
        "model_rows": diversity.model_rows(study),
        "diversity_rows": diversity.training_rows(study),
        "diversity_metrics": diversity.METRICS,
        "examples": groups.examples(study),
        "rule_of_examples": groups.RULE,
    }
    text = environment.get_template("page.html").render(context)
    return text.encode(errors="replace").decode()  # half characters, of folder names or JSON, cannot be written


def state(run: Run) -> str:
    """How far a run is."""
    if run.is_finished:
        return f"finished, {run.last_step} steps"
    if not run.metrics:
        return "not begun"
    return f"unfinished, step {run.last_step} of {run.planned_steps or 'an unknown number'}"


def progress(study: Study) -> str:
    """How many runs are finished, and what the runner says of its jobs, in one or two sentences."""
    finished = sum(run.is_finished for run in study.runs)
    words = f"{finished} of {len(study.runs)} runs that have a folder are finished."
    if study.jobs:
        counts = Counter(job.status for job in study.jobs)
        words += (
            f" Of {len(study.jobs)} jobs of the plan: {', '.join(f'{n} {status}' for status, n in counts.items())}."
        )
    return words


def number(value: object) -> str:
    """A cell of a table: six digits, nothing for None."""
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
