"""Every key of sampling a store of rollouts and of importing one, typed, and the rules between them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from s2l_nemo.config.checks import check_logprobs, check_lone_engine, check_ranges
from s2l_nemo.config.schema import FOLDER, DataConfig, RewardsConfig
from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.errors import UserError
from s2l_nemo.fields import COUNT, POSITIVE_COUNT, SEED, SHARE, TEMPERATURE, key
from s2l_nemo.models.precision import Precision


@dataclass
class StoredRollout:
    """The keys of a training run's `rollout` that decide what a store holds."""

    temperature: float = key(1.0, "sampling temperature", TEMPERATURE)
    top_p: float = key(1.0, "sample among the likeliest tokens of this total probability; 1: all", SHARE)
    top_k: int = key(0, "sample among this many likeliest tokens; 0: all", COUNT)
    max_prompt_length: int = key(64, "tokens; longer prompts are filtered out and counted", POSITIVE_COUNT)
    max_response_length: int = key(96, "tokens; longer answers are cut", POSITIVE_COUNT)


@dataclass
class SampledRollout(StoredRollout):
    max_batch_rows: int = key(256, "sequences that the engine decodes at once", POSITIVE_COUNT)


@dataclass
class SampleConfig:
    output: str = key("stores/tiny", "folder of the store; several jobs may write into one", FOLDER, path=True)
    model: str = key(
        "models/tiny/explorer", "the explorer: a Hugging Face folder or name, NeMo folder or .nemo file", path=True
    )
    samples: int = key(16, "rollouts of each prompt, with those that the store has", POSITIVE_COUNT)
    seed: int = key(1, "run.seed of the runs whose live explorer would draw the same samples", SEED)
    explorer: int = key(1, "number of this explorer among those of a run, from 1", POSITIVE_COUNT)
    shard: str = key("1/1", "this job's share of the prompts: 3/8 is the third of eight jobs")
    chunk: int | None = key(
        None, "prompts of one file, which a kill costs at most; null: as many as fill the batch 4 times", POSITIVE_COUNT
    )
    precision: Precision | None = key(None, "number format of the model; null: bf16 on a GPU, else fp32")
    rollout: SampledRollout = field(default_factory=SampledRollout)
    engine: EngineConfig = field(default_factory=EngineConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)


@dataclass
class ImportConfig:
    input: str | None = key(
        None, "JSONL file: prompt, responses, scores; or prompt, response, reward a line", path=True
    )
    output: str = key("stores/imported", "folder of the new store", FOLDER, path=True)
    model: str = key("models/tiny/explorer", "the model that sampled; only its tokenizer is read", path=True)
    rollout: StoredRollout = field(default_factory=StoredRollout)
    data: DataConfig = field(default_factory=DataConfig)


@dataclass
class RunStoreConfig:
    run: str | None = key(None, "folder of the run whose rollouts are taken, with its configuration", path=True)
    source: str = key("learner", "whose: learner, explorer, or the name of one of several explorers")
    output: str = key("stores/replay", "folder of the new store", FOLDER, path=True)


_SHARD = re.compile(r"([1-9]\d{0,5})/([1-9]\d{0,5})")


def shard_of(text: str) -> tuple[int, int]:
    """(3, 8) of "3/8". Raises UserError for anything else, and for 9/8."""
    match = _SHARD.fullmatch(text)
    if match is None or int(match[1]) > int(match[2]):
        raise UserError(f"shard={text}: give the number of this job and of all jobs, such as 3/8")
    return int(match[1]), int(match[2])


def check_sample_config(cfg: SampleConfig) -> None:
    """Raises UserError for the first value that is out of range or does not fit the others. Reads no file."""
    check_ranges(cfg, SampleConfig)
    shard_of(cfg.shard)
    engine = cfg.engine
    if engine.replicas_per_node != 1:
        raise UserError(
            f"engine.replicas_per_node={engine.replicas_per_node}: a job samples with one engine; start one job for "
            "each with shard=1/N to shard=N/N"
        )
    check_lone_engine(engine)
    check_logprobs("rollout", cfg.rollout.top_p, cfg.rollout.top_k, cfg.engine.kind)


def check_run_store_config(cfg: RunStoreConfig) -> None:
    """Raises UserError for a value that is missing or out of range. Reads no file."""
    check_ranges(cfg, RunStoreConfig)
    if cfg.run is None:
        raise UserError("run=null: give the folder of a run")


def check_import_config(cfg: ImportConfig) -> None:
    """Raises UserError for a value that is missing or out of range. Reads no file."""
    check_ranges(cfg, ImportConfig)
    if cfg.input is None:
        raise UserError("input=null: give the JSONL file of rollouts")
