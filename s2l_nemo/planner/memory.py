"""Which bytes are on a GPU in each phase of a step, and the models that they are counted for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from s2l_nemo.algorithm.schedule import SCHEDULES
from s2l_nemo.config.checks import data_parallel_size
from s2l_nemo.config.schema import ActivationCheckpointing, Config
from s2l_nemo.engines.kinds import ENGINES
from s2l_nemo.engines.options import Placement
from s2l_nemo.models.open import open_model
from s2l_nemo.models.shape import ModelShape, public_shape


class Part(str, Enum):
    """What takes memory."""

    weights = "actor weights"
    gradients = "gradients"
    optimizer = "optimizer states"
    activations = "activations"
    logits = "logits of a chunk"
    learner_engine = "learner engine weights"
    explorer_engine = "explorer engine weights"
    kv_cache = "KV cache"
    reference = "reference weights (in host memory)"


LOGITS_OF_A_CHUNK = 2**25  # as CHUNK_ELEMENTS of actor.vocab_parallel, which imports torch
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


def figures_of_models(cfg: Config) -> tuple[Figures, Figures | None]:
    """Learner and explorer. There is no explorer if the schedule never uses it.

    Raises UserError if a folder holds no model that can be read.
    """
    learner = _figures("model.path", cfg.model.path)
    if cfg.explorer.path is None or not SCHEDULES[cfg.algorithm.schedule.name].explores:
        return learner, None
    return learner, _figures("explorer.path", cfg.explorer.path)


def _figures(key: str, path: str) -> Figures:
    if Path(path).exists():
        shape = open_model(key, path).shape
        return Figures(shape, f"{shape.parameters:,} parameters ({path})")
    public = public_shape(path)
    if public is None:
        return Figures(None, f"unknown ({path} is not a folder, nor the name of a public model)")
    name, shape = public
    return Figures(shape, f"{shape.parameters:,} parameters (public figures of {name}: {path} is not a folder)")


def layout(cfg: Config) -> str:
    """How a model is divided, and in which precision."""
    model = cfg.model
    return (
        f"TP {model.tensor_model_parallel_size} x PP {model.pipeline_model_parallel_size} x DP "
        f"{data_parallel_size(cfg)}, {model.precision.value}"
    )


def memory_by_part(
    cfg: Config, learner: ModelShape, explorer: ModelShape | None, gpu_memory: int | None = None
) -> dict[Part, int]:
    """Bytes of each part on the GPU that holds most.

    Megatron's distributed optimizer divides its states over data-parallel ranks. They are fp32 moments, and fp32
    weights if the model is in bf16. Gradients are fp32. Activations: see `_activation_bytes`. For engines see
    `_engine_parts`; `gpu_memory` is the memory of the GPU in bytes, None if it is unknown.
    """
    size = cfg.model.precision.element_bytes
    trained = _parameters_of_rank(cfg, learner)
    states = (12 if size == 2 else 8) * trained // data_parallel_size(cfg)
    targets = cfg.model.micro_batch_tokens or cfg.model.micro_batch_size * cfg.rollout.max_response_length
    logits = min(LOGITS_OF_A_CHUNK, targets * learner.vocab // cfg.model.tensor_model_parallel_size)
    parts = {
        Part.weights: trained * size,
        Part.gradients: trained * 4,
        Part.optimizer: states,
        Part.activations: _activation_bytes(cfg, learner, size),
        Part.logits: (8 if size == 4 else 8 + size) * logits,  # with their softmax, in fp32; in bf16 the product, too
        **_engine_parts(cfg, learner, explorer, gpu_memory),
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
    idle = {Part.activations, Part.logits}
    if cfg.model.offload_optimizer:
        idle |= {Part.optimizer}
    if cfg.model.offload_weights:
        idle |= {Part.weights, Part.gradients}
    return idle


def _engine_parts(
    cfg: Config, learner: ModelShape, explorer: ModelShape | None, gpu_memory: int | None
) -> dict[Part, int]:
    """Weights of the engines and their KV cache.

    An engine holds a whole model, or its share of one if it is tensor-parallel. On GPUs of its own it takes nothing
    from the actor. The KV cache is full: every row has the largest length. Some kinds reserve a fraction of the GPU
    for it instead; without `gpu_memory` that fraction is unknown, and the part is left out.
    """
    kind, size = ENGINES[cfg.engine.kind], cfg.model.precision.element_bytes
    if kind.served and cfg.engine.placement == Placement.separate:
        return {Part.learner_engine: 0, Part.explorer_engine: 0, Part.kv_cache: 0}
    gpus = cfg.engine.tensor_parallel_size if kind.tensor_parallel else 1
    parts = {
        Part.learner_engine: learner.parameters * size // gpus,
        Part.explorer_engine: explorer.parameters * size // gpus if explorer else 0,
    }
    if not kind.reserves_kv_memory:
        T = cfg.rollout.max_prompt_length + cfg.rollout.max_response_length
        elements = max(shape.kv_elements_per_token for shape in (learner, explorer) if shape)
        parts[Part.kv_cache] = cfg.rollout.max_batch_rows * T * elements * size
    elif gpu_memory is not None:
        parts[Part.kv_cache] = int((2 if explorer else 1) * cfg.engine.memory_fraction * gpu_memory)
    return parts


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
    longest = cfg.rollout.max_prompt_length + cfg.rollout.max_response_length
    if cfg.model.micro_batch_tokens is not None:
        return max(longest, cfg.model.micro_batch_tokens)  # a row is never cut
    rows = cfg.model.micro_batch_size
    prompts = -(-rows // cfg.algorithm.group_size)
    return rows * cfg.rollout.max_response_length + prompts * cfg.rollout.max_prompt_length
