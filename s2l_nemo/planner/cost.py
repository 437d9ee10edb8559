"""Predicts in closed form what a run costs on GPUs. These are no measurements. Formulas: docs/planner.md.

Memory traffic bounds decoding, and matrix multiplications bound training. Units are bytes, seconds, FLOP and tokens.
The peaks of a GPU are those of its data sheet. Each share of a peak that is reached is an assumption with a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from s2l_nemo.algorithm.options import Rejected
from s2l_nemo.algorithm.sharing import apportion
from s2l_nemo.config.explorers import explorers_of
from s2l_nemo.config.parts import data_parallel_size, mini_batch_prompts, parts_of_step
from s2l_nemo.config.schema import ActivationCheckpointing, Config, ExplorerSource
from s2l_nemo.engines.kinds import ENGINES, EngineKind
from s2l_nemo.engines.options import Placement
from s2l_nemo.errors import UserError
from s2l_nemo.fields import COUNT, POSITIVE, POSITIVE_COUNT, SHARE, between, key
from s2l_nemo.models.flops import ForwardFlops, flops_of
from s2l_nemo.models.shape import ModelShape
from s2l_nemo.planner.memory import explorer_engines, gpus_of_engine, longest_sequence, reserved_kv
from s2l_nemo.planner.plan import splits

USABLE = 0.9  # share of the memory of a GPU that a process can use
GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """The data sheet of a GPU: bytes of memory, bytes a second of memory traffic, dense bf16 FLOP a second."""

    name: str
    memory: int
    bandwidth: float
    peak: float

    @property
    def usable(self) -> float:
        return USABLE * self.memory


GPUS = (
    Gpu("L20", 48 * GIB, 864e9, 119.5e12),
    Gpu("H100", 80 * GIB, 3.35e12, 989e12),
    Gpu("H200", 141 * GIB, 4.8e12, 989e12),
)


class GpuName(str, Enum):
    L20 = "L20"
    H100 = "H100"
    H200 = "H200"


class SchedulerPolicy(str, Enum):
    """When an engine with a reserved KV cache admits a row."""

    max_utilization = "max_utilization"  # while there is room for what rows have now; a row may be put off again
    no_evict = "no_evict"  # only if its prompt and its longest response will fit


@dataclass
class AssumedOptions:
    """The keys of tools/plan.py and tools/simulate.py that no configuration of a run can say."""

    conf: str = key("train_s2l", "preset, as --config-name of recipes/train_s2l.py")
    length: int | None = key(
        None, "mean tokens of a response; null: half of rollout.max_response_length", POSITIVE_COUNT
    )
    prompt: int | None = key(None, "mean tokens of a prompt; null: a quarter of rollout.max_prompt_length", COUNT)
    bandwidth: float = key(0.7, "share of the memory bandwidth that decoding reaches", SHARE)
    mfu: float = key(0.4, "share of the peak FLOP/s that training reaches, recomputation counted as work", SHARE)
    refit_gb_s: float = key(10.0, "rate at which an engine takes new weights, GB/s", POSITIVE)
    policy: SchedulerPolicy = key(
        SchedulerPolicy.max_utilization,
        "how TensorRT-LLM admits rows: by what they hold, or by their longest length",
    )


@dataclass
class PlanOptions(AssumedOptions):
    """The keys of tools/plan.py."""

    gpu: GpuName | None = key(None, "kind of GPU; null: all of them side by side")
    equal: float = key(
        0.5, "share of the groups of equal rewards, which algorithm.refill_rounds replaces", between(0, 1)
    )


@dataclass(frozen=True)
class Assumed:
    """What a prediction assumes: mean tokens of a response and of a prompt, shares of the peaks, GB/s of a refit."""

    length: int
    prompt: int
    bandwidth: float
    mfu: float
    refit_gb_s: float
    policy: SchedulerPolicy = SchedulerPolicy.max_utilization
    equal: float = 0.5  # of groups whose rewards are all equal

    @property
    def context(self) -> float:
        """L_ctx: tokens in the KV cache of one sequence, averaged over its decoding."""
        return self.prompt + self.length / 2


def assumed_of(options: AssumedOptions, cfg: Config) -> Assumed:
    """The assumptions of `options`. Raises UserError if a mean length is above the limit of the configuration."""
    rollout = cfg.rollout
    length = options.length if options.length is not None else max(1, rollout.max_response_length // 2)
    prompt = options.prompt if options.prompt is not None else rollout.max_prompt_length // 4
    for name, value, limit, most in (
        ("length", length, "rollout.max_response_length", rollout.max_response_length),
        ("prompt", prompt, "rollout.max_prompt_length", rollout.max_prompt_length),
    ):
        if value > most:
            raise UserError(f"{name}={value} is more than {limit}={most}: lower the one or raise the other")
    equal = options.equal if isinstance(options, PlanOptions) else PlanOptions().equal
    return Assumed(length, prompt, options.bandwidth, options.mfu, options.refit_gb_s, options.policy, equal)


def kv_bytes_per_token(shape: ModelShape, size: int) -> int:
    """Bytes of the keys and values of one token in all layers; an element has `size` bytes."""
    return shape.kv_elements_per_token * size


def full_memory_rows(usable: float, weights: float, kv: float, context: float) -> float:
    """Number of sequences whose KV caches fill the memory beside the weights. 0 or less if the weights do not fit."""
    return (usable - weights) / (kv * context)


def seconds_per_token(rows: float, weights: float, kv: float, context: float, bandwidth: float) -> float:
    """Seconds of one decoding step / its tokens. Each step reads all weights and the KV caches of all rows.

    With `full_memory_rows` it is M·kv·L_ctx / ((M − W)·BW); with few rows it tends to W / (rows·BW).
    """
    return (weights + rows * kv * context) / (rows * bandwidth)


def forward_flops(shape: ModelShape, *, prompts: float, prompt: float, responses: float, length: float) -> ForwardFlops:
    """FLOP of a forward pass over `responses` of `length` tokens, whose prompts of `prompt` tokens are run `prompts`
    times. A response token sees its prompt and what comes before it: see `models.flops`.
    """
    return flops_of(
        shape,
        tokens=prompts * prompt + responses * length,
        pairs=prompts * prompt**2 / 2 + responses * length * (prompt + length / 2),
        targets=responses * length,
    )


def responses_of_a_prompt(cfg: Config, assumed: Assumed, samples: int | None = None) -> float:
    """How many responses share one computation of their prompt: those of its group in one micro-batch.

    `samples` are those of the group that are trained on together, by default all.
    """
    size, tokens = float(cfg.model.micro_batch_size), cfg.model.micro_batch_tokens
    if tokens is not None:
        size = max(1.0, (tokens - assumed.prompt) / assumed.length)
    return min(float(cfg.algorithm.group_size if samples is None else samples), size)


def asked_over_trained(cfg: Config, assumed: Assumed) -> float:
    """Groups that are sampled over those that are trained on: 1 + z + z^2 + ..., a term for each refill round.

    Dynamic sampling asks as many further prompts as groups are of equal rewards, and again for those that still are.
    `assumed.equal` is z, the share of such groups. No more prompts than the data has are asked.
    """
    return float(sum(assumed.equal**number for number in range(cfg.algorithm.refill_rounds + 1)))


def share_ahead(cfg: Config, updates: int) -> float:
    """Share of the rollouts whose old log-probs take a forward pass of their own, ahead of the `updates` of a part.

    In a single pass, the first of them takes them from its own, unless rejected tokens must be counted before.
    """
    single = cfg.algorithm.optimizer_passes == 1 and cfg.algorithm.rejected is Rejected.keep
    return 1 - 1 / updates if single else 1.0


@dataclass(frozen=True)
class Engines:
    """How many engines of one model sample at once, and on how many GPUs each."""

    count: int
    gpus: int


def kind_of(cfg: Config) -> EngineKind:
    return ENGINES[cfg.engine.kind]


def engines_of(cfg: Config) -> Engines:
    """Every rank has an engine in its process, or every node has `engine.replicas_per_node` servers."""
    kind = kind_of(cfg)
    if not kind.served:
        return Engines(cfg.trainer.devices * cfg.trainer.num_nodes, 1)
    return Engines(cfg.trainer.num_nodes * cfg.engine.replicas_per_node, gpus_of_engine(cfg))


@dataclass(frozen=True)
class Decoding:
    """How fast one model decodes.

    `rows` sequences decode together in one engine. `tokens_per_s` is the rate of all its engines. `full_tokens_per_s`
    is the rate of the closed form: one GPU at full bandwidth with its KV memory full. It is None if the weights do not
    fit.
    """

    rows: float
    tokens_per_s: float
    full_tokens_per_s: float | None


def rows_of_kv(cfg: Config, shape: ModelShape, assumed: Assumed, kv_bytes: float) -> float:
    """Sequences that an engine can decode together with `kv_bytes` of KV cache on each of its GPUs."""
    tokens = kv_bytes * gpus_of_engine(cfg) / kv_bytes_per_token(shape, cfg.model.precision.element_bytes)
    no_evict = assumed.policy is SchedulerPolicy.no_evict
    return tokens / (longest_sequence(cfg) if no_evict else assumed.context)


def most_rows(cfg: Config, shape: ModelShape, assumed: Assumed, kv_bytes: float | None) -> float:
    """Sequences that an engine can decode together: rollout.max_batch_rows, or what its KV memory holds if less.

    That memory is `kv_bytes` on each GPU if its kind reserves it. One row is counted where not even that fits.
    """
    rows = float(cfg.rollout.max_batch_rows)
    return rows if kv_bytes is None else max(1.0, min(rows, rows_of_kv(cfg, shape, assumed, kv_bytes)))


def decoding(cfg: Config, shape: ModelShape, gpu: Gpu, assumed: Assumed, kv_bytes: float | None = None) -> Decoding:
    """The rate of a model in its engines, with `most_rows`, or the sequences of a step if they are fewer."""
    engines, size, context = engines_of(cfg), cfg.model.precision.element_bytes, assumed.context
    weights, kv = shape.parameters * size, kv_bytes_per_token(shape, size)
    step_rows = cfg.algorithm.prompts_per_step * cfg.algorithm.group_size / engines.count
    rows = min(most_rows(cfg, shape, assumed, kv_bytes), step_rows)
    bandwidth = assumed.bandwidth * gpu.bandwidth * engines.gpus
    full = None
    if gpu.usable > weights:
        most = full_memory_rows(gpu.usable, weights, kv, context)
        full = 1 / seconds_per_token(most, weights, kv, context, gpu.bandwidth)
    return Decoding(rows, engines.count / seconds_per_token(rows, weights, kv, context, bandwidth), full)


def decoding_of_models(
    cfg: Config, learner: ModelShape, explorers: Sequence[ModelShape], gpu: Gpu, assumed: Assumed
) -> tuple[Decoding, tuple[Decoding, ...]]:
    """The rates of the learner and of each explorer's engine, with the KV memory that each finds when it starts."""
    if not kind_of(cfg).reserves_kv_memory:
        others = tuple(decoding(cfg, shape, gpu, assumed) for shape in explorers)
        return decoding(cfg, learner, gpu, assumed), others
    reserved = reserved_kv(cfg, learner, explorers, gpu.memory)
    return decoding(cfg, learner, gpu, assumed, reserved.learner), tuple(
        decoding(cfg, shape, gpu, assumed, kv) for shape, kv in zip(explorers, reserved.explorers, strict=True)
    )


def samples_of_engines(cfg: Config, explorer_samples: int) -> list[int]:
    """How many of the explorers' samples of a group each of `memory.explorer_engines` gives. Stored ones need none."""
    explorers = explorers_of(cfg)
    counts = apportion(explorer_samples, [one.options.share for one in explorers]) if explorers else []
    paths = [one.options.path for one in explorer_engines(cfg)]
    samples = dict.fromkeys(paths, 0)
    for one, count in zip(explorers, counts, strict=True):
        if one.options.source is ExplorerSource.live and one.options.path in samples:
            samples[one.options.path] += count
    return list(samples.values())


@dataclass(frozen=True)
class StepSeconds:
    """Predicted seconds of the phases of a step, without grading, data and checkpoints."""

    explorer: float
    learner: float
    logprobs: float
    update: float
    refit: float
    at_once: bool  # explorer and learner have GPUs of their own and sample at the same time

    @property
    def rollouts(self) -> float:
        return max(self.explorer, self.learner) if self.at_once else self.explorer + self.learner

    @property
    def total(self) -> float:
        return self.rollouts + self.logprobs + self.update + self.refit


def step_seconds(
    cfg: Config,
    shape: ModelShape,
    gpu: Gpu,
    assumed: Assumed,
    *,
    explorer_tokens_per_s: Sequence[float],
    learner_tokens_per_s: float,
    explorer_samples: int,
) -> StepSeconds:
    """One step in which explorers sample `explorer_samples` of each group of G, with the rates of their engines.

    Engines of several explorers share the same GPUs, so their times add up. Refill rounds sample
    `asked_over_trained` times as many groups as are trained on. With two updates a step, nobody samples at
    the same time, each part computes its own prompts, and each ends with a refit.

    Log-probs take a forward pass of the reference if there is a KL term, and one of the policy for `share_ahead`. An
    update takes three forward passes' work, four in the output layer, whose logits are computed twice. Full
    checkpointing repeats the layers. A pipeline of p stages idles for p − 1 of m + p − 1 micro-batches.
    """
    config = cfg.algorithm
    of_one = config.prompts_per_step * assumed.length * asked_over_trained(cfg, assumed)
    samples = samples_of_engines(cfg, explorer_samples)
    rate = assumed.mfu * gpu.peak * cfg.trainer.devices * cfg.trainer.num_nodes / (1 + idle_stages(cfg, assumed))
    of_layers = 4 if cfg.model.activation_checkpointing == ActivationCheckpointing.full else 3
    logprobs = update = 0.0
    parts = parts_of_step(cfg, explorer_samples)
    for part in parts:
        sequences = config.prompts_per_step * part.samples
        prompts = sequences / responses_of_a_prompt(cfg, assumed, part.samples)
        work = forward_flops(shape, prompts=prompts, prompt=assumed.prompt, responses=sequences, length=assumed.length)
        logprobs += work.whole * (share_ahead(cfg, part.updates) + (config.kl_coef > 0)) / rate
        update += (of_layers * work.layers + 4 * work.output) * config.optimizer_passes / rate
    apart = kind_of(cfg).served and cfg.engine.placement == Placement.separate
    return StepSeconds(
        explorer=sum(of_one * count / per_s for count, per_s in zip(samples, explorer_tokens_per_s, strict=True)),
        learner=of_one * (config.group_size - (explorer_samples if explorers_of(cfg) else 0)) / learner_tokens_per_s,
        logprobs=logprobs,
        update=update,
        refit=len(parts) * shape.parameters * cfg.model.precision.element_bytes / (assumed.refit_gb_s * 1e9),
        at_once=apart and not cfg.rollout.two_updates,
    )


def idle_stages(cfg: Config, assumed: Assumed) -> float:
    """Idle time / busy time of a pipeline: (p − 1) / m. An optimizer step has m micro-batches on one rank."""
    rank_sequences = mini_batch_prompts(cfg) * cfg.algorithm.group_size / data_parallel_size(cfg)
    rows = float(cfg.model.micro_batch_size)
    if cfg.model.micro_batch_tokens is not None:
        shared = responses_of_a_prompt(cfg, assumed)
        rows = cfg.model.micro_batch_tokens / (assumed.length + assumed.prompt / shared)
    return (cfg.model.pipeline_model_parallel_size - 1) / max(1.0, rank_sequences / rows)


def mean_alpha(cfg: Config) -> float:
    """The mean of G_w / G over the run. It is 67/256 for the schedule of the paper, and 0 without an explorer."""
    if not explorers_of(cfg):
        return 0.0
    return sum(split.explorer for split in splits(cfg)) / (cfg.algorithm.steps * cfg.algorithm.group_size)


def saving(rollout_share: float, alpha: float, cost_ratio: float) -> float:
    """Share of the time of a run that the explorer saves: ρ·ᾱ·(1 − c_w/c_s).

    ρ is the share of rollouts in a step of GRPO. c_w/c_s is the cost of a token of the explorer / that of the learner.
    It is 0 for rollouts that are stored and cost nothing.
    """
    return rollout_share * alpha * (1 - cost_ratio)


@dataclass(frozen=True)
class Prediction:
    """The prediction for one kind of GPU. `steps` are those of the run. In the step `grpo` the learner samples all."""

    gpu: Gpu
    learner: Decoding
    explorers: tuple[Decoding, ...]  # of each engine
    steps: tuple[StepSeconds, ...]
    grpo: StepSeconds
    alpha: float
    cost_ratio: float  # c_w / c_s of a mean token of explorers; stored ones cost nothing

    @property
    def rollout_share(self) -> float:
        return self.grpo.rollouts / self.grpo.total

    @property
    def run_saving(self) -> float:
        """Share of the time of a GRPO run that the steps save. It equals `saving` unless the engines sample at once."""
        return 1 - sum(step.total for step in self.steps) / (len(self.steps) * self.grpo.total)


def predict(
    cfg: Config, learner: ModelShape, explorers: Sequence[ModelShape], gpu: Gpu, assumed: Assumed
) -> Prediction:
    """The prediction for a run. `explorers` are those of `memory.explorer_engines`: none for plain GRPO."""
    of_learner, of_explorers = decoding_of_models(cfg, learner, explorers, gpu, assumed)

    def step(explorer_samples: int) -> StepSeconds:
        return step_seconds(
            cfg,
            learner,
            gpu,
            assumed,
            explorer_tokens_per_s=[one.tokens_per_s for one in of_explorers],
            learner_tokens_per_s=of_learner.tokens_per_s,
            explorer_samples=explorer_samples,
        )

    steps = tuple(step(split.explorer) for split in splits(cfg))
    return Prediction(
        gpu, of_learner, of_explorers, steps, step(0), mean_alpha(cfg), _cost_ratio(cfg, of_learner, of_explorers)
    )


def _cost_ratio(cfg: Config, learner: Decoding, explorers: Sequence[Decoding]) -> float:
    """The cost of a token of explorers, averaged over those that they sample in the run, / that of the learner's."""
    counts = [split.explorer for split in splits(cfg) if split.explorer] or [cfg.algorithm.group_size]
    seconds = sum(
        samples / one.tokens_per_s
        for count in counts
        for samples, one in zip(samples_of_engines(cfg, count), explorers, strict=True)
    )
    return seconds * learner.tokens_per_s / sum(counts)
