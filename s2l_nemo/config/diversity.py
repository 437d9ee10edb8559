"""Every key of a comparison of diversity, typed."""

from __future__ import annotations

from dataclasses import dataclass

from s2l_nemo.config.checks import check_ranges
from s2l_nemo.config.schema import AnswerKind
from s2l_nemo.errors import UserError
from s2l_nemo.fields import at_least, key


@dataclass
class DiversityConfig:
    runs: list[str] = key(
        list, "output folders of recipes/evaluate.py, output/NAME_TIME, one for each model", path=True
    )
    benchmark: str | None = key(None, "whose NAME_raw.jsonl is read; null: the one that all runs have")
    answer: AnswerKind | None = key(
        None, "of a benchmark that is none of the paper's; null: what config.txt of the runs says, else math"
    )
    tokenizer: str | None = key(
        None, "model folder whose tokenizer is used for all runs; null: the first run's model", path=True
    )
    output: str = key("diversity", "folder for diversity.json and diversity.png", path=True)
    samples: int = key(64, "K: the first K outputs of every problem; compare models at the same K only", at_least(2))


def check_diversity_config(cfg: DiversityConfig) -> None:
    """Raises UserError for a value that is missing or out of range. Reads no file."""
    check_ranges(cfg, DiversityConfig)
    if not cfg.runs:
        raise UserError("runs is empty: give runs=[DIR,DIR,...], output folders of recipes/evaluate.py")
