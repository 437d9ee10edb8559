"""Real worker processes against hostile answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from s2l_nemo.config.schema import RewardsConfig
from s2l_nemo.rewards.grader import GradeItem, MathGrader
from s2l_nemo.rewards.pool import Outcome, WorkerPool

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = [
    "9^{9^{9^{9}}}",
    "99999999!",
    r"\binom{1000000000}{500000000}",
    r"\sum_{n=1}^{10^{9}} \frac{1}{n}",
]
WRONG_AT_ONCE = [
    r"\frac{" * 10_000 + "1" + "}{2}" * 10_000,
    "x" * 1_000_000,
    r"\alpha " * 150_000,
    "1" * 100_000,
    "(" * 300 + "5" + ")" * 300,
    "{" * 900 + "5" + "}" * 900,
    "[" * 500,
]
FUNCTIONS = """
import os, signal, time
def check(response, answer, prompt):
    if response == "memory":
        return len(bytearray(1 << 31))
    if response == "swallowed memory":
        blocks = []
        try:
            while True:
                blocks.append(bytearray(1 << 20))
        except MemoryError:
            return False
    if response == "recursion":
        return check(response, answer, prompt)
    if response == "digits":
        return len(str(10**5000))
    if response == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if response == "exit":
        os._exit(3)
    if response == "spin":
        while True:
            pass
    if response == "sleep":
        time.sleep(1000)
    if response.startswith("late once"):
        if not os.path.exists(answer):
            open(answer, "w").close()
            time.sleep(1000)
        return 1
    if response == "child":
        return os.getpid()
    return 1
"""


def processes() -> dict[int, tuple[int, str]]:
    """Parent and state of every process."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name_end = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[int(path.parent.name)] = int(name_end[1]), name_end[0]
    return found


def descendants(root: int) -> set[int]:
    table, found = processes(), {root}
    while more := {pid for pid, (parent, _) in table.items() if parent in found} - found:
        found |= more
    return found - {root}


def eventually(condition: Callable[[], bool], seconds: float = 300.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "hostile_functions.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    return "hostile_functions:check"


def run(pool: WorkerPool, names: list[str]) -> list[Outcome]:
    return pool.run([(name, "", "") for name in names])


def test_r22_hostile_answers_cost_only_their_own_row() -> None:
    before = descendants(os.getpid())
    grader = MathGrader(RewardsConfig(cpu_s=1.0, wall_s=10.0, memory_mb=256))
    items = []
    for index, answer in enumerate([*HOSTILE, *WRONG_AT_ONCE]):
        items.append(GradeItem(0, "", r"\sqrt{5}", rf"\boxed{{{answer}}}"))
        items.append(GradeItem(0, "", r"\sqrt{5}", rf"\boxed{{\sqrt{{5}}+{index}-{index}}}"))
    grades = grader.grade(items)
    grader.close()
    hostile = grades[: 2 * len(HOSTILE) : 2]
    assert [grade.reward for grade in grades[1::2]] == [1.0] * (len(HOSTILE) + len(WRONG_AT_ONCE))
    assert [grade.reward for grade in hostile] == [None] * len(HOSTILE)
    assert {grade.error for grade in hostile} <= {
        "killed after 1 s of CPU time",
        "a number in the answers is too large to compute",
    }
    assert [grade.reward for grade in grades[2 * len(HOSTILE) :: 2]] == [0.0] * len(WRONG_AT_ONCE)
    assert descendants(os.getpid()) == before


def test_r23_every_way_to_fail_has_its_reason(functions: str) -> None:
    rewards = RewardsConfig(cpu_s=0.5, wall_s=60.0, memory_mb=200, workers=2)
    pool = WorkerPool(rewards, functions)
    names = ["memory", "swallowed memory", "recursion", "digits", "crash", "exit", "spin"]
    outcomes = dict(zip(names, run(pool, names), strict=True))
    rewards.wall_s = 1.0  # the workers are there, and nothing else shares it
    outcomes |= {"sleep": run(pool, ["sleep"])[0]}
    rewards.wall_s = 60.0
    healthy = run(pool, ["well", "memory", "fine"])
    pool.close()
    too_much = "out of memory: the check needs more than 200 MiB"
    digits = outcomes.pop("digits").error
    assert digits is not None
    assert digits.startswith("ValueError: Exceeds the limit (4300 digits)")
    assert {name: outcome.error for name, outcome in outcomes.items()} == {
        "memory": too_much,
        "swallowed memory": too_much,
        "recursion": "nested too deeply to check",
        "crash": "the checking process died of SIGSEGV",
        "exit": "the checking process ended with status 3",
        "spin": "killed after 0.5 s of CPU time",
        "sleep": "killed after 1 s, twice",
    }
    assert healthy == [Outcome(1), Outcome(error=too_much), Outcome(1)]


def test_a_worker_never_holds_more_memory_than_it_may() -> None:
    """The peak of all ended descendants of a process of its own, which includes the imports."""
    code = """
import resource
from s2l_nemo.config.schema import RewardsConfig
from s2l_nemo.rewards.grader import GradeItem, MathGrader
grader = MathGrader(RewardsConfig(cpu_s=2.0, memory_mb=128, workers=1))
items = [GradeItem(0, "", "5", rf"\\boxed{{{answer}}}") for answer in ["1+1", r"\\binom{100000000}{50000000}"]]
print([grade.reward for grade in grader.grade(items)])
grader.close()
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)
"""
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    verdicts, peak = output.splitlines()
    assert verdicts == "[0.0, None]"
    assert int(peak) < 128 + 150


def test_a_check_that_was_late_once_is_tried_again(functions: str, tmp_path: Path) -> None:
    """A wall limit says how busy the machine is. CPU time decides."""
    pool = WorkerPool(RewardsConfig(wall_s=5.0, workers=1), functions)
    late = ("late once", str(tmp_path / "tried"), "")
    assert pool.run([("well", "", ""), late, ("fine", "", "")]) == [Outcome(1)] * 3
    pool.close()


def test_the_batch_ends_by_its_deadline_and_says_what_is_left(functions: str) -> None:
    rewards = RewardsConfig(wall_s=600.0, workers=1)
    pool = WorkerPool(rewards, functions)
    assert run(pool, ["start"]) == [Outcome(1)]
    rewards.batch_s = 3.0
    first, *rest = run(pool, ["well", "sleep", "late"])
    assert first == Outcome(1)
    assert rest == [Outcome(error="not checked within rewards.batch_s=3 s of the batch")] * 2
    rewards.batch_s = 600.0
    assert run(pool, ["fine"]) == [Outcome(1)]  # the next batch has workers again
    pool.close()
    pool.close()


def test_equal_checks_run_once_and_processes_start_when_they_are_needed(functions: str) -> None:
    before = descendants(os.getpid())
    pool = WorkerPool(RewardsConfig(workers=3), functions)
    assert pool.run([]) == []
    assert descendants(os.getpid()) == before
    outcomes = run(pool, ["child"] * 5)
    assert len(set(outcomes)) == 1
    assert len(descendants(os.getpid()) - before) == 2  # one supervisor and its child
    pool.close()
    assert descendants(os.getpid()) == before


def test_a_worker_killed_from_outside_is_replaced(functions: str) -> None:
    before = descendants(os.getpid())
    pool = WorkerPool(RewardsConfig(workers=1), functions)
    (child,) = run(pool, ["child"])
    os.kill(processes()[child.value][0], signal.SIGKILL)  # the supervisor
    assert eventually(lambda: processes().get(child.value, (0, "Z"))[1] == "Z")
    lost = run(pool, ["well"])
    assert lost == [Outcome(error="the worker was killed from outside")]
    assert run(pool, ["well"]) == [Outcome(1)]
    pool.close()
    assert descendants(os.getpid()) == before


@pytest.mark.parametrize("check", ["sleep", "spin", None])
def test_no_worker_outlives_a_killed_parent(functions: str, check: str | None) -> None:
    last = f"pool.run([({check!r}, '', '')])" if check else "import time; time.sleep(100)"
    code = f"""
from s2l_nemo.config.schema import RewardsConfig
from s2l_nemo.rewards.pool import WorkerPool
pool = WorkerPool(RewardsConfig(cpu_s=50, wall_s=50), {functions!r})
pool.run([("well", "", ""), ("fine", "", "")])
print("started", flush=True)
{last}
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        workers = descendants(parent.pid)
        assert len(workers) >= 2
        parent.kill()
    assert eventually(lambda: not {pid for pid in workers if processes().get(pid, (0, "Z"))[1] != "Z"})
