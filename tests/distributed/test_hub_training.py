"""A run whose models and data are names of the hub: its commits are recorded, and the ones that it goes on with."""

from __future__ import annotations

import json
from pathlib import Path

from tests.commands import run_process
from tests.distributed.models import write_qwen3
from tests.hub.stand_in import StandIn, serving

SMALL = [
    "algorithm.prompts_per_step=2", "algorithm.group_size=2", "model.micro_batch_size=2", "trainer.devices=2",
    "rollout.max_prompt_length=40", "rollout.max_response_length=8", "validation.prompts=2", "validation.samples=1",
    "run.save_nemo=false", "rewards.workers=1", "algorithm.schedule.t_mix=1",
]  # fmt: skip
NAMED = [
    "model.path=me/learner", "explorer.path=me/explorer", "data.path=me/data", "data.valid_path=me/data:test",
]  # fmt: skip


def test_a_run_from_names_goes_on_with_the_commits_that_it_began_with(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"prompt": f"1+{n}?", "answer": str(n + 1)}) + "\n" for n in range(8)).encode()
    environment = {"HF_HUB_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = ["recipes/train_s2l.py", *SMALL, *NAMED, f"run.dir={tmp_path / 'run'}"]
    with serving(StandIn()) as hub:
        began = {}
        for name, hidden in (("learner", 64), ("explorer", 32)):
            folder = write_qwen3(tmp_path / name, seed=hidden, hidden=hidden, layers=2)
            (commit,) = hub.add(f"models/me/{name}", {path.name: path.read_bytes() for path in folder.iterdir()})
            began[f"models/me/{name}@main"] = commit
        (began["datasets/me/data@main"],) = hub.add("datasets/me/data", {"train.jsonl": rows, "test.jsonl": rows})
        environment["HF_ENDPOINT"] = hub.endpoint
        first = run_process(*command, "algorithm.steps=1", environment=environment)
        assert first.returncode == 0, first.stderr
        weights = [name for name in hub.fetched() if name.endswith(".safetensors")]
        assert weights == ["model.safetensors"] * 2  # by the process that starts the ranks
        assert json.loads((tmp_path / "run" / "versions.json").read_text())["hub"] == began
        for name in ("models/me/learner", "models/me/explorer"):  # main moves
            hub.add(name, {}, {"config.json": b"{}"})
        hub.asked.clear()
        second = run_process(*command, "algorithm.steps=2", environment=environment)
        assert second.returncode == 0, second.stderr
        assert hub.asked == []
    versions = json.loads((tmp_path / "run" / "versions.json").read_text())
    assert versions["hub"] == began
    assert "earlier" not in versions
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
