"""What the page of a folder of runs is made of and no other reader reads: the runner's plan, diversity, configurations,
summaries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import yaml

from s2l_nemo.reproduction.report.page import _render
from s2l_nemo.reproduction.report.runs import read_study
from s2l_nemo.reproduction.report.sections import sections
from tests.fuzz.mutate import json_damage
from tests.fuzz.reader import Harness, Reader
from tests.reproduction.report.scripted import write_plan, write_run

_INTERVAL = {"mean": 0.5, "low": 0.4, "high": 0.6}
MODEL = {
    "name": "Qwen3-8B", "benchmark": "minerva", "problems": 2, "samples": 4, "self_bleu": _INTERVAL,
    "edit": _INTERVAL, "unique": _INTERVAL,
}  # fmt: skip


def written(root: Path) -> Path:
    """A finished run, a plan and diversity. Returns the folder of the run."""
    run = write_run(root / "s2l" / "seed_1", rewards=[0.2], explorer=2)
    write_plan(root, ("s2l", 1, "done"), ("grpo", 1, "running"))
    (root / "diversity").mkdir()
    (root / "diversity" / "diversity.json").write_text(json.dumps({"models": [MODEL, {**MODEL, "name": "other"}]}))
    return run


def of_study(name: str) -> Callable[[Path], Harness]:
    """A file of the folder of all runs, in all of the page but its pictures."""

    def prepare(folder: Path) -> Harness:
        written(folder)
        return Harness(
            [(folder / name).read_bytes()],
            lambda _: _render(read_study(folder), None, []).encode(),
            folder / name,
            json_damage,
        )

    return prepare


def of_run(name: str) -> Callable[[Path], Harness]:
    """A file of the one run that a page shows, with what its pictures would hold."""

    def prepare(folder: Path) -> Harness:
        run = written(folder)
        seed = json.dumps(yaml.safe_load((run / name).read_bytes())).encode()  # JSON is YAML

        def read(_: bytes) -> None:
            study = read_study(run)
            _render(study, None, [(one, []) for one in sections(study)]).encode()

        return Harness([seed], read, run / name, json_damage)

    return prepare


READERS = (
    Reader("report-plan", ("reproduction.report.runs",), of_study("plan.json"), 50),
    Reader("report-diversity", ("reproduction.report.runs",), of_study("diversity/diversity.json"), 50),
    Reader("report-config", ("reproduction.report.runs",), of_run("config.yaml"), 50),
    Reader("report-summary", ("reproduction.report.runs",), of_run("summary.json"), 50),
)
