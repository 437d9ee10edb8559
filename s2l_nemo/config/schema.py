"""Every key of a training run with its type and its facts. `checks` has the rules between keys, `load` reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from s2l_nemo.algorithm.options import AlgorithmConfig
from s2l_nemo.config.optim import OptimConfig
from s2l_nemo.config.time_limit import TIME_LIMIT
from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.fields import (
    BELOW_ONE,
    COUNT,
    POSITIVE,
    POSITIVE_COUNT,
    SEED,
    SHARE,
    TEMPERATURE,
    TEMPERATURE_OR_GREEDY,
    Range,
    at_least,
    between,
    key,
)
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
    word_problems = "word_problems"
    reasoning_gym = "reasoning_gym"


class WordProblems(str, Enum):
    """Which kinds of word problems are asked."""

    easy = "easy"  # nine kinds of one or two steps
    two_steps = "two_steps"  # ten kinds of two steps with three numbers


class AnswerKind(str, Enum):
    math = "math"
    choice = "choice"
    exact = "exact"


class Extract(str, Enum):
    """Where the answer of a response stands. Of several, the last one counts."""

    boxed = "boxed"  # in a box
    answer_line = "answer_line"  # behind "Answer:"
    hashes = "hashes"  # behind ####
    tag = "tag"  # between <answer> and </answer>
    anywhere = "anywhere"  # in a box, else in a tag, else behind ####, else behind "Answer:"
    released = "released"  # as the released evaluation looks: a box, a fraction, "Answer:", a number, the last line


class CutBox(str, Enum):
    """What a box means that is still open at the end of a response."""

    ignored = "ignored"  # the box before it counts
    no_answer = "no_answer"


class SeveralBoxes(str, Enum):
    """What boxes mean that stand side by side."""

    last = "last"  # the last one is the answer
    joined = "joined"  # they are a list


class OnBadRow(str, Enum):
    error = "error"
    skip = "skip"


class PromptFormat(str, Enum):
    chat = "chat"
    base = "base"


class ExplorerFilter(str, Enum):
    none = "none"
    match_learner_diversity = "match_learner_diversity"


class Resume(str, Enum):
    """Whether a run may continue in a folder that holds one."""

    auto = "auto"
    never = "never"
    must = "must"


class Part(str, Enum):
    """What a run that continues shares with its beginning besides the configuration."""

    learner = "learner"  # the files of model.path, which are the reference policy, too
    explorer = "explorer"
    training_data = "training_data"
    validation_data = "validation_data"  # held-out prompts and validation sets
    tokenizer = "tokenizer"
    template = "template"  # of a chat
    reward = "reward"  # the file of rewards.fn


class WandbMode(str, Enum):
    """The modes of Weights & Biases' own `wandb.init`."""

    online = "online"
    offline = "offline"
    disabled = "disabled"


FOLDER = Range(lambda value: bool(value.strip()), "the path of a folder")
# What transformers' apply_chat_template takes for itself.
_NO_VARIABLES = {
    "conversation", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize", "padding",
    "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs",
}  # fmt: skip
VARIABLES = Range(lambda names: not _NO_VARIABLES & set(names), "variables that a chat template reads")
TEXT = Range(lambda value: bool(value.strip()), "a text, or null for none")


@dataclass
class RunConfig:
    dir: str = key("runs/tiny", "where everything of this run is written", FOLDER, may_change=True, path=True)
    seed: int = key(1, "data order, sampling seeds and every other random choice", SEED)
    dry_run: bool = key(False, "print the plan of the run and stop", may_change=True)
    resume: Resume = key(
        Resume.auto, "if there is a checkpoint, auto continues, never refuses; must needs one", may_change=True
    )
    save_nemo: bool = key(True, "write the trained learner as final.nemo", may_change=True)
    export_hf: bool = key(False, "write the trained learner as the Hugging Face folder hf", may_change=True)
    max_restarts: int = key(
        0, "how often a run that lost a rank starts again from its last checkpoint", COUNT, may_change=True
    )
    watch_s: float = key(
        600.0,
        "a rank that gives no sign of life for so many seconds is named and ends the run",
        POSITIVE,
        may_change=True,
    )
    max_skipped: int = key(
        3,
        "updates in a row that may be skipped because loss or gradients are not finite; one more ends the run",
        COUNT,
        may_change=True,
    )
    save_before: str | None = key(
        None,
        "when a job ends, as 14:30 or +3h50m: before it the run saves and ends with exit code 4; null: no limit",
        TIME_LIMIT,
        may_change=True,
    )
    allow_changed: list[Part] = key(
        list,
        "what may differ from what the run began with, as [training_data]; identity.json records it",
        may_change=True,
    )


@dataclass
class TrainerConfig:
    accelerator: Accelerator = key(Accelerator.auto, "auto: the GPUs if PyTorch sees any", may_change=True)
    devices: int = key(1, "ranks on this node", POSITIVE_COUNT, may_change=True)
    num_nodes: int = key(1, "nodes, each with trainer.devices ranks", POSITIVE_COUNT, may_change=True)
    start_s: float = key(
        600.0,
        "seconds in which all ranks must come together; those that are missing are named",
        POSITIVE,
        may_change=True,
    )


@dataclass
class ModelConfig:
    path: str = key(
        "models/tiny/learner", "the learner: Hugging Face folder or owner/name, NeMo folder or .nemo file", path=True
    )
    tensor_model_parallel_size: int = key(
        1, "ranks that share each weight matrix of the learner", POSITIVE_COUNT, may_change=True
    )
    pipeline_model_parallel_size: int = key(
        1, "ranks that share the layers of the learner", POSITIVE_COUNT, may_change=True
    )
    precision: Precision = key(
        Precision.fp32, "number format of weights and activations; bf16 on a CPU pays if it has AMX"
    )
    micro_batch_size: int = key(
        4, "sequences of one forward and backward pass on one rank", POSITIVE_COUNT, may_change=True
    )
    micro_batch_tokens: int | None = key(
        None,
        "tokens of one forward and backward pass instead, a prompt once for the answers to it; null: micro_batch_size",
        POSITIVE_COUNT,
        may_change=True,
    )
    activation_checkpointing: ActivationCheckpointing = key(
        ActivationCheckpointing.none,
        "activations computed again in the backward pass: none, those of attention, all of a layer",
        may_change=True,
    )
    offload_optimizer: bool = key(False, "keep optimizer states in host memory while engines generate", may_change=True)
    offload_weights: bool = key(
        False, "keep weights in host memory, and no gradients, while engines generate", may_change=True
    )
    transformer_engine: bool = key(False, "Transformer Engine layers (GPU images); else torch attention")
    optim: OptimConfig = field(default_factory=OptimConfig)


class ExplorerSource(str, Enum):
    """Where an explorer's rollouts come from."""

    live = "live"  # an engine samples them during training
    store = "store"  # recipes/sample_explorer.py has sampled them
    learner = "learner"  # there is no explorer: the learner samples its share, in the same updates


class DrawOrder(str, Enum):
    """In which order a run takes the stored samples of a prompt."""

    stored = "stored"  # as sampled: a store of the run's seed then holds what the live explorer would draw
    shuffled = "shuffled"  # a permutation of its own for each run seed and prompt


@dataclass
class ExplorerConfig:
    path: str | None = key(
        "models/tiny/explorer", "as model.path, or the folder of a store; null only with schedule.name=none", path=True
    )
    source: ExplorerSource = key(
        ExplorerSource.live,
        "live: path is a model; store: the rollouts that recipes/sample_explorer.py has sampled; learner: no explorer, "
        "but GRPO with its updates",
    )
    draw: DrawOrder = key(
        DrawOrder.shuffled, "of a store: the order in which a run takes the samples of a prompt; stored: as they lie"
    )
    samples: int | None = key(
        None,
        "of a store: how many samples of each prompt the run may use; null: as many as all prompts have",
        POSITIVE_COUNT,
        may_change=True,
    )
    temperature: float | None = key(None, "sampling temperature; null: rollout.temperature", TEMPERATURE)
    top_p: float | None = key(None, "as rollout.top_p; null: the same", SHARE)
    top_k: int | None = key(None, "as rollout.top_k; null: the same", COUNT)
    max_response_length: int | None = key(
        None, "tokens; at most rollout.max_response_length, which null stands for", POSITIVE_COUNT
    )
    share: float = key(1.0, "of several explorers: samples of this one, relative to the others'", POSITIVE)


@dataclass
class RolloutConfig:
    temperature: float = key(1.0, "sampling temperature of explorer and learner", TEMPERATURE)
    top_p: float = key(1.0, "sample among the likeliest tokens of this total probability; 1: all", SHARE)
    top_k: int = key(0, "sample among this many likeliest tokens; 0: all", COUNT)
    max_prompt_length: int = key(64, "tokens; longer prompts are filtered out and counted", POSITIVE_COUNT)
    max_response_length: int = key(96, "tokens; longer answers are cut", POSITIVE_COUNT)
    max_batch_rows: int = key(
        256, "sequences that the embedded engine decodes at once", POSITIVE_COUNT, may_change=True
    )
    refit_bucket_mb: int = key(256, "size of one bucket of the weight update", POSITIVE_COUNT, may_change=True)
    explorer_ahead: bool = key(
        False,
        "explorers sample the next step while the actor trains; needs engine servers with GPUs of their own",
        may_change=True,
    )
    two_updates: bool = key(
        False, "as the released code: no mixed groups, but an update on the explorer's, then one on the learner's"
    )
    replay: str | None = key(
        None, "store that gives the learner's part of groups, without engines; null: it samples", FOLDER, path=True
    )
    explorer_filter: ExplorerFilter = key(
        ExplorerFilter.none, "leave out explorer rollouts until they are as the learner's"
    )
    filter_candidates: int | None = key(
        None,
        "explorer rollouts of each prompt among which explorer_filter chooses, so that groups stay of G; null: it "
        "leaves some out",
        at_least(2),
    )


@dataclass
class ArithmeticConfig:
    digits: int = key(3, "digits of each number", POSITIVE_COUNT)
    terms: int = key(2, "numbers of each sum", at_least(2))
    train_prompts: int = key(4096, "prompts to generate for training", POSITIVE_COUNT)
    seed: int = key(17, "which prompts exist; the split is disjoint")


@dataclass
class WordProblemsConfig:
    kinds: WordProblems = key(WordProblems.easy, "nine easy kinds, or ten of two steps with three numbers each")
    largest: int = key(20, "largest number in a question", between(3, 60))
    train_prompts: int = key(1024, "prompts to generate for training", POSITIVE_COUNT)
    seed: int = key(17, "which prompts exist; the split is disjoint", COUNT)


@dataclass
class ReasoningGymConfig:
    dataset: str = key("basic_arithmetic", "task of the library reasoning-gym")
    params: dict[str, Any] = key(dict, "keyword arguments of the task")
    train_prompts: int = key(4096, "prompts to generate for training", POSITIVE_COUNT)
    seed: int = key(17, "which prompts exist")


@dataclass
class TemplateConfig:
    """What a training run and an evaluation tell the chat template."""

    chat_template_kwargs: dict[str, Any] = key(
        dict,
        "variables of the chat template, as data.chat_template_kwargs.enable_thinking=false; null takes one back",
        VARIABLES,
    )


@dataclass
class DataConfig(TemplateConfig):
    task: Task = key(Task.arithmetic, "which prompts are generated if there are no files")
    path: str | None = key(
        None, "instead of generated prompts: a JSON, JSONL, CSV or parquet file, or name on the hub", path=True
    )
    mix: dict[str, Any] = key(
        dict, "several such sources by name instead of path, as mix.NAME.path, with mix.NAME.weight and keys of its own"
    )
    valid_path: str | None = key(None, "held-out prompts in the same forms as `path`; needed with files", path=True)
    prompt_key: str = key("prompt", "field of the question; dots lead into nested fields")
    answer_key: str = key("answer", "field of the right answer, or of a solution with it; dots lead into nested fields")
    system_key: str | None = key(None, "field of a system message of the row's own; null: none but in a chat")
    system_prompt: str | None = key(None, "system message before each question without one of its own; null: none")
    instruction: str | None = key(None, "text after each question, such as how to give the answer; null: none", TEXT)
    format: PromptFormat = key(PromptFormat.chat, "chat: the tokenizer's template; base: the prompt as it is")
    on_bad_row: OnBadRow = key(OnBadRow.error, "a malformed row: stop, or leave it out and count it")
    cache_dir: str | None = key(
        None, "where tokenised prompts are kept for the next run; null: nowhere", may_change=True, path=True
    )
    arithmetic: ArithmeticConfig = field(default_factory=ArithmeticConfig)
    word_problems: WordProblemsConfig = field(default_factory=WordProblemsConfig)
    reasoning_gym: ReasoningGymConfig = field(default_factory=ReasoningGymConfig)


@dataclass
class RewardsConfig:
    answer: AnswerKind = key(AnswerKind.math, "what stands in the box: mathematics, a letter, or text taken literally")
    extract: Extract = key(Extract.boxed, "where the answer of a response stands")
    final_only: bool = key(False, "whether only what follows </think> counts; unfinished thinking has no answer then")
    cut_box: CutBox = key(CutBox.ignored, "what a box means that is still open at the end of a response")
    several_boxes: SeveralBoxes = key(SeveralBoxes.last, "what boxes side by side mean: the last one, or a list")
    tolerance: float = key(
        0.0, "a decimal is right within this fraction of the gold number; 0: only the exact value", BELOW_ONE
    )
    fn: str | None = key(None, 'own reward function, "package.module:function", fn(response, answer, prompt) -> float')
    workers: int = key(2, "processes that check answers, on each rank", POSITIVE_COUNT, may_change=True)
    cpu_s: float = key(5.0, "CPU seconds of one check", POSITIVE, may_change=True)
    wall_s: float = key(
        120.0,
        "wall seconds of one check, a last resort: it is tried once more, then it is a grader error",
        POSITIVE,
        may_change=True,
    )
    memory_mb: int = key(1024, "memory of one worker, MiB", at_least(256), may_change=True)
    batch_s: float = key(
        600.0, "wall seconds of a whole batch; what is left then counts as grader errors", POSITIVE, may_change=True
    )


@dataclass
class ValidationConfig:
    every: int = key(10, "steps between validations; 0: only before and after training", COUNT, may_change=True)
    prompts: int = key(256, "how many held-out prompts are asked; 0: no validation", COUNT, may_change=True)
    samples: int = key(4, "answers per prompt", POSITIVE_COUNT, may_change=True)
    temperature: float = key(1.0, "of sampling in validation; 0 is greedy", TEMPERATURE_OR_GREEDY, may_change=True)
    sets: list[str] = key(
        list, "benchmarks that every validation asks besides, in their own mode (validation.options)", may_change=True
    )
    options: dict[str, Any] = key(
        dict, "keys of one set, as validation.options.aime24.mode=think; see docs/evaluation.md", may_change=True
    )
    data: str = key("data/benchmarks", "folder of the benchmark files, BENCHMARK.jsonl", may_change=True, path=True)


@dataclass
class CheckpointConfig:
    every: int = key(10, "steps between checkpoints; the last step is always saved", POSITIVE_COUNT, may_change=True)
    keep: int = key(2, "newest checkpoints kept; 0: all", COUNT, may_change=True)
    best: str | None = key(
        None,
        "metric of validations, such as validation/pass@1, by which the best checkpoint is saved and kept besides",
        may_change=True,
    )


@dataclass
class LoggingConfig:
    diversity_groups: int = key(
        4,
        "groups of each step whose Self-BLEU, edit diversity and unique answers are measured; 0: none",
        COUNT,
        may_change=True,
    )
    rollouts_every: int = key(1, "dump rollouts of every n-th step; 0: never", COUNT, may_change=True)
    wandb_project: str | None = key(None, "project of Weights & Biases; null: off", may_change=True)
    wandb_mode: WandbMode | None = key(
        None,
        "online sends at once, offline keeps files for later, disabled does nothing; null: WANDB_MODE, else online",
        may_change=True,
    )


@dataclass
class Config:
    run: RunConfig = field(default_factory=RunConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    explorer: ExplorerConfig = field(default_factory=ExplorerConfig)
    explorers: dict[str, Any] = key(
        dict,
        "several explorers by name, each with the keys of explorer, as explorers.NAME.path; then explorer is unused",
    )
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
