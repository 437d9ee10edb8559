"""Folders of runs, as the trainer writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from s2l_nemo.config.load import load_config, resolved_yaml
from s2l_nemo.records.dump import rollout_table, write_rollouts
from s2l_nemo.types import Completion, Group, Prompt, Source
from tests.arrays import ids, lps
from tests.planner.simulation.world import CONF

TINY = ("model.path=Qwen3-1.7B", "explorer.path=Qwen3-0.6B", "trainer.devices=2", "algorithm.prompts_per_step=4",
        "algorithm.group_size=2", "model.micro_batch_size=4")  # fmt: skip


def write_step(folder: Path, step: int, lengths: Sequence[Sequence[int]], explorer: int) -> None:
    """The rollouts of one step: groups of these lengths, the explorer's answers first."""
    tables = []
    for prompt_id, of_group in enumerate(lengths):
        completions = tuple(
            Completion(
                prompt_id,
                sample,
                Source.EXPLORER if sample < explorer else Source.LEARNER,
                ids([5] * length),
                lps([-1.0] * length),
                "stop",
                step - 1,
                1.0,
            )
            for sample, length in enumerate(of_group)
        )
        group = Group(Prompt(prompt_id, "?", "!", (1, 2)), completions)
        tables.append(rollout_table(step, group, [0.0] * len(of_group), decode=lambda _: "text"))
    write_rollouts(folder / "rollouts" / f"step_{step:06d}.parquet", tables)


def write_run(
    folder: Path, seconds: Mapping[int, Mapping[str, float | None]], explorers: Mapping[int, int], *overrides: str
) -> Path:
    """A run of 4 prompts x G 2 on 2 ranks; seconds of the phases of each step by name, without `time/`."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(resolved_yaml(load_config([*TINY, *overrides], CONF)))
    lines = [{"step": step, **{f"time/{name}": value for name, value in its.items()}} for step, its in seconds.items()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step, explorer in explorers.items():
        write_step(folder, step, [[3 + step, 5], [4, 6 + step], [7, 8], [9, 2]], explorer)
    return folder


def phases(explorer: float | None, learner: float | None, step: float = 9.0) -> dict[str, float | None]:
    """Seconds of a step; 1 of it is outside of all phases if it takes 9 and the rollouts 2."""
    rollout = (explorer or 0.0) + (learner or 0.0)
    return {
        "rollout": rollout, "rollout_explorer": explorer, "rollout_learner": learner, "exchange": 0.5, "reward": 0.5,
        "explorer_filter": None, "logprobs": 1.0, "update": 3.0, "refit": 1.0, "step": step,
    }  # fmt: skip


SECONDS = {
    1: phases(5.0, None, 30.0), 2: phases(1.0, 1.0), 3: phases(None, 2.0), 4: phases(1.0, 1.0), 5: phases(None, 2.0),
    6: phases(1.0, 1.0),
}  # fmt: skip
EXPLORERS = {1: 2, 2: 1, 3: 0, 4: 1, 5: 0, 6: 1}
