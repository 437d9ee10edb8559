"""What a run will do and need, as text, from the configuration and config.json alone (`run.dry_run=true`)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from s2l_nemo.algorithm.schedule import SCHEDULES, Split, make_schedule
from s2l_nemo.config.checks import data_parallel_size, mini_batch_prompts
from s2l_nemo.config.load import resolved_yaml
from s2l_nemo.config.schema import ActivationCheckpointing, Config
from s2l_nemo.models.open import open_model
from s2l_nemo.models.shape import ModelShape, public_shape

# Parts that take no device memory in each phase of a step.
_IDLE_PARTS = {
    "training": ("KV cache", "reference weights (in host memory)"),
    "generating": ("activations", "logits and their gradient", "reference weights (in host memory)"),
}


def render_plan(cfg: Config) -> str:
    """Resolved configuration, schedule, tokens of a step, and parameters and memory of one rank by part.

    `cfg` has passed `check_config`. A model folder that is not there is replaced by public figures of the same name,
    and the text says so; otherwise its figures are "unknown".
    """
    parts = [
        ("Configuration", resolved_yaml(cfg).rstrip()),
        ("Schedule", _table(_schedule_rows(cfg))),
        ("Tokens", _table(_token_rows(cfg))),
        ("Memory of one rank (estimate)", _memory_text(cfg)),
    ]
    return "\n\n".join(f"{title}\n{'-' * len(title)}\n{body}" for title, body in parts) + "\n"


def splits(cfg: Config) -> list[Split]:
    """The split of every step of the run."""
    name, steps = cfg.algorithm.schedule.name, cfg.algorithm.steps
    schedule = make_schedule(name, steps=steps, t_mix=cfg.algorithm.schedule.t_mix, alpha=cfg.algorithm.schedule.alpha)
    return [schedule(step, cfg.algorithm.group_size) for step in range(1, steps + 1)]


def memory_of_rank(cfg: Config, learner: ModelShape, explorer: ModelShape | None) -> dict[str, int]:
    """Bytes by part on the rank that holds most.

    Megatron's distributed optimizer keeps its states divided over data-parallel ranks: fp32 moments, and fp32 weights
    too where the model is in bf16. Gradients are fp32. Activations are those of the sequences in flight (see
    `_activation_bytes`). Engines hold whole models, and the KV cache is full: every row at its longest.
    """
    size = cfg.model.precision.element_bytes
    trained = _parameters_of_rank(cfg, learner)
    states = (12 if size == 2 else 8) * trained // data_parallel_size(cfg)
    T = cfg.rollout.max_prompt_length + cfg.rollout.max_response_length
    kv_elements = max(shape.kv_elements_per_token for shape in (learner, explorer) if shape)
    logits = cfg.model.micro_batch_size * T * learner.vocab // cfg.model.tensor_model_parallel_size
    parts = {
        "actor weights": trained * size,
        "gradients": trained * 4,
        "optimizer states": states,
        "activations": _activation_bytes(cfg, learner, size, T),
        "logits and their gradient": 2 * 4 * logits,
        "learner engine weights": learner.parameters * size,
        "explorer engine weights": explorer.parameters * size if explorer else 0,
        "KV cache": cfg.rollout.max_batch_rows * T * kv_elements * size,
    }
    if cfg.algorithm.kl_coef > 0:
        parts["reference weights (in host memory)"] = trained * size
    return parts


def on_device(cfg: Config, parts: dict[str, int]) -> dict[str, int]:
    """Bytes of those parts that take device memory, in each phase of a step."""
    totals = {}
    for phase, idle in _IDLE_PARTS.items():
        if phase == "generating" and cfg.model.offload_optimizer:
            idle = (*idle, "optimizer states")
        if phase == "generating" and cfg.model.offload_weights:
            idle = (*idle, "actor weights", "gradients")
        totals[phase] = sum(count for part, count in parts.items() if part not in idle)
    return totals


def _parameters_of_rank(cfg: Config, shape: ModelShape) -> int:
    """The first pipeline stage holds the embedding, the last the output layer; one stage both, once if tied."""
    tp, pp = cfg.model.tensor_model_parallel_size, cfg.model.pipeline_model_parallel_size
    matrices = 1 if pp > 1 or shape.tied else 2
    return (shape.layers // pp * shape.layer_parameters + matrices * shape.embedding_parameters) // tp


def _activation_bytes(cfg: Config, shape: ModelShape, size: int, T: int) -> int:
    """Tensors kept for the backward pass, with fused attention (no T x T scores) and sequence parallelism.

    A layer keeps about 4 hidden (two residuals, two norms), 3 query (before and after the norm, attention output),
    3 key-value and 3 feed-forward widths a token. The first stage keeps as many micro-batches as there are stages,
    each over layers / stages: together all layers of one. Full checkpointing keeps one hidden width a layer, and one
    layer while it is recomputed.
    """
    layer = 4 * shape.hidden + 3 * shape.query + 3 * shape.kv + 3 * shape.ffn
    if cfg.model.activation_checkpointing == ActivationCheckpointing.full:
        widths = shape.layers * shape.hidden + layer
    else:
        widths = shape.layers * layer
    return cfg.model.micro_batch_size * T * widths * size // cfg.model.tensor_model_parallel_size


def _schedule_rows(cfg: Config) -> Iterator[tuple[str, ...]]:
    yield "steps", "alpha", "G_w explorer", "G_s learner", "explorer rollouts", "learner rollouts"
    prompts = cfg.algorithm.prompts_per_step
    all_splits = splits(cfg)
    for (alpha, explorer, learner), run in groupby(all_splits, key=lambda s: (s.alpha, s.explorer, s.learner)):
        steps = [split.step for split in run]
        span = str(steps[0]) if len(steps) == 1 else f"{steps[0]}-{steps[-1]}"
        yield span, f"{alpha:.3f}", f"{explorer}", f"{learner}", f"{prompts * explorer:,}", f"{prompts * learner:,}"
    share = sum(split.explorer for split in all_splits) / (len(all_splits) * cfg.algorithm.group_size)
    yield "mean", f"{share:.3f}", "", "", "", ""


def _token_rows(cfg: Config) -> Iterator[tuple[str, ...]]:
    algorithm, rollout = cfg.algorithm, cfg.rollout
    sequences = algorithm.prompts_per_step * algorithm.group_size
    whole = rollout.max_prompt_length + rollout.max_response_length
    updates = algorithm.prompts_per_step // mini_batch_prompts(cfg) * algorithm.optimizer_passes
    rank_sequences = mini_batch_prompts(cfg) * algorithm.group_size // data_parallel_size(cfg)
    yield "", "one step", "whole run"
    for name, count in (
        ("sequences", sequences),
        ("generated tokens, at most", sequences * rollout.max_response_length),
        ("trained tokens with prompts, at most", sequences * whole * algorithm.optimizer_passes),
        ("optimizer steps", updates),
    ):
        yield name, f"{count:,}", f"{count * algorithm.steps:,}"
    yield "micro-batches of an optimizer step on one rank", f"{rank_sequences // cfg.model.micro_batch_size:,}", ""


def _memory_text(cfg: Config) -> str:
    tp, pp = cfg.model.tensor_model_parallel_size, cfg.model.pipeline_model_parallel_size
    lines = [f"TP {tp} x PP {pp} x DP {data_parallel_size(cfg)}, {cfg.model.precision.value}"]
    learner, source = find_shape("model.path", cfg.model.path)
    lines.append(f"learner: {source}")
    explorer = None
    if cfg.explorer.path is not None and SCHEDULES[cfg.algorithm.schedule.name].explores:
        explorer, source = find_shape("explorer.path", cfg.explorer.path)
        lines.append(f"explorer: {source}")
        if explorer is None:
            return "\n".join([*lines, "memory: unknown"])
    if learner is None:
        return "\n".join([*lines, "memory: unknown"])
    parts = memory_of_rank(cfg, learner, explorer)
    rows = [(name, _bytes(count)) for name, count in parts.items()]
    rows += [(f"on the device while {phase}", _bytes(total)) for phase, total in on_device(cfg, parts).items()]
    return "\n".join([*lines, _table(iter(rows))])


def find_shape(key: str, path: str) -> tuple[ModelShape | None, str]:
    """Figures of the model at `path`, and a sentence that says where they come from."""
    if Path(path).exists():
        shape = open_model(key, path).shape
        return shape, f"{shape.parameters:,} parameters ({path})"
    public = public_shape(path)
    if public is None:
        return None, f"unknown ({path} is not a folder, nor the name of a public model)"
    name, shape = public
    return shape, f"{shape.parameters:,} parameters (public figures of {name}: {path} is not a folder)"


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 2**10:,.1f} KiB"


def _table(rows: Iterator[tuple[str, ...]]) -> str:
    """First column to the left, all others to the right."""
    cells = list(rows)
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in cells
    )
