"""The simulation as users run it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.commands import Done, run_here, run_process
from tests.planner.simulation.runs import EXPLORERS, SECONDS, TINY, write_run

SMALL = ("conf=paper", "algorithm.prompts_per_step=64", "algorithm.mini_batch_prompts=32", "length=300", "steps=2")
SERVED = (*SMALL, "hardware=h100_80gb")


def run(*arguments: object) -> Done:
    return run_here("tools/simulate.py", *arguments)


def rows(output: str) -> dict[str, list[str]]:
    """Cells of every table row by its first cell."""
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if line.startswith("│")]
    return {row[0]: row[1:] for row in cells}


def seconds(cell: str) -> float:
    return float(cell.split(",")[0].split()[0])


def test_three_sizes() -> None:
    done = run(*SMALL, "gpus=[8,16,32]")
    assert (done.returncode, done.stderr) == (0, "")
    table = rows(done.stdout)
    assert [seconds(cell) for cell in table["as configured"]] == [float(cell) for cell in table["seconds"]]
    assert table["rows put off for lack of cache, per answer"] == ["0.00"] * 3
    idle = [float(cell.rstrip("%")) for cell in table["share of GPU time: idle"]]
    parts = [table[f"  {name}".strip()] for name in ("while others sample", "while others train", "in other phases")]
    sums = [sum(float(part[size].rstrip("%")) for part in parts) for size in range(3)]
    assert idle == pytest.approx(sums, abs=0.2)
    assert idle == sorted(idle)
    for name in ("replicas not balanced", "requests in chunks of 8", "requests in one queue"):
        assert len(table[name]) == 3
    assert "engines with GPUs of their own need servers" in done.stdout
    assert "not a measurement" in done.stdout
    assert "lognormal, mean 300 and std 150 before the cut at 4096" in done.stdout
    assert all(len(line) <= 120 for line in done.stdout.splitlines())


def test_a_timeline() -> None:
    lines = run(*SMALL, "gpus=[8]", "show=2").stdout.splitlines()
    bars = [line.split()[-1] for line in lines if re.match(r" [07]  actor, engines ", line)]
    assert len(bars) == 2
    for bar in bars:
        assert re.fullmatch(r"w*e+\.*l+[.xgs]*p+\.*u+[.r]*", bar)
        assert len(bar) == 88
    assert "waits" not in run(*SMALL, "gpus=[8]", "show=0").stdout


def test_engines_with_gpus_of_their_own() -> None:
    table = rows(run(*SERVED, "gpus=[16]", "show=0", "explorer=16").stdout)
    apart = seconds(table["2 + 2 GPUs of a node for engines"][0])
    assert seconds(table["2 + 2 GPUs of a node for engines, explorer ahead"][0]) < apart
    more = seconds(table["2 more GPUs a node for the explorer"][0])
    assert seconds(table["2 more GPUs a node for the explorer, ahead"][0]) < more
    table = rows(run(*SERVED, "gpus=[16]", "show=0", "engine_gpus=4").stdout)
    assert table["4 + 4 GPUs of a node for engines"] == ["not possible"]


def test_a_run_that_is_separate_already() -> None:
    separate = ("engine.placement=separate", 'engine.explorer_devices="8,9"', 'engine.learner_devices="10,11"')
    one = (*SERVED, "gpus=[12]", "show=0", "engine.replicas_per_node=1", *separate)
    table = rows(run(*one).stdout)
    ahead = rows(run(*one, "rollout.explorer_ahead=true").stdout)
    assert table["explorer ahead"][0].split()[0] == ahead["as configured"][0].split(",")[0]
    assert "explorer not ahead" in ahead


def test_slow_gpus() -> None:
    fast, slow = (rows(run(*SMALL, "gpus=[8]", "show=0", *more).stdout) for more in ((), ("slow=1", "slowdown=3")))
    assert float(slow["seconds"][0]) > 2 * float(fast["seconds"][0])
    assert float(slow["share of GPU time: idle"][0].rstrip("%")) > 50


def test_lengths_of_a_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", SECONDS, EXPLORERS)
    done = run("conf=paper", "gpus=[8]", "show=0", f"recorded={folder}", "algorithm.prompts_per_step=16")
    assert done.returncode == 0
    assert "mean 6, cut at 4096" in " ".join(done.stdout.split())
    assert float(rows(done.stdout)["until the last answer"][0]) < 1


def test_rates_of_a_run(tmp_path: Path) -> None:
    """The run's own size: its phases without rollouts are those that were measured."""
    folder = write_run(tmp_path / "run", SECONDS, EXPLORERS)
    done = run(*TINY, "gpus=[2]", "show=0", f"calibrate=[{folder}]", "explorer=1")
    assert (done.returncode, done.stderr) == (0, "")
    table = rows(done.stdout)
    assert 8 < float(table["seconds"][0]) < 10
    assert 3.5 < float(table["log-probs and updates"][0]) < 4.5


def test_help_lists_the_options() -> None:
    done = run_process("tools/simulate.py", "--help")
    assert done.returncode == 0
    for name in ("conf=", "gpus=", "recorded=", "dispatch=", "calibrate=", "mfu="):
        assert re.search(rf"^  {name}", done.stdout, re.MULTILINE), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["conf=papre"], "--config-name papre is unknown"),
        (["conf=paper", "gpus=[]"], "gpus=[]: must be numbers of GPUs"),
        (["conf=paper", "gpus=[0]"], "gpus=[0]: must be numbers of GPUs"),
        (["conf=paper", "gpus=eight"], "gpus=eight: expected list of integer"),
        (["conf=paper", "gpus=[12]"], "gpus=12: a node of this configuration has 8 GPUs"),
        (["conf=paper", "gpus=[64]"], "gpus=64: algorithm.mini_batch_prompts=16 cannot be shared by 64"),
        (["conf=paper", "gpus=[8]", "steps=1"], "steps=1: must be at least 2"),
        (["conf=paper", "gpus=[8]", "lengths=normal"], "lengths=normal: expected lognormal | exponential | fixed"),
        (["conf=paper", "gpus=[8]", "lengths=fixed", "std=3"], "std=3.0 does nothing, because lengths=fixed has none"),
        (["conf=paper", "gpus=[8]", "length=9999"], "length=9999 is more than rollout.max_response_length=4096"),
        (["conf=paper", "gpus=[8]", "explorer=17"], "explorer=17 is more than algorithm.group_size=16"),
        (["conf=paper", "gpus=[8]", "experiment=grpo", "explorer=1"], "explorer=1, but the run has no explorer"),
        (["conf=paper", "rollout.explorer_ahead=true"], "rollout.explorer_ahead=true with engine.placement=colocated"),
        (["conf=paper", "gpus=[8]", "explorer.source=store"], "explorer.source=store: stored rollouts take no time"),
        (
            ["conf=paper", "gpus=[8]", "algorithm.refill_rounds=1"],
            "algorithm.refill_rounds=1: rewards decide who",
        ),
        (
            ["conf=paper", "gpus=[8]", "algorithm.rescue_first=1"],
            "algorithm.rescue_first=1: rewards decide who",
        ),
        (
            ["conf=paper", "gpus=[8]", "rollout.two_updates=true", "model.micro_batch_tokens=8192"],
            "rollout.two_updates=true: a step of two updates is not played",
        ),
        (
            ["conf=paper", "gpus=[8]", "rollout.replay=s", "explorer.source=store"],
            "rollout.replay=s: nothing is sampled in such a run",
        ),
        (
            ["conf=paper", "gpus=[8]", "explorers.a.path=Qwen3-1.7B", "explorers.b.path=Qwen3-4B"],
            "explorers a, b are 2 models, and a simulation plays one",
        ),
        (["conf=paper", "gpus=[8]", "slow=9"], "slow=9 is more than the 8 GPUs"),
        (["conf=paper", "gpus=[8]", "slowdown=2"], "slowdown=2.0 does nothing, because no GPU is slow"),
        (["conf=paper", "gpus=[8]", "engine_gpus=2"], "engine_gpus=2 does nothing, because only engine servers"),
        ([*SERVED, "gpus=[8]", "engine_gpus=3"], "engine_gpus=3 is no multiple of engine.tensor_parallel_size=2"),
        (["conf=paper", "gpus=[8]", "recorded=no/such"], "recorded=no/such has no rollouts"),
        (["conf=paper", "gpus=[8]", "recorded=a", "length=5"], "length=5 does nothing, because the lengths are those"),
        (["conf=paper", "gpus=[8]", "calibrate=[no/such]"], "calibrate=no/such is no folder of a run (no/such/config"),
        (["conf=paper", "gpus=[8]", "calibrate=[a]", "mfu=0.3"], "mfu=0.3 does nothing, because calibrate"),
        (["conf=paper", "trainer.num_node=2"], "unknown key trainer.num_node=2"),
        (["conf=paper", "trainer.num_nodes=2"], "trainer.num_nodes does nothing here: gpus= says"),
        (["conf=paper", "gpus=[8]", "model.path=no/such/x"], "model.path=no/such/x is not a folder"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
