"""How fast each phase goes: from data sheets here, from a measured run in `calibration`."""

from __future__ import annotations

from dataclasses import dataclass

from s2l_nemo.config.schema import ActivationCheckpointing, Config
from s2l_nemo.engines.kinds import ENGINES
from s2l_nemo.engines.options import Placement
from s2l_nemo.models.flops import flops_of
from s2l_nemo.models.shape import ModelShape
from s2l_nemo.planner.cost import Assumed, Gpu, SchedulerPolicy, idle_stages, kind_of, kv_bytes_per_token
from s2l_nemo.planner.memory import Part, gpus_of_engine, longest_sequence, memory_by_part, reserved_kv


@dataclass(frozen=True)
class DecodingRate:
    """One engine of a model.

    A decoding step reads the weights and the KV cache of all rows once, as in `cost.seconds_per_token`, and takes
    `step_s` besides. A prompt is computed at `prefill_flop_s`, and decoding waits meanwhile.
    """

    shape: ModelShape
    weights: float  # bytes
    kv: float  # bytes of a token
    bytes_per_s: float
    prefill_flop_s: float
    step_s: float = 0.0

    def decoding_bytes(self, steps: int, rows: int, context: int) -> float:
        """Bytes that `steps` decoding steps of `rows` rows read, whose contexts have `context` tokens at the start."""
        return steps * self.weights + self.kv * (steps * context + rows * steps * (steps - 1) / 2)

    def prefill_flops(self, tokens: int) -> float:
        """FLOP of one prompt in the layers; the output layer sees one token of it, which is not counted."""
        return flops_of(self.shape, tokens=tokens, pairs=tokens**2 / 2, targets=0).layers

    def seconds(self, steps: int, read: float, prefilled: float) -> float:
        """Of `steps` decoding steps that read `read` bytes, and of `prefilled` FLOP of prompts."""
        return steps * self.step_s + read / self.bytes_per_s + prefilled / self.prefill_flop_s


@dataclass(frozen=True)
class Room:
    """What an engine can hold: rows that decode together, and tokens of KV cache (None: enough for all rows)."""

    rows: int
    tokens: int | None = None


@dataclass(frozen=True)
class Rates:
    """Of all phases. A FLOP rate is that of one replica of the actor, whose pipeline's idle stages it includes."""

    learner: DecodingRate
    explorer: DecodingRate | None
    logprob_flop_s: float
    update_flop_s: float
    refit_s: float
    exchange_bytes_s: float  # into or out of one rank
    grades_per_s: float  # of one rank
    wake_s: float = 0.0
    sleep_s: float = 0.0
    outside_s: float = 0.0  # what the phases of a step leave out


@dataclass(frozen=True)
class Links:
    """What the planner's formulas do not know: GB/s between ranks and to host memory, answers a second of a rank."""

    exchange_gb_s: float
    host_gb_s: float
    grades_per_s: float


def data_sheet_rates(
    cfg: Config, learner: ModelShape, explorer: ModelShape | None, gpu: Gpu, assumed: Assumed, links: Links
) -> Rates:
    """The rates of the planner's formulas (docs/planner.md)."""

    def decoding(shape: ModelShape) -> DecodingRate:
        size = cfg.model.precision.element_bytes
        return DecodingRate(
            shape=shape,
            weights=shape.parameters * size,
            kv=kv_bytes_per_token(shape, size),
            bytes_per_s=assumed.bandwidth * gpu.bandwidth * gpus_of_engine(cfg),
            prefill_flop_s=assumed.mfu * gpu.peak * gpus_of_engine(cfg),
        )

    of_replica = cfg.model.tensor_model_parallel_size * cfg.model.pipeline_model_parallel_size
    flop_s = assumed.mfu * gpu.peak * of_replica / (1 + idle_stages(cfg, assumed))
    wake, sleep = moved_bytes(cfg, learner, explorer, gpu)
    return Rates(
        learner=decoding(learner),
        explorer=decoding(explorer) if explorer else None,
        logprob_flop_s=flop_s,
        update_flop_s=flop_s,
        refit_s=learner.parameters * cfg.model.precision.element_bytes / (assumed.refit_gb_s * 1e9),
        exchange_bytes_s=links.exchange_gb_s * 1e9,
        grades_per_s=links.grades_per_s,
        wake_s=wake / (links.host_gb_s * 1e9),
        sleep_s=sleep / (links.host_gb_s * 1e9),
    )


def moved_bytes(cfg: Config, learner: ModelShape, explorer: ModelShape | None, gpu: Gpu) -> tuple[float, float]:
    """Bytes that one GPU copies to or from host memory when its engines wake up, and when they go to sleep.

    Engines whose kind sleeps copy their weights (TensorRT-LLM 1.2 keeps them in host memory). The actor gives away its
    optimizer moments and weights, as far as they are offloaded, and takes them back.
    """
    if apart(cfg):
        return 0.0, 0.0
    parts = memory_by_part(cfg, learner, [explorer] if explorer else [], gpu.memory)
    moved = 0
    if ENGINES[cfg.engine.kind].releases_memory_on_sleep:
        moved += parts[Part.learner_engine] + parts[Part.explorer_engine]
    if cfg.model.offload_optimizer:
        moved += parts[Part.optimizer]
    if cfg.model.offload_weights:
        moved += parts[Part.weights]
    return float(moved), float(moved)


def rooms(
    cfg: Config, learner: ModelShape, explorer: ModelShape | None, gpu: Gpu, assumed: Assumed
) -> tuple[Room, Room | None]:
    """What an engine of learner and of explorer holds: `rollout.max_batch_rows`, and its KV cache if it reserves one.

    With the policy `no_evict` a row needs room for the longest prompt and answer. Where not even one row fits, one is
    counted, as in the planner.
    """
    if not kind_of(cfg).reserves_kv_memory:
        room = Room(cfg.rollout.max_batch_rows)
        return room, room if explorer else None
    reserved = reserved_kv(cfg, learner, [explorer] if explorer else [], gpu.memory)

    def of(shape: ModelShape, kv_bytes: int) -> Room:
        tokens = kv_bytes * gpus_of_engine(cfg) // kv_bytes_per_token(shape, cfg.model.precision.element_bytes)
        if assumed.policy is SchedulerPolicy.no_evict:
            return Room(max(1, min(cfg.rollout.max_batch_rows, tokens // longest_sequence(cfg))))
        return Room(cfg.rollout.max_batch_rows, tokens)

    return of(learner, reserved.learner), of(explorer, *reserved.explorers) if explorer else None


def apart(cfg: Config) -> bool:
    """Whether engines have GPUs of their own."""
    return kind_of(cfg).served and cfg.engine.placement == Placement.separate


def update_passes(cfg: Config) -> tuple[int, int]:
    """Forward passes' work of an update, in the layers and in the output layer, as in `cost.step_seconds`."""
    return (4 if cfg.model.activation_checkpointing == ActivationCheckpointing.full else 3), 4
