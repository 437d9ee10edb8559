"""Every key of an evaluation, typed, and the rules between them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from s2l_nemo.config.asking import Asking, Mode
from s2l_nemo.config.checks import check_lone_engine, check_ranges
from s2l_nemo.config.schema import RewardsConfig, TemplateConfig
from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.errors import UserError
from s2l_nemo.fields import POSITIVE_COUNT, SEED, key
from s2l_nemo.hub.names import Kind, hub_name
from s2l_nemo.models.precision import Precision

PAPER_BENCHMARKS = ("aime24", "aime25", "math500", "olympiadbench", "commonsenseqa")


@dataclass
class EvaluateOptions(Asking):
    dir: str = key("evaluations", "output/NAME_TIME and result/NAME_TIME are written here", path=True)
    data: str = key(
        "data/benchmarks", "folder of the benchmark files (tools/prepare_data.py), BENCHMARK.jsonl", path=True
    )
    rescore: str | None = key(
        None, "score the *_raw.jsonl files of this folder into its folder result; needs no model", path=True
    )
    batch_rows: int = key(64, "responses sampled at once; each reserves memory for all its tokens", POSITIVE_COUNT)
    precision: Precision | None = key(None, "number format of the model; null: bf16 on a GPU, else fp32")


@dataclass
class EvaluateConfig:
    model: str | None = key(
        None,
        "a Hugging Face folder or name (owner/name), a NeMo folder, a .nemo file or a run's checkpoint; "
        "with steps, the folder of a run",
        path=True,
    )
    steps: list[str] = key(
        list, "of a run: all, or some such as [0,20,40]; 0 is the model that it started from; none: model is one model"
    )
    benchmarks: list[str] = key(lambda: list(PAPER_BENCHMARKS), "the paper's, and any file of evaluate.data")
    mode: Mode = key(Mode.nothink, "sampling and chat template: without or with a thinking part")
    k: int | None = key(
        None,
        "samples of each problem; null: 16 (commonsenseqa: 4), and all that there are with evaluate.rescore",
        POSITIVE_COUNT,
    )
    name: str | None = key(None, "name of the result; null: the model's or the folder's own")
    seed: int = key(1, "seed of samples and of bootstrap intervals", SEED)
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)
    engine: EngineConfig = field(default_factory=EngineConfig)
    data: TemplateConfig = field(default_factory=TemplateConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)


_STEP = re.compile(r"\d{1,12}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def check_evaluate_config(cfg: EvaluateConfig) -> None:
    """Raises UserError for the first value that is out of range or does not fit the others. Reads no file."""
    check_ranges(cfg, EvaluateConfig)
    if cfg.model is None and cfg.evaluate.rescore is None:
        raise UserError("model=null: give the model's path, or evaluate.rescore=DIR to score outputs that are there")
    if cfg.model is not None and cfg.evaluate.rescore is not None:
        raise UserError(f"model={cfg.model} with evaluate.rescore={cfg.evaluate.rescore}: rescoring needs no model")
    _check_steps(cfg)
    check_lone_engine(cfg.engine)
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
    _check_thinking(cfg)
    if cfg.evaluate.temperature == 0 and cfg.k != 1:
        shown = "null" if cfg.k is None else cfg.k
        raise UserError(f"k={shown} with evaluate.temperature=0: greedy samples are all equal, set k=1")


def _check_thinking(cfg: EvaluateConfig) -> None:
    thinking = cfg.data.chat_template_kwargs.get("enable_thinking")
    if thinking is not None and thinking != (cfg.mode is Mode.think):
        raise UserError(
            f"data.chat_template_kwargs.enable_thinking={str(thinking).lower()} with mode={cfg.mode.name}, which sets "
            "it: leave it out or choose the other mode"
        )


def _check_steps(cfg: EvaluateConfig) -> None:
    shown = ",".join(cfg.steps)
    if cfg.steps and cfg.evaluate.rescore is not None:
        raise UserError(f"steps=[{shown}] with evaluate.rescore={cfg.evaluate.rescore}: rescoring needs no model")
    if list(cfg.steps) == ["all"]:
        return
    if not all(_STEP.fullmatch(one) for one in cfg.steps) or len(set(map(int, cfg.steps))) < len(cfg.steps):
        raise UserError(f"steps=[{shown}]: give steps=all, or each step once, such as [0,20,40]")


def result_name(cfg: EvaluateConfig) -> str:
    """What the result is called: `name`, else the last part of the path of the model or of the folder to rescore."""
    path = cfg.evaluate.rescore if cfg.model is None else cfg.model
    assert path is not None  # check_evaluate_config
    if cfg.name is None and (named := hub_name(Kind.model, path)) is not None:
        return named.short
    return os.path.basename(os.path.realpath(path)).removesuffix(".nemo") if cfg.name is None else cfg.name
