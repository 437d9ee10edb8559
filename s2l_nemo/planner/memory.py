"""Which bytes are on a GPU in each phase of a step, and the models that they are counted for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from s2l_nemo.algorithm.schedule import SCHEDULES
from s2l_nemo.config.explorers import Explorer, explorers_of
from s2l_nemo.config.parts import data_parallel_size
from s2l_nemo.config.schema import Accelerator, ActivationCheckpointing, Config, ExplorerSource
from s2l_nemo.engines.kinds import ENGINES
from s2l_nemo.engines.options import Placement
from s2l_nemo.errors import UserError
from s2l_nemo.hub.faults import HubUnreachableError
from s2l_nemo.hub.names import Kind, hub_name
from s2l_nemo.models.open import open_model
from s2l_nemo.models.shape import ModelShape, public_shape


class Part(str, Enum):
    """What takes memory."""

    weights = "actor weights"
    gradients = "gradients"
    master = "fp32 master weights"
    optimizer = "optimizer moments"
    activations = "activations"
    logits = "logits of a chunk"
    output_gradient = "gradient of the output layer"
    learner_engine = "learner engine weights"
    explorer_engine = "explorer engine weights"
    kv_cache = "KV cache"
    overhead = "contexts, buffers, graphs (assumed)"
    reference = "reference weights (in host memory)"


LOGITS_OF_A_CHUNK = 2**25  # as CHUNK_ELEMENTS of actor.vocab_parallel, which imports torch
GIB = 2**30
# Of a process on a GPU. None of them is measured: the context, NCCL's buffers with cuBLAS's workspaces, CUDA graphs.
CONTEXT, BUFFERS, GRAPHS = GIB // 2, GIB, GIB // 2
ENGINE_PARTS = {Part.learner_engine, Part.explorer_engine, Part.kv_cache}


class Phase(str, Enum):
    """A time in a step, by what the device does."""

    training = "training"
    generating = "generating"


@dataclass(frozen=True)
class Figures:
    """The shape of a model, None if it is unknown, and a text on where the shape comes from."""

    shape: ModelShape | None
    source: str
    fault: HubUnreachableError | None = None  # why the hub did not say


def figures_of_models(cfg: Config) -> tuple[Figures, list[Figures]]:
    """The learner, and the model of each of `explorer_engines`.

    Raises UserError if a folder holds no model that can be read.
    """
    explorers = [_figures(f"{one.key}.path", str(one.options.path)) for one in explorer_engines(cfg)]
    return _figures("model.path", cfg.model.path), explorers


def live_explorers(cfg: Config) -> list[Explorer]:
    """The explorers that engines hold. There is none if the schedule never uses one."""
    used = SCHEDULES[cfg.algorithm.schedule.name].explores
    return [one for one in explorers_of(cfg) if used and one.options.source is ExplorerSource.live]


def explorer_engines(cfg: Config) -> list[Explorer]:
    """The first explorer of each engine, in their order: explorers with the same path share one."""
    engines: dict[str | None, Explorer] = {}
    for one in live_explorers(cfg):
        engines.setdefault(one.options.path, one)
    return list(engines.values())


def has_engines(cfg: Config) -> bool:
    """Whether anything is sampled: in a replay without validation nothing is."""
    return cfg.rollout.replay is None or cfg.validation.prompts > 0


def explores(cfg: Config) -> bool:
    """Whether the run has an explorer in an engine that its schedule uses."""
    return bool(live_explorers(cfg))


def shapes_of_models(cfg: Config) -> tuple[ModelShape, list[ModelShape]]:
    """The shapes of the models of `figures_of_models`. Raises UserError if one is unknown."""
    learner, explorers = figures_of_models(cfg)
    shapes = [
        _known(f"{one.key}.path", str(one.options.path), figures)
        for one, figures in zip(explorer_engines(cfg), explorers, strict=True)
    ]
    return _known("model.path", cfg.model.path, learner), shapes


def _known(key: str, path: str, figures: Figures) -> ModelShape:
    if figures.shape is None:
        raise figures.fault or UserError(
            f"{key}={path} is not a folder, nor the name of a public model: give a folder, a name of the hub, or one "
            "such as Qwen3-8B-Base"
        )
    return figures.shape


def _figures(key: str, path: str) -> Figures:
    if Path(path).exists():
        shape = open_model(key, path).shape
        return Figures(shape, f"{shape.parameters:,} parameters ({path})")
    public, why, fault = public_shape(path), f"{path} is not a folder", None
    if hub_name(Kind.model, path) is not None:
        try:
            shape = open_model(key, path).shape
            return Figures(shape, f"{shape.parameters:,} parameters ({path} on the hub)")
        except HubUnreachableError as error:
            why, fault = str(error), error
    if public is None:
        return Figures(None, f"unknown ({why})" if fault else f"unknown ({why}, nor the name of a public model)", fault)
    name, shape = public
    return Figures(shape, f"{shape.parameters:,} parameters (public figures of {name}: {why})")


def layout(cfg: Config) -> str:
    """How a model is divided, and in which precision."""
    model = cfg.model
    return (
        f"TP {model.tensor_model_parallel_size} x PP {model.pipeline_model_parallel_size} x DP "
        f"{data_parallel_size(cfg)}, {model.precision.value}"
    )


def memory_by_part(
    cfg: Config, learner: ModelShape, explorers: Sequence[ModelShape], gpu_memory: int | None = None
) -> dict[Part, int]:
    """Bytes of each part on the GPU that holds most.

    Megatron's distributed optimizer divides its states over data-parallel ranks: fp32 moments, and fp32 master weights
    if the model is in bf16. Gradients are fp32. Activations: see `_activation_bytes`. For engines see `_engine_parts`;
    `gpu_memory` is the memory of the GPU in bytes, None if it is unknown.
    """
    size = cfg.model.precision.element_bytes
    trained, tp = _parameters_of_rank(cfg, learner), cfg.model.tensor_model_parallel_size
    targets = cfg.model.micro_batch_tokens or cfg.model.micro_batch_size * cfg.rollout.max_response_length
    logits = min(LOGITS_OF_A_CHUNK, targets * learner.vocab // tp)
    parts = {
        Part.weights: trained * size,
        Part.gradients: trained * 4,
        Part.master: 4 * trained // data_parallel_size(cfg) if size == 2 else 0,
        Part.optimizer: 8 * trained // data_parallel_size(cfg),
        Part.activations: _activation_bytes(cfg, learner, size),
        Part.logits: (8 if size == 4 else 8 + size) * logits,  # with their softmax, in fp32; in bf16 the product, too
        Part.output_gradient: learner.embedding_parameters // tp * size,  # on its way into the fp32 gradients
        **_engine_parts(cfg, learner, explorers, gpu_memory),
        Part.overhead: _overhead(cfg, len(explorers)),
    }
    if cfg.algorithm.kl_coef > 0:
        parts[Part.reference] = trained * size
    return parts


def memory_by_phase(cfg: Config, parts: dict[Part, int]) -> dict[Phase, int]:
    """Bytes on the device in each phase of a step."""
    totals = {}
    for phase in Phase:
        idle = {Part.reference, *_idle_parts(cfg, phase)}
        totals[phase] = sum(count for part, count in parts.items() if part not in idle)
    return totals


def _idle_parts(cfg: Config, phase: Phase) -> set[Part]:
    """The parts that take no device memory in a phase."""
    if phase is Phase.training:
        asleep = ENGINES[cfg.engine.kind].releases_memory_on_sleep
        return ENGINE_PARTS if asleep else {Part.kv_cache}
    idle = {Part.activations, Part.logits, Part.output_gradient}
    if cfg.model.offload_optimizer:  # the moments alone: master weights stay
        idle |= {Part.optimizer}
    if cfg.model.offload_weights:
        idle |= {Part.weights, Part.gradients}
    return idle


def _engine_parts(
    cfg: Config, learner: ModelShape, explorers: Sequence[ModelShape], gpu_memory: int | None
) -> dict[Part, int]:
    """Weights of the engines and their KV cache.

    An engine holds a whole model, or its share of one if it is tensor-parallel. On GPUs of its own it takes nothing
    from the actor. The KV cache is full: every row has the largest length. Some kinds reserve a fraction of what is
    free instead (`reserved_kv`); without `gpu_memory` that is unknown, and the part is left out.
    """
    kind, size = ENGINES[cfg.engine.kind], cfg.model.precision.element_bytes
    if _engines_apart(cfg) or not has_engines(cfg):
        return {Part.learner_engine: 0, Part.explorer_engine: 0, Part.kv_cache: 0}
    parts = {
        Part.learner_engine: engine_weights(cfg, learner),
        Part.explorer_engine: sum(engine_weights(cfg, shape) for shape in explorers),
    }
    if not kind.reserves_kv_memory:
        elements = max(shape.kv_elements_per_token for shape in (learner, *explorers))
        parts[Part.kv_cache] = cfg.rollout.max_batch_rows * longest_sequence(cfg) * elements * size
    elif gpu_memory is not None:
        reserved = reserved_kv(cfg, learner, explorers, gpu_memory)
        parts[Part.kv_cache] = sum(reserved.explorers) + reserved.learner
    return parts


@dataclass(frozen=True)
class ReservedKv:
    """Bytes of KV cache that the engines take on each of their GPUs. An engine that finds nothing free takes 0."""

    explorers: tuple[int, ...]
    learner: int


def reserved_kv(cfg: Config, learner: ModelShape, explorers: Sequence[ModelShape], gpu_memory: int) -> ReservedKv:
    """What engines of a kind that reserves KV memory find when they start: actor first, then explorers, then learner.

    Each takes `engine.memory_fraction` of what is free once its weights are there, and no more than
    `rollout.max_batch_rows` whole sequences need. vLLM takes that fraction of the whole memory, with weights and all,
    whatever its rows need; it does not start if so much is not free (v1/worker/utils.py, `request_memory`). The actor
    has weights, gradients and master weights by then. Moments
    come with the first optimizer step: they are not there yet, and must be offloaded while engines generate.
    """
    apart = _engines_apart(cfg)
    trained, size = _parameters_of_rank(cfg, learner), cfg.model.precision.element_bytes
    of_actor, of_explorer, of_learner = _overheads(cfg)
    actor = of_actor + trained * (size + 4) + (4 * trained // data_parallel_size(cfg) if size == 2 else 0)
    free = of_explorers = gpu_memory - (0 if apart else actor)

    def takes(shape: ModelShape, free: int, overhead: int) -> int:
        kind, whole = ENGINES[cfg.engine.kind], int(cfg.engine.memory_fraction * gpu_memory)
        own = engine_weights(cfg, shape) + overhead
        if kind.fraction_of_whole:
            return max(0, whole - own) if whole <= free else 0
        left = free - own
        bound = cfg.rollout.max_batch_rows * longest_sequence(cfg) * shape.kv_elements_per_token * size
        return max(0, min(int(cfg.engine.memory_fraction * left), bound // gpus_of_engine(cfg)))

    found = []
    for shape in explorers:
        found.append(takes(shape, of_explorers, of_explorer))
        of_explorers -= engine_weights(cfg, shape) + of_explorer + found[-1]
    return ReservedKv(tuple(found), takes(learner, free if apart else of_explorers, of_learner))


def _engines_apart(cfg: Config) -> bool:
    return ENGINES[cfg.engine.kind].served and cfg.engine.placement == Placement.separate


def gpus_of_engine(cfg: Config) -> int:
    """GPUs that one engine uses."""
    return cfg.engine.tensor_parallel_size if ENGINES[cfg.engine.kind].tensor_parallel else 1


def engine_weights(cfg: Config, shape: ModelShape) -> int:
    """Bytes of an engine's weights on one of its GPUs, or in a CPU's memory.

    There some kinds keep those of the layers and the output layer once more, in the form of
    `engines/embedded/products.py`.
    """
    elements = shape.parameters
    if cfg.trainer.accelerator == Accelerator.cpu and ENGINES[cfg.engine.kind].packs_on_cpu:
        elements += shape.layers * shape.layer_parameters + shape.embedding_parameters
    return elements * cfg.model.precision.element_bytes // gpus_of_engine(cfg)


def longest_sequence(cfg: Config) -> int:
    """Tokens of the longest prompt with the longest response."""
    return cfg.rollout.max_prompt_length + cfg.rollout.max_response_length


def _overhead(cfg: Config, explorers: int) -> int:
    """Bytes on a GPU of the actor beside tensors, with those of engines that share it."""
    of_actor, of_explorer, of_learner = _overheads(cfg)
    alone = _engines_apart(cfg) or not has_engines(cfg)
    return of_actor if alone else of_actor + explorers * of_explorer + of_learner


def _overheads(cfg: Config) -> tuple[int, int, int]:
    """Bytes on a GPU beside tensors, of the actor's process, an explorer's and the learner's; asleep as well.

    Embedded engines are in the actor's process. The server of a tensor-parallel learner has a context besides those of
    its workers: it copies the weights of a refit.
    """
    kind = ENGINES[cfg.engine.kind]
    if cfg.trainer.accelerator == Accelerator.cpu:
        return 0, 0, 0
    of_process = CONTEXT + BUFFERS
    if not kind.served:
        return of_process, 0, 0
    of_engine = of_process + (GRAPHS if kind.reserves_kv_memory else 0)
    of_learner = of_engine + (CONTEXT if kind.server_has_context else 0)
    return of_process, of_engine, of_learner


class HostPart(str, Enum):
    """What takes memory of a node."""

    moments = "optimizer moments, offloaded"
    weights = "actor weights, offloaded (pinned, rounded to powers of two)"
    engines = "weights of sleeping engines (pinned)"
    reference = "reference weights"


def host_memory_by_part(cfg: Config, learner: ModelShape, explorers: Sequence[ModelShape]) -> dict[HostPart, int]:
    """Bytes of a node's host memory at most, without the processes' own.

    torch's allocator of pinned memory rounds each block up to a power of two, and the weights of a rank are one block.
    TensorRT-LLM 1.2 copies the weights of all engines to pinned memory when they sleep, those of the learner too,
    which a refit then replaces. vLLM discards those of the learner (sleep level 2).
    """
    ranks, size = cfg.trainer.devices, cfg.model.precision.element_bytes
    trained = _parameters_of_rank(cfg, learner)
    parts = {}
    if cfg.model.offload_optimizer:
        parts[HostPart.moments] = ranks * (8 * trained // data_parallel_size(cfg))
    if cfg.model.offload_weights:
        parts[HostPart.weights] = ranks * power_of_two(trained * size)
    kind = ENGINES[cfg.engine.kind]
    if kind.releases_memory_on_sleep and not _engines_apart(cfg):
        asleep = explorers if kind.discards_when_asleep else (learner, *explorers)
        of_gpu = sum(engine_weights(cfg, shape) for shape in asleep)
        parts[HostPart.engines] = cfg.engine.replicas_per_node * gpus_of_engine(cfg) * of_gpu
    if cfg.algorithm.kl_coef > 0:
        parts[HostPart.reference] = ranks * trained * size
    return parts


def power_of_two(count: int) -> int:
    """The smallest power of two that is at least `count`."""
    return 1 << (count - 1).bit_length()


def _parameters_of_rank(cfg: Config, shape: ModelShape) -> int:
    """Parameters of the fullest rank.

    The first pipeline stage holds the embedding and the last one the output layer. A single stage holds both, which are
    one matrix if they are tied.
    """
    tp, pp = cfg.model.tensor_model_parallel_size, cfg.model.pipeline_model_parallel_size
    matrices = 1 if pp > 1 or shape.tied else 2
    return (shape.layers // pp * shape.layer_parameters + matrices * shape.embedding_parameters) // tp


def _activation_bytes(cfg: Config, shape: ModelShape, size: int) -> int:
    """Bytes of the tensors that are kept for the backward pass.

    Attention is fused (no T x T scores), with sequence parallelism. For each token a layer keeps about 4 hidden widths
    (two residuals, two norms), 3 query widths (before and after the norm, attention output), 3 key-value widths and 3
    feed-forward widths. The first stage has layers / stages layers and keeps as many micro-batches as there are stages.
    So it keeps as much as all layers keep of one micro-batch. Full checkpointing keeps one hidden width for each layer,
    and all of one layer, which is being recomputed.
    """
    layer = 4 * shape.hidden + 3 * shape.query + 3 * shape.kv + 3 * shape.ffn
    if cfg.model.activation_checkpointing == ActivationCheckpointing.full:
        widths = shape.layers * shape.hidden + layer
    else:
        widths = shape.layers * layer
    return _tokens_of_micro_batch(cfg) * widths * size // cfg.model.tensor_model_parallel_size


def _tokens_of_micro_batch(cfg: Config) -> int:
    """Tokens of the longest one: rows of the largest length, and their prompts once for the rows of a group."""
    if cfg.model.micro_batch_tokens is not None:
        return max(longest_sequence(cfg), cfg.model.micro_batch_tokens)  # a row is never cut
    rows = cfg.model.micro_batch_size
    prompts = -(-rows // cfg.algorithm.group_size)
    return rows * cfg.rollout.max_response_length + prompts * cfg.rollout.max_prompt_length
