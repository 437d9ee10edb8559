"""What the answers of outputs are: what their evaluation's config.txt says, for a benchmark that is not the paper's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s2l_nemo.config.schema import AnswerKind
from s2l_nemo.data.benchmarks import Benchmark
from s2l_nemo.errors import UserError
from s2l_nemo.models.formats.yaml_config import read_yaml_mapping
from s2l_nemo.rewards.golds import unreadable_gold

CONFIG = "config.txt"


def config_of(outputs: Path) -> dict[str, Any]:
    """What config.txt says; nothing if there is none, or one without keys, as beside outputs of other programs.

    Raises UserError if it is damaged.
    """
    path = outputs / CONFIG
    content = path.read_bytes() if path.is_file() else b""
    return read_yaml_mapping(content, str(path)) if b":" in content else {}


def stated_answer(outputs: Path) -> AnswerKind | None:
    """`rewards.answer` of the evaluation that wrote this folder; None if nothing says it."""
    rewards = config_of(outputs).get("rewards")
    stated = rewards.get("answer") if isinstance(rewards, dict) else None
    return AnswerKind.__members__.get(stated) if isinstance(stated, str) else None


def check_answers(outputs: Path, wanted: AnswerKind) -> None:
    """Raises UserError if the folder was evaluated with another `rewards.answer`."""
    stated = stated_answer(outputs)
    if stated is not None and stated is not wanted:
        raise UserError(
            f"rewards.answer={wanted.value}, and {outputs / CONFIG} says {stated.value}: give rewards.answer="
            f"{stated.value}; to grade them as something else, copy the *_raw.jsonl files into a folder of their own"
        )


def unreadable_golds(benchmark: Benchmark) -> str | None:
    """One line about golds that no answer can equal; None if there are none."""
    found = [(problem, unreadable_gold(problem.gold, benchmark.answer)) for problem in benchmark.problems]
    faults = [(problem, fault) for problem, fault in found if fault is not None]
    if not faults:
        return None
    problem, fault = faults[0]
    return (
        f"{benchmark.name}: {len(faults)} golds cannot be graded, so that every answer to them counts as wrong; the "
        f"first is {problem.gold[:60]!r} of problem {problem.problem_id}: {fault}"
    )
