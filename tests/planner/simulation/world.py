"""Small engines, answers and configurations whose times can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from s2l_nemo.config.load import load_config
from s2l_nemo.config.schema import Config
from s2l_nemo.models.shape import ModelShape
from s2l_nemo.planner.cost import Assumed
from s2l_nemo.planner.simulation.engine import Replica
from s2l_nemo.planner.simulation.lengths import Answer, Distribution, Lengths, Model, NamedLengths
from s2l_nemo.planner.simulation.rates import DecodingRate, Rates, Room
from s2l_nemo.planner.simulation.rollout import Dispatch, Slot, play
from s2l_nemo.planner.simulation.step import Run
from s2l_nemo.planner.simulation.timeline import Timeline

CONF = Path(__file__).parents[3] / "conf"
# h 4, 2 layers, q 6, kv 3, ffn 5, V 10
SHAPE = ModelShape("qwen3", 10, 4, 2, 2, 1, 3, 5, 8, False, 1e6, 1e-6)
FREE = float("inf")
E, L = Model.explorer, Model.learner


def rate(weights: float = 1.0, kv: float = 0.0, prefill_flop_s: float = FREE) -> DecodingRate:
    """One byte a second: a decoding step takes `weights` + `kv` · context seconds."""
    return DecodingRate(SHAPE, weights, kv, 1.0, prefill_flop_s)


def answers(lengths: Sequence[int], prompt: int = 1, model: Model = L, of_prompt: int = 1) -> list[Answer]:
    """Answers of these lengths, `of_prompt` to each prompt."""
    return [Answer(n // of_prompt, n % of_prompt, model, prompt, length) for n, length in enumerate(lengths)]


def sampled(
    lengths: Sequence[int],
    replicas: int,
    rows: int = 1,
    dispatch: Dispatch = Dispatch.share,
    chunk: int = 2,
    of: DecodingRate | None = None,
    slowness: float = 1.0,
) -> tuple[float, list[int], Timeline]:
    """When the last answer ends, the replica that has sampled each, and what the devices did. One device a replica.

    The first one is slow.
    """
    timeline, requests = Timeline(replicas), answers(lengths)
    slots = [Slot([n], {L: Replica(of or rate(), Room(rows))}, slowness if n == 0 else 1.0) for n in range(replicas)]
    end, sampler = play(slots, {L: requests}, dispatch=dispatch, chunk=chunk, start=0.0, timeline=timeline)
    return end, [sampler[one.prompt_id, one.sample_id] for one in requests], timeline


def config(*overrides: str) -> Config:
    """8 prompts x G 4 on 4 ranks with embedded engines."""
    few = ("algorithm.prompts_per_step=8", "algorithm.group_size=4", "trainer.devices=4", "model.micro_batch_size=4")
    return load_config([*few, *overrides], CONF)


SEPARATE = (
    "engine.kind=vllm", "engine.placement=separate", "engine.explorer_devices=\"4,5\"",
    "engine.learner_devices=\"6,7\"", "engine.replicas_per_node=2",
)  # fmt: skip


def rates(**changes: float) -> Rates:
    """All phases take seconds."""
    return Rates(
        learner=rate(2.0, 0.01),
        explorer=rate(1.0, 0.01),
        logprob_flop_s=changes.get("logprob_flop_s", 1e5),
        update_flop_s=changes.get("update_flop_s", 5e4),
        refit_s=changes.get("refit_s", 3.0),
        exchange_bytes_s=changes.get("exchange_bytes_s", 500.0),
        grades_per_s=changes.get("grades_per_s", 4.0),
        outside_s=changes.get("outside_s", 0.25),
    )


def run(
    cfg: Config, explorer: int = 2, lengths: Lengths | None = None, rows: int = 3, spare: int = 0, **changes: float
) -> Run:
    room = Room(rows)
    drawn = lengths or NamedLengths(Distribution.lognormal, 20, 15, 0.5, 3, 60)
    return Run(cfg, SHAPE, rates(**changes), (room, room), Assumed(20, 3, 1.0, 1.0, 1.0), drawn, explorer, spare)
