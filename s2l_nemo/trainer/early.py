"""What is checked before torch is imported: all that needs neither a model's weights nor Transformers.

A mistake then costs seconds. Nothing is written.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2l_nemo.config.checks import Models
from s2l_nemo.config.load import resolved_yaml
from s2l_nemo.config.schema import Config
from s2l_nemo.config.validation import validation_sets
from s2l_nemo.data.benchmarks import load_benchmark
from s2l_nemo.data.prompts import read_split
from s2l_nemo.data.rows import Rows
from s2l_nemo.errors import UserError
from s2l_nemo.models.open import Model
from s2l_nemo.platform.host import allow_open_files, check_interface
from s2l_nemo.platform.launchers import check_launcher, rank_environment
from s2l_nemo.records.directory import check_run_dir
from s2l_nemo.records.wandb_start import check_wandb
from s2l_nemo.rewards.pool import reward_source


@dataclass(frozen=True)
class Early:
    """What the checks have read and the run needs."""

    train: Rows
    valid: Rows | None  # None: `validation.prompts=0`
    reward_source: str | None  # see `rewards.pool.reward_source`


def check_early(cfg: Config, models: Models) -> Early:
    """Raises UserError for what the launcher, the run directory, Weights & Biases, tokenizers, data or reward lack."""
    check_host(cfg)
    if os.environ.get("RANK", "0") == "0":  # one of torchrun's ranks is enough to say it
        check_run_dir(cfg.run.dir, cfg.run.resume, resolved_yaml(cfg))
        check_wandb(cfg.logging, os.environ)
    for model in (models.learner, *filter(None, models.explorers)):
        check_token_ids(model)
    early = read_early(cfg)
    rows, needed = len(early.train.rows), cfg.algorithm.prompts_per_step
    if rows < needed:
        raise UserError(
            f"algorithm.prompts_per_step={needed}, but the data set has only {rows} prompts; lower it or add prompts"
        )
    for one in validation_sets(cfg):
        folder, options = Path(cfg.validation.data), one.options
        load_benchmark(one.benchmark, folder, cfg.rewards.answer, options.limit, proofs=options.proofs)
    return early


def read_early(cfg: Config) -> Early:
    """The rows of both splits, and the reward function's fingerprint."""
    train = read_split(cfg.data, "train")
    valid = read_split(cfg.data, "valid", cfg.validation.prompts) if cfg.validation.prompts else None
    return Early(train, valid, reward_source(cfg.rewards))


def check_host(cfg: Config) -> None:
    """Raises UserError if a launcher has started other ranks than the run has, or this machine lacks what it needs."""
    started = rank_environment(os.environ)
    if started is not None:
        check_launcher({**os.environ, **started}, cfg.trainer.devices, cfg.trainer.num_nodes, cfg.run.max_restarts)
    allow_open_files()
    check_interface(os.environ)
    if cfg.engine.python is not None and shutil.which(cfg.engine.python) is None:
        raise UserError(f"engine.python={cfg.engine.python} cannot be run: give a Python interpreter")


def check_token_ids(model: Model) -> None:
    """Raises UserError if tokenizer.json has a token for which the model has no row.

    Another file of a tokenizer passes: it is compared when Transformers has read it.
    """
    file = model.hf_folder / "tokenizer.json"
    if not file.is_file():
        return
    try:
        token, number = _last_token(json.loads(file.read_bytes()))
    except (ValueError, OverflowError, TypeError, LookupError, AttributeError, RecursionError):
        raise UserError(f"{model.key}={model.path}: its tokenizer.json is damaged: fetch the model again") from None
    if number >= model.shape.vocab:
        raise UserError(
            f"{model.key}={model.path}: its tokenizer has {token!r} as token {number}, and vocab_size="
            f"{model.shape.vocab} of config.json has no row for it: give the tokenizer that belongs to the model, or "
            "resize its embedding"
        )


def _last_token(tokenizer: Mapping[str, Any]) -> tuple[str, int]:
    """The token of the largest id in a tokenizer.json; -1 if there is none."""
    vocab = tokenizer["model"]["vocab"]
    of_model = vocab.items() if isinstance(vocab, dict) else ((one[0], index) for index, one in enumerate(vocab))
    added = ((one["content"], one["id"]) for one in tokenizer.get("added_tokens") or [])
    token, number = max([("", -1), *of_model, *added], key=lambda pair: pair[1])
    return str(token), int(number)
