"""What a run has spent so far, the same on every rank: prompts, tokens, FLOP and seconds of engines.

FLOP are the work that the run's models have to do (`models.flops`): a sampled answer is a forward pass, a row of an
update three of them, and one more for log-probs of the reference, and of the learner if they are computed ahead. A
prompt counts once for its answers in the same call or update. Nothing counts twice because it is computed again.
Rollouts from a store cost this run nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from s2l_nemo.models.flops import UPDATE_PASSES, group_flops
from s2l_nemo.models.shape import ModelShape
from s2l_nemo.trainer.clock import Clock
from s2l_nemo.trainer.exchange import StepGroups
from s2l_nemo.trainer.progress import Progress
from s2l_nemo.types import Prompt, Source, TrainBatch

Shapes = Mapping[int, ModelShape]  # of the models that sample in this run, by source; stored rollouts have none

MODELS = ("explorer", "learner", "trained")  # whose tokens and FLOP are counted apart
NAMES = (
    "prompts",
    *(f"tokens_{name}" for name in MODELS),
    *(f"flops_{name}" for name in MODELS),
    "seconds_explorer",
    "seconds_learner",
)


def count_sampled(
    progress: Progress, prompts: Sequence[Prompt], groups: StepGroups, shapes: Shapes, first: int = 0
) -> None:
    """Adds the answers of these groups from sample `first` on, whether they will be trained on or not."""
    for prompt, sources, lengths in zip(
        prompts, groups.source_PG[:, first:].tolist(), groups.length_PG[:, first:].tolist(), strict=True
    ):
        for source in sorted(set(sources)):
            name = "learner" if source == Source.LEARNER else "explorer"
            its = [length for sampler, length in zip(sources, lengths, strict=True) if sampler == source]
            progress.add(f"tokens_{name}", sum(its))
            if source in shapes:
                progress.add(f"flops_{name}", group_flops(shapes[source], len(prompt.token_ids), its).whole)


def rows_flops(shape: ModelShape, rows: TrainBatch) -> float:
    """FLOP of a forward pass over these rows."""
    lengths: dict[tuple[int, int], list[int]] = {}  # of responses, by prompt and its tokens
    columns = (rows.prompt_id_B.tolist(), rows.prompt_length_B.tolist(), rows.length_B.tolist())
    for prompt_id, prompt, length in zip(*columns, strict=True):
        lengths.setdefault((prompt_id, prompt), []).append(length - prompt)
    return sum(group_flops(shape, prompt, its).whole for (_, prompt), its in lengths.items())


def count_updates(progress: Progress, updates: Sequence[tuple[TrainBatch, float]], passes: int) -> None:
    """Adds the updates of a step: the rows of each, with their log-probs, and FLOP of a forward pass of all ranks."""
    for rows, forward in updates:
        ahead = (rows.old_logprobs_BS is not None) + (rows.ref_logprobs_BS is not None)
        progress.add("flops_trained", (UPDATE_PASSES * passes + ahead) * forward)


def totals(progress: Progress, asked: int, trained_tokens: float, clock: Clock) -> dict[str, float | int | None]:
    """Adds what else this step took, and returns the totals of the run.

    `asked` prompts, `trained_tokens` (once a pass), and wall seconds in which each engine sampled, with what an
    explorer sampled ahead of time. `total/flops` is the sum of those by model.
    """
    seconds = clock.seconds
    progress.add("prompts", asked)
    progress.add("tokens_trained", trained_tokens)
    progress.add("seconds_explorer", seconds.get("rollout_explorer", 0.0) + seconds.get("explorer_ahead", 0.0))
    progress.add("seconds_learner", seconds.get("rollout_learner", 0.0))
    spent = {name: progress.totals.get(name, 0.0) for name in NAMES}
    flops = sum(spent[f"flops_{name}"] for name in MODELS)
    return {f"total/{name}": amount for name, amount in (*spent.items(), ("flops", flops))}
