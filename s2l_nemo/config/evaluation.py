"""Every key of an evaluation, typed, and the rules between them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from s2l_nemo.config.checks import COUNT, NON_NEGATIVE, POSITIVE_COUNT, RANGES, Rule, check_ranges, in_range
from s2l_nemo.config.schema import RewardsConfig
from s2l_nemo.errors import UserError
from s2l_nemo.models.precision import Precision

PAPER_BENCHMARKS = ("aime24", "aime25", "math500", "olympiadbench", "commonsenseqa")


class Mode(str, Enum):
    nothink = "nothink"
    think = "think"


@dataclass
class EvaluateOptions:
    dir: str = "evaluations"  # output/NAME_TIME and result/NAME_TIME are written here
    data: str = "data/benchmarks"  # folder of the benchmark files (tools/prepare_data.py), BENCHMARK.jsonl
    rescore: str | None = None  # score the *_raw.jsonl files of this folder into its folder result; needs no model
    limit: int | None = None  # only the first problems of each benchmark
    instruction: bool = True  # ask for reasoning and a boxed answer after the question
    max_tokens: int | None = None  # tokens of a response; null: the benchmark's
    temperature: float | None = None  # null: the mode's; 0 is greedy
    top_p: float | None = None  # null: the mode's
    top_k: int | None = None  # null: the mode's; 0: off
    presence_penalty: float | None = None  # null: the mode's
    batch_rows: int = 64  # responses sampled at once; each reserves memory for all its tokens
    precision: Precision | None = None  # null: bf16 on a GPU, else fp32


@dataclass
class EvaluateConfig:
    model: str | None = None  # a Hugging Face folder, a NeMo folder or a .nemo file
    benchmarks: list[str] = field(default_factory=lambda: list(PAPER_BENCHMARKS))  # and any file of evaluate.data
    mode: Mode = Mode.nothink  # sampling and chat template: without or with a thinking part
    k: int | None = None  # samples of each problem; null: 16, and all that there are with evaluate.rescore
    name: str | None = None  # of the result; null: the model's or the folder's own
    seed: int = 1  # of samples and of bootstrap intervals
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)


DEFAULT_SAMPLES = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_PROBABILITY: Rule = (lambda value: 0 < value <= 1, "greater than 0 and at most 1")
EVALUATE_RANGES: dict[str, Rule] = {
    "k": POSITIVE_COUNT,
    "seed": COUNT,
    "evaluate.limit": POSITIVE_COUNT,
    "evaluate.max_tokens": POSITIVE_COUNT,
    "evaluate.temperature": NON_NEGATIVE,
    "evaluate.top_p": _PROBABILITY,
    "evaluate.top_k": COUNT,
    "evaluate.presence_penalty": in_range(-2, 2),
    "evaluate.batch_rows": POSITIVE_COUNT,
    **{key: rule for key, rule in RANGES.items() if key.startswith("rewards.")},
}


def check_evaluate_config(cfg: EvaluateConfig) -> None:
    """Raises UserError for the first value that is out of range or does not fit the others. Reads no file."""
    check_ranges(cfg, EVALUATE_RANGES)
    if cfg.model is None and cfg.evaluate.rescore is None:
        raise UserError("model=null: give the model's path, or evaluate.rescore=DIR to score outputs that are there")
    if cfg.model is not None and cfg.evaluate.rescore is not None:
        raise UserError(f"model={cfg.model} with evaluate.rescore={cfg.evaluate.rescore}: rescoring needs no model")
    if "summary" in cfg.benchmarks:
        raise UserError("benchmarks: summary.json is the name of another file; rename the benchmark 'summary'")
    if not cfg.benchmarks or len(set(cfg.benchmarks)) < len(cfg.benchmarks):
        raise UserError(f"benchmarks=[{','.join(cfg.benchmarks)}]: give each benchmark once, at least one")
    for key, value in [("name", result_name(cfg)), *(("benchmarks", name) for name in cfg.benchmarks)]:
        if not _NAME.fullmatch(value):
            raise UserError(
                f"{key}={value} cannot name files: give {key} of letters, digits, '.', '_', '+' and '-', beginning "
                "with a letter or digit"
            )
    if cfg.evaluate.temperature == 0 and samples(cfg) > 1:
        raise UserError(f"k={samples(cfg)} with evaluate.temperature=0: greedy samples are all equal, set k=1")


def result_name(cfg: EvaluateConfig) -> str:
    """What the result is called: `name`, else the last part of the path of the model or of the folder to rescore."""
    path = cfg.evaluate.rescore if cfg.model is None else cfg.model
    assert path is not None  # check_evaluate_config
    return Path(path).resolve().name.removesuffix(".nemo") if cfg.name is None else cfg.name


def samples(cfg: EvaluateConfig) -> int:
    """K, the samples of each problem of a new evaluation."""
    return DEFAULT_SAMPLES if cfg.k is None else cfg.k
