"""The planner as users run it."""

from __future__ import annotations

import re

import pytest

from tests.commands import Done, run_here, run_process


def run(*arguments: str) -> Done:
    return run_here("tools/plan.py", *arguments)


def rows(output: str) -> dict[str, list[str]]:
    """Cells of every table row by its first cell."""
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if line.startswith("│")]
    return {row[0]: row[1:] for row in cells}


def test_the_papers_run_on_all_gpus() -> None:
    done = run("conf=paper", "trainer.num_nodes=2")
    assert (done.returncode, done.stderr) == (0, "")
    table = rows(done.stdout)
    assert table["sequences"] == ["16,384", "16,384"]
    assert table["generated tokens"] == ["33,554,432", "67,108,864"]
    assert table["learner engine weights"] == ["15.3", "15.3", "15.3"]
    assert table["explorer over learner, KV memory full*"] == ["1.84", "1.56", "1.42"]
    assert table["mean explorer share (alpha)"] == ["26.2%"] * 3
    assert [cell.split()[-1] for cell in table["on the device while training"]][-1] == "fits"
    assert "over by" in table["on the device while training"][0]
    assert "2 x 8 GPUs, TP 1 x PP 1 x DP 16, bf16" in done.stdout
    assert "public figures of Qwen3-8B" in done.stdout
    assert "not measurements" in done.stdout
    assert all(len(line) <= 120 for line in done.stdout.splitlines())


def test_one_gpu_and_own_assumptions() -> None:
    table = rows(run("conf=paper", "gpu=H100").stdout)
    assert all(len(cells) <= 2 for cells in table.values())
    half = rows(run("conf=paper", "gpu=H100", "mfu=0.2", "bandwidth=0.35").stdout)

    def seconds(found: dict[str, list[str]], name: str) -> float:
        return float(found[name][0].replace(",", ""))

    for phase in ("learner rollouts, mean", "update", "log-probs, old and reference"):
        assert seconds(half, phase) == pytest.approx(2 * seconds(table, phase), rel=1e-3)


def test_plain_grpo_saves_nothing() -> None:
    done = run("conf=paper", "experiment=grpo", "gpu=H200")
    assert done.returncode == 0
    assert "explorer: none" in done.stdout
    assert "Predicted saving" not in done.stdout


def test_several_explorers_have_rows_of_their_own() -> None:
    named = [f"explorers.{name}.path=Qwen3-{size}-Base" for name, size in (("small", "1.7B"), ("large", "4B"))]
    done = run("conf=paper", "gpu=H200", *named)
    assert (done.returncode, done.stderr) == (0, "")
    table = rows(done.stdout)
    assert table["small over learner, KV memory full*"] == ["1.42"]
    assert float(table["large over learner, KV memory full*"][0]) < 1.42
    assert "large: 4,022,468,096 parameters (public figures of Qwen3-4B" in done.stdout
    one = rows(run("conf=paper", "gpu=H200").stdout)
    weights = [float(its["explorer engine weights"][0]) for its in (table, one)]
    assert weights[0] - weights[1] == pytest.approx(2 * 4_022_468_096 / 2**30, abs=0.11)


def test_what_rewards_decide_is_said() -> None:
    keys = ["algorithm.refill_rounds=2", "algorithm.rescue_first=4", "algorithm.schedule.name=constant"]
    text = run("conf=paper", "gpu=H100", *keys).stdout
    words = " ".join(text.split())
    assert "with algorithm.refill_rounds=2 rollouts take 1.75 times as long (1 to 3 times, for equal=0 to 1)" in words
    assert "algorithm.rescue_first=4: explorers are counted as if every group failed" in text


def test_stored_rollouts_take_no_time() -> None:
    done = run("conf=paper", "gpu=H100", "explorer.source=store")
    assert rows(done.stdout)["explorer rollouts, mean"] == ["0.0"]
    assert "explorer: stored rollouts" in done.stdout


def test_an_engine_on_part_of_a_node_is_pointed_out() -> None:
    text = run("conf=paper", "engine.kind=tensorrt_llm", "gpu=H100").stdout
    assert "engines use 1 of the 8 GPUs of a node: see engine.replicas_per_node" in text
    text = run("conf=paper", "engine.kind=tensorrt_llm", "engine.replicas_per_node=8", "gpu=H100").stdout
    assert "engines use" not in text


def test_rows_follow_the_scheduler_of_the_engines() -> None:
    arguments = ("conf=paper", "hardware=h100_80gb", "gpu=H100")
    table = rows(run(*arguments).stdout)
    assert table["rows that decode together, learner"] == ["72"]
    assert table["rows that decode together, explorer"] == ["157"]
    assert table["weights of sleeping engines (pinned)"] == ["73.8"]
    done = run(*arguments, "policy=no_evict")
    assert rows(done.stdout)["rows that decode together, learner"] == ["18"]
    assert "policy=no_evict of the engines' scheduler" in done.stdout


def test_help_lists_the_options() -> None:
    done = run_process("tools/plan.py", "--help")
    assert done.returncode == 0
    for name in ("conf=", "gpu=", "length=", "prompt=", "bandwidth=", "mfu=", "refit_gb_s=", "policy="):
        assert re.search(rf"^  {name}", done.stdout, re.MULTILINE), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["conf=papre"], "--config-name papre is unknown"),
        (["conf=paper", "gpu=A100"], "gpu=A100: expected L20 | H100 | H200"),
        (["conf=paper", "mfu=1.2"], "mfu=1.2: must be greater than 0 and at most 1"),
        (["conf=paper", "length=9999"], "length=9999 is more than rollout.max_response_length=4096"),
        (["conf=paper", "trainer.num_node=2"], "unknown key trainer.num_node=2"),
        (["conf=paper", "trainer.devices=3"], "cannot be shared by 3 data-parallel ranks"),
        (["conf=paper", "model.path=no/such/model"], "model.path=no/such/model is not a folder"),
        (["conf=paper", "explorers.a.path=no/such/model"], "explorers.a.path=no/such/model is not a folder"),
        (["conf=paper", "rollout.replay=s", "explorer.source=store"], "rollout.replay=s: nothing is sampled in such a"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
