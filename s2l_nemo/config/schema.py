"""Every key of a training run, typed. Cross-field rules are in `checks`, reading and overriding in `load`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from s2l_nemo.algorithm.options import AlgorithmConfig
from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.models.precision import Precision


class ActivationCheckpointing(str, Enum):
    none = "none"
    selective = "selective"
    full = "full"


class Accelerator(str, Enum):
    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


class Task(str, Enum):
    arithmetic = "arithmetic"
    reasoning_gym = "reasoning_gym"


class AnswerKind(str, Enum):
    math = "math"
    choice = "choice"
    exact = "exact"


class OnBadRow(str, Enum):
    error = "error"
    skip = "skip"


class PromptFormat(str, Enum):
    chat = "chat"
    base = "base"


class ExplorerFilter(str, Enum):
    none = "none"
    match_learner_diversity = "match_learner_diversity"


class LrSchedule(str, Enum):
    constant = "constant"
    cosine = "cosine"


class Resume(str, Enum):
    auto = "auto"
    never = "never"
    must = "must"


@dataclass
class RunConfig:
    dir: str = "runs/tiny"  # where everything of this run is written
    seed: int = 1  # data order, sampling seeds and every other random choice
    dry_run: bool = False  # print the plan of the run and stop
    resume: Resume = Resume.auto  # where there is a checkpoint, auto continues, never refuses; must needs one
    save_nemo: bool = True  # write the trained learner as final.nemo
    export_hf: bool = False  # write the trained learner as the Hugging Face folder hf


@dataclass
class TrainerConfig:
    accelerator: Accelerator = Accelerator.auto
    devices: int = 1  # ranks on this node
    num_nodes: int = 1


@dataclass
class OptimConfig:
    lr: float = 1e-6
    lr_schedule: LrSchedule = LrSchedule.constant
    warmup_steps: int = 0  # optimizer steps
    min_lr: float = 0.0  # end of the cosine
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip_grad: float = 1.0


@dataclass
class ModelConfig:
    path: str = "models/tiny/learner"  # the learner: a Hugging Face folder, a NeMo folder or a .nemo file
    tensor_model_parallel_size: int = 1
    pipeline_model_parallel_size: int = 1
    precision: Precision = Precision.fp32
    micro_batch_size: int = 4  # sequences of one forward and backward pass on one rank
    activation_checkpointing: ActivationCheckpointing = ActivationCheckpointing.none
    offload_optimizer: bool = False  # keep optimizer states in host memory while engines generate
    offload_weights: bool = False  # keep weights in host memory, and no gradients, while engines generate
    transformer_engine: bool = False  # Transformer Engine layers (GPU images); else torch attention
    optim: OptimConfig = field(default_factory=OptimConfig)


@dataclass
class ExplorerConfig:
    path: str | None = "models/tiny/explorer"  # as model.path; null only with schedule.name=none


@dataclass
class RolloutConfig:
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_prompt_length: int = 64  # tokens; longer prompts are filtered out and counted
    max_response_length: int = 96  # tokens
    max_batch_rows: int = 256  # sequences that the embedded engine decodes at once
    refit_bucket_mb: int = 256  # size of one bucket of the weight update
    explorer_filter: ExplorerFilter = ExplorerFilter.none  # leave out explorer rollouts until they are as the learner's


@dataclass
class ArithmeticConfig:
    digits: int = 3
    terms: int = 2
    train_prompts: int = 4096
    seed: int = 17  # which prompts exist; the split is disjoint


@dataclass
class ReasoningGymConfig:
    dataset: str = "basic_arithmetic"
    params: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the task
    train_prompts: int = 4096
    seed: int = 17


@dataclass
class DataConfig:
    task: Task = Task.arithmetic
    path: str | None = None  # prompts instead of generated ones: JSONL or parquet file, or name on the Hugging Face hub
    valid_path: str | None = None  # held-out prompts in the same forms; needed with `path`
    prompt_key: str = "prompt"
    answer_key: str = "answer"
    system_prompt: str | None = None
    format: PromptFormat = PromptFormat.chat  # chat: the tokenizer's template; base: the prompt as it is
    on_bad_row: OnBadRow = OnBadRow.error  # a malformed row: stop, or leave it out and count it
    cache_dir: str | None = None  # where tokenised prompts are kept for the next run; null: nowhere
    arithmetic: ArithmeticConfig = field(default_factory=ArithmeticConfig)
    reasoning_gym: ReasoningGymConfig = field(default_factory=ReasoningGymConfig)


@dataclass
class RewardsConfig:
    answer: AnswerKind = AnswerKind.math  # what stands in the box: mathematics, a letter, or text taken literally
    fn: str | None = None  # own reward function, "package.module:function", fn(response, answer, prompt) -> float
    workers: int = 2  # processes that check answers, on each rank
    cpu_s: float = 5.0  # CPU seconds of one check
    wall_s: float = 10.0  # wall seconds of one check
    memory_mb: int = 1024  # of one worker
    batch_s: float = 600.0  # wall seconds of a whole batch; what is left then counts as grader errors


@dataclass
class ValidationConfig:
    every: int = 10  # steps; 0: only before and after training
    prompts: int = 256
    samples: int = 4  # per prompt
    temperature: float = 1.0


@dataclass
class CheckpointConfig:
    every: int = 10  # steps; the last step is always saved
    keep: int = 2  # newest checkpoints kept; 0: all


@dataclass
class LoggingConfig:
    rollouts_every: int = 1  # dump rollouts of every n-th step; 0: never
    wandb_project: str | None = None  # null: off
    wandb_mode: str = "online"


@dataclass
class Config:
    run: RunConfig = field(default_factory=RunConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    explorer: ExplorerConfig = field(default_factory=ExplorerConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
