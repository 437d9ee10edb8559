"""Folders of runs as recipes/train_s2l.py, recipes/evaluate.py and the runner leave them, made by code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from s2l_nemo.evaluation.results import BenchmarkResult
from s2l_nemo.measures.statistics import Interval, bootstrap_mean, pass_at_k
from s2l_nemo.records.dump import rollout_table, write_rollouts
from s2l_nemo.types import Completion, Group, Prompt
from tests.arrays import ids, lps

HOSTILE = "</script><img src=x onerror=alert(1)>"
Rows = Sequence[Sequence[float]]


def metrics(step: int, reward: float, explorer: int = 0) -> dict[str, Any]:
    """Half of a group of four is the explorer's if `explorer` is 2. 10 tokens and 100 FLOP a step."""
    own = {"reward/explorer": reward / 2, "pass@G/explorer": 0.5, "rescue/only_explorer": 0.25} if explorer else {}
    return {
        "step": step,
        "alpha": explorer / 4,
        "group/explorer": explorer,
        "group/learner": 4 - explorer,
        "reward/mean": reward,
        "reward/learner": reward,
        "reward/explorer": None,
        "rescue/only_explorer": None,
        "pass@G/learner": 0.75,
        "clip_fraction/learner": 0.01 * step,
        "diversity/edit_learner": 0.1 * step,
        "total/prompts": 8.0 * step,
        "total/tokens_explorer": 4.0 * step,
        "total/tokens_learner": 6.0 * step,
        "total/flops": 100.0 * step,
        "time/rollout_learner": 1.0,
        "time/update": 2.0,
        "time/step": 4.0,
        "time/step_with_validation": 4.5,
        **own,
    }


def write_run(
    folder: Path,
    *,
    rewards: Sequence[float],
    planned: int | None = None,
    explorer: int = 0,
    validations: Mapping[int, Rows] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A run with a step for each of `rewards`; it is finished unless more steps are `planned`."""
    folder.mkdir(parents=True)
    steps = len(rewards)
    lines = [metrics(step, reward, explorer if step <= 2 else 0) for step, reward in enumerate(rewards, start=1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {
        "run": {"seed": 7},
        "model": {"path": "models/tiny/learner"},
        "explorer": {"path": "models/tiny/explorer" if explorer else None},
        "algorithm": {"steps": planned or steps, "prompts_per_step": 8, "group_size": 4},
        "data": {"task": "sums"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({**settings, **(config or {})}))
    if planned is None:
        (folder / "summary.json").write_text(json.dumps({"steps": steps}))
    for step, rows in (validations or {}).items():
        write_validation(folder / "validation", step, rows)
    return folder


def write_validation(folder: Path, step: int, rows: Rows) -> None:
    folder.mkdir(exist_ok=True)
    content = {"step": step, "prompt_ids": list(range(len(rows))), "correct": rows, "grader_errors": 0}
    (folder / f"step_{step:06d}.json").write_text(json.dumps(content))


def write_groups(run: Path, step: int, texts: Mapping[str, float]) -> None:
    """One group: the texts with their rewards; the first one is the explorer's, the others the learner's."""
    numbered = dict(enumerate(texts))
    completions = [
        Completion(5, k, 1 if k == 0 else 0, ids([k]), lps([-0.5]), "stop", 0, reward=reward, answer=text)
        for k, (text, reward) in enumerate(texts.items())
    ]
    group = Group(Prompt(5, f"What is {HOSTILE}?", "8", (5,)), tuple(completions))
    table = rollout_table(step, group, [1.0, *[-1.0] * (len(texts) - 1)], lambda tokens: numbered[tokens[0]])
    write_rollouts(run / "rollouts" / f"step_{step:06d}.parquet", [table])


def result(name: str, benchmark: str, rows: Sequence[Sequence[int]], **changed: Any) -> BenchmarkResult:
    """An evaluation in mode nothink, with the curve that belongs to `rows`."""
    K = min(map(len, rows))
    curve = {k: bootstrap_mean([[pass_at_k(len(row), sum(row), k)] for row in rows]) for k in range(1, K + 1)}
    known: dict[str, Any] = {
        "name": name, "benchmark": benchmark, "mode": "nothink", "max_tokens": 64, "problems": len(rows),
        "samples": K, "most_samples": K, "without_predictions": 0, "seed": 1, "pass@1": curve[1]._asdict(),
        "pass@k": {str(k): one._asdict() for k, one in curve.items()}, f"majority@{K}": Interval(0, 0, 0)._asdict(),
        "mean_tokens": None, "truncated_fraction": None, "no_answer_fraction": 0.0, "grader_errors": 0,
        "correct": rows, "ids": list(range(len(rows))),
    }  # fmt: skip
    return BenchmarkResult.from_json(known | changed)


def write_evaluation(folder: Path, one: BenchmarkResult, place: Path | None = None) -> None:
    """As `evaluate.dir=folder` leaves it, or in `place`."""
    place = place or folder / "result" / f"{one.name}_20260101-120000"
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{one.benchmark}.json").write_text(json.dumps(one.to_json()))
    (place / "summary.json").write_text("{}")


def claim(**changed: Any) -> dict[str, Any]:
    """A claim that is undecided."""
    known: dict[str, Any] = {
        "id": "faster", "text": "S2L-PO ends above GRPO.", "source": "Section 4.2", "experiments": ["s2l", "grpo"],
        "metric": "pass@1", "difference": 0.01, "low": -0.05, "high": 0.07, "bound": 0.02, "verdict": "undecided",
        "seeds": 2, "problems": 4, "rule": "Above 0: reproduced.",
    }  # fmt: skip
    return known | changed


def write_claims(root: Path, *claims: Mapping[str, Any]) -> Path:
    path = root / "claims.json"
    path.write_text(json.dumps(claims))
    return path


def write_plan(root: Path, *jobs: tuple[str, int, str]) -> None:
    """Jobs of experiment, seed and status."""
    content = [
        {"experiment": name, "seed": seed, "status": status, "command": f"train {name} {seed} && echo {HOSTILE}"}
        for name, seed, status in jobs
    ]
    (root / "plan.json").write_text(json.dumps({"jobs": content}))


def write_study(root: Path) -> Path:
    """s2l with two finished seeds, grpo with one finished and one not; claims, a plan, evaluations, rollouts."""
    first, second = [[1, 0], [0, 0]], [[1, 1], [1, 0]]
    for seed in (1, 2):
        run = write_run(
            root / "s2l" / f"seed_{seed}",
            rewards=[0.2, 0.4, 0.5 + seed / 10],
            explorer=2,
            validations={0: first, 3: second},
        )
        write_evaluation(run / "evaluation", result("trained", "sums", [[1, 0, 1], [0, 1, 0]]))
    write_groups(root / "s2l/seed_1", 1, {f"by the explorer {HOSTILE}": 1.0, "by the learner": 0.0, "x" * 5000: 0.0})
    write_run(root / "grpo/seed_1", rewards=[0.2, 0.3, 0.4], validations={0: first, 3: first})
    write_run(root / "grpo/seed_2", rewards=[0.2, 0.9], planned=3, validations={0: first})
    write_evaluation(root / "evaluation", result("explorer", "sums", [[0, 0, 1], [0, 0, 0]]))
    write_claims(
        root,
        claim(text=f"S2L-PO wins {HOSTILE}", rule=f"A rule {HOSTILE}", note=f"One seed {HOSTILE}"),
        claim(id="b", verdict="reproduced", difference=0.06, low=0.01, high=0.11),
        claim(id="c", verdict="not_reproduced", difference=-0.06, low=-0.11, high=-0.01),
        claim(id="d", difference=None, low=None, high=None, seeds=None, problems=None),
    )
    write_plan(
        root,
        ("s2l", 1, "done"),
        ("s2l", 2, "done"),
        ("grpo", 1, "done"),
        ("grpo", 2, "running"),
        ("learner", 0, "failed"),
    )
    return root
