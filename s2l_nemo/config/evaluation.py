"""Every key of an evaluation, typed, and the rules between them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from s2l_nemo.config.checks import check_ranges
from s2l_nemo.config.schema import RewardsConfig, TemplateConfig
from s2l_nemo.errors import UserError
from s2l_nemo.fields import COUNT, NON_NEGATIVE, POSITIVE_COUNT, SHARE, between, key
from s2l_nemo.models.precision import Precision

PAPER_BENCHMARKS = ("aime24", "aime25", "math500", "olympiadbench", "commonsenseqa")


class Mode(str, Enum):
    nothink = "nothink"
    think = "think"


@dataclass
class EvaluateOptions:
    dir: str = key("evaluations", "output/NAME_TIME and result/NAME_TIME are written here")
    data: str = key("data/benchmarks", "folder of the benchmark files (tools/prepare_data.py), BENCHMARK.jsonl")
    rescore: str | None = key(None, "score the *_raw.jsonl files of this folder into its folder result; needs no model")
    limit: int | None = key(None, "only the first problems of each benchmark", POSITIVE_COUNT)
    instruction: bool = key(True, "ask for reasoning and a boxed answer after the question")
    max_tokens: int | None = key(None, "tokens of a response; null: the benchmark's", POSITIVE_COUNT)
    temperature: float | None = key(None, "sampling temperature; null: the mode's; 0 is greedy", NON_NEGATIVE)
    top_p: float | None = key(
        None, "sample among the likeliest tokens of this total probability; null: the mode's", SHARE
    )
    top_k: int | None = key(None, "sample among this many likeliest tokens; null: the mode's; 0: off", COUNT)
    presence_penalty: float | None = key(
        None, "taken off the logit of every token that the response holds; null: the mode's", between(-2, 2)
    )
    batch_rows: int = key(64, "responses sampled at once; each reserves memory for all its tokens", POSITIVE_COUNT)
    precision: Precision | None = key(None, "number format of the model; null: bf16 on a GPU, else fp32")


@dataclass
class EvaluateConfig:
    model: str | None = key(None, "a Hugging Face folder, a NeMo folder or a .nemo file")
    benchmarks: list[str] = key(lambda: list(PAPER_BENCHMARKS), "the paper's, and any file of evaluate.data")
    mode: Mode = key(Mode.nothink, "sampling and chat template: without or with a thinking part")
    k: int | None = key(
        None, "samples of each problem; null: 16, and all that there are with evaluate.rescore", POSITIVE_COUNT
    )
    name: str | None = key(None, "name of the result; null: the model's or the folder's own")
    seed: int = key(1, "seed of samples and of bootstrap intervals", COUNT)
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)
    data: TemplateConfig = field(default_factory=TemplateConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)


DEFAULT_SAMPLES = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def check_evaluate_config(cfg: EvaluateConfig) -> None:
    """Raises UserError for the first value that is out of range or does not fit the others. Reads no file."""
    check_ranges(cfg, EvaluateConfig)
    if cfg.model is None and cfg.evaluate.rescore is None:
        raise UserError("model=null: give the model's path, or evaluate.rescore=DIR to score outputs that are there")
    if cfg.model is not None and cfg.evaluate.rescore is not None:
        raise UserError(f"model={cfg.model} with evaluate.rescore={cfg.evaluate.rescore}: rescoring needs no model")
    if "summary" in cfg.benchmarks:
        raise UserError("benchmarks: summary.json is the name of another file; rename the benchmark 'summary'")
    if not cfg.benchmarks or len(set(cfg.benchmarks)) < len(cfg.benchmarks):
        raise UserError(f"benchmarks=[{','.join(cfg.benchmarks)}]: give each benchmark once, at least one")
    for name, value in [("name", result_name(cfg)), *(("benchmarks", one) for one in cfg.benchmarks)]:
        if not _NAME.fullmatch(value):
            raise UserError(
                f"{name}={value} cannot name files: give {name} of letters, digits, '.', '_', '+' and '-', beginning "
                "with a letter or digit"
            )
    thinking = cfg.data.chat_template_kwargs.get("enable_thinking")
    if thinking is not None and thinking != (cfg.mode is Mode.think):
        raise UserError(
            f"data.chat_template_kwargs.enable_thinking={str(thinking).lower()} with mode={cfg.mode.name}, which sets "
            "it: leave it out or choose the other mode"
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
