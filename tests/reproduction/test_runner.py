"""The runner on scripted commands in real processes: order, failures, signals, kills, and what the next call does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from s2l_nemo.errors import UserError
from s2l_nemo.reproduction.ledger import Ledger, Status, read_plan
from s2l_nemo.reproduction.plan import Job, JobKind
from s2l_nemo.reproduction.runner import last_lines, only_one, run_jobs
from tests.reproduction.jobs import Watcher, job

ROOT = Path(__file__).resolve().parent.parent.parent
COUNT = "with open(F / 'starts', 'a') as file: file.write('x')\n"
LONG = "import time\n(F / 'pid').write_text(str(__import__('os').getpid()))\ntime.sleep(600)\n"


def run(root: Path, jobs: list[Job]) -> tuple[int, Watcher, Ledger]:
    ledger, watcher = Ledger(root, jobs), Watcher()
    return run_jobs(ledger, watcher, ROOT, pause=0.05), watcher, ledger


def statuses(root: Path) -> dict[str, str]:
    return {name: one["status"] for name, one in read_plan(root).items()}


def starts(one: Job) -> int:
    return len((one.folder / "starts").read_text())


def test_jobs_run_in_their_order_and_only_once(tmp_path: Path) -> None:
    jobs = [job(tmp_path, name, COUNT + f"print('this is {name}')") for name in ("first", "second")]
    code, watcher, ledger = run(tmp_path, jobs)
    assert (code, watcher.told) == (0, ["first running", "first done", "second running", "second done"])
    assert statuses(tmp_path) == {"first": "done", "second": "done"}
    assert jobs[0].log.read_text().startswith("$ python -c ")
    assert jobs[0].log.read_text().endswith("this is first\n")
    assert all(entry.seconds > 0 and entry.code == 0 for entry in ledger.entries.values())
    code, watcher, _ = run(tmp_path, jobs)
    assert (code, watcher.told) == (0, [])
    assert starts(jobs[0]) == 1


def test_a_failing_job_is_shown_and_the_others_go_on(tmp_path: Path) -> None:
    broken = COUNT + "print('\\n'.join(f'line {n}' for n in range(99)))\nif not (F / 'mended').exists(): exit(3)"
    jobs = [
        job(tmp_path, "broken", broken),
        job(tmp_path, "needs_it", COUNT, after="broken", kind=JobKind.evaluate),
        job(tmp_path, "other", COUNT),
    ]
    code, watcher, ledger = run(tmp_path, jobs)
    assert code == 1
    assert watcher.told == ["broken running", "broken failed", "other running", "other done"]
    assert watcher.lines["broken"] == [f"line {n}" for n in range(87, 99)]
    assert ledger.entries["broken"].code == 3
    assert statuses(tmp_path) == {"broken": "failed", "needs_it": "waiting", "other": "done"}
    (jobs[0].folder / "mended").touch()
    assert run(tmp_path, jobs)[0] == 0
    assert [starts(one) for one in jobs] == [2, 1, 1]


def test_a_job_that_a_signal_kills_has_failed(tmp_path: Path) -> None:
    code, _, ledger = run(tmp_path, [job(tmp_path, "killed", "import os\nos.kill(os.getpid(), 9)")])
    assert (code, ledger.entries["killed"].code, ledger.entries["killed"].status) == (1, -9, Status.failed)


def test_another_command_or_a_lost_folder_is_run_again(tmp_path: Path) -> None:
    one = job(tmp_path, "one", COUNT)
    run(tmp_path, [one])
    run(tmp_path, [job(tmp_path, "one", COUNT + "# other")])
    assert starts(one) == 2
    for file in one.folder.iterdir():
        file.unlink()
    one.folder.rmdir()
    run(tmp_path, [job(tmp_path, "one", COUNT + "# other")])
    assert starts(one) == 1


def test_jobs_of_earlier_calls_stay_in_the_plan(tmp_path: Path) -> None:
    run(tmp_path, [job(tmp_path, "early", COUNT)])
    run(tmp_path, [job(tmp_path, "late", COUNT)])
    assert statuses(tmp_path) == {"late": "done", "early": "done"}
    row = read_plan(tmp_path)["early"]
    assert {"experiment", "seed", "status", "command", "folder", "seconds", "log", "kind"} <= row.keys()


def test_what_slurm_has_is_not_started_here(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "one", COUNT)]
    ledger = Ledger(tmp_path, jobs)
    ledger.entries["one"].status, ledger.entries["one"].slurm_id = Status.submitted, "17"
    ledger.write()
    code, watcher, _ = run(tmp_path, jobs)
    assert (code, watcher.told) == (1, [])
    jobs[0].folder.mkdir(parents=True)
    (jobs[0].folder / "summary.json").write_text(json.dumps({"steps": 3}))
    assert run(tmp_path, jobs)[0] == 1
    (jobs[0].folder / "summary.json").write_text(json.dumps({"steps": 4}))
    assert run(tmp_path, jobs)[0] == 0


@pytest.mark.parametrize("text", ["{", "[]", '{"jobs": [{"name": "a"}]}', '{"jobs": [{"name": "a", "status": "x"}]}'])
def test_a_damaged_plan_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(UserError, match="is no plan of recipes"):
        Ledger(tmp_path, [])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("command", None),
        ("seconds", "1"),
        ("seconds", True),
        ("code", "0"),
        ("slurm_id", 7),
        ("status", ["done"]),
        ("kind", 1),
        ("experiment", ["s2l"]),
        ("seed", "1"),
        ("name", None),
    ],
)
@pytest.mark.parametrize("is_absent", [False, True])
def test_a_job_of_a_plan_that_lacks_what_the_runner_reads_is_refused(
    tmp_path: Path, key: str, value: object, is_absent: bool
) -> None:
    jobs = [job(tmp_path, "one", COUNT)]
    Ledger(tmp_path, jobs).write()
    content = json.loads((tmp_path / "plan.json").read_text())
    content["jobs"][0][key] = value
    if is_absent:
        del content["jobs"][0][key]
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="is no plan of recipes"):
        Ledger(tmp_path, jobs)


def test_a_second_runner_is_refused(tmp_path: Path) -> None:
    program = "import sys\nfrom pathlib import Path\nfrom s2l_nemo.reproduction.runner import only_one\n"
    program += "with only_one(Path(sys.argv[1])): print('free')"
    with only_one(tmp_path):
        done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
        assert "is in use by another process" in done.stderr.splitlines()[-1]
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "free\n"


def test_the_last_lines_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"before\na\n\n  b  \n\xff\n")
    assert last_lines(log, len("before\n"), 2) == ["  b", "\ufffd"]
    assert last_lines(log, len("before\n")) == ["a", "  b", "\ufffd"]


RUNNER = """
import sys
from pathlib import Path
from s2l_nemo.reproduction.ledger import Ledger
from s2l_nemo.reproduction.runner import run_jobs
from tests.reproduction.jobs import Watcher, job
root = Path(sys.argv[1])
jobs = [job(root, "quick", CODE_A), job(root, "slow", CODE_B), job(root, "last", CODE_A)]
sys.exit(run_jobs(Ledger(root, jobs), Watcher(), Path.cwd(), pause=0.05))
"""


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A runner in a process of its own, whose second job sleeps after it has written its process id."""
    slow = COUNT + "if not (F / 'pid').exists():\n" + "".join(f"    {line}\n" for line in LONG.splitlines())
    program = RUNNER.replace("CODE_A", repr(COUNT)).replace("CODE_B", repr(slow))
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT)
    deadline = time.monotonic() + 300
    while not (pid := tmp_path / "slow/seed_1/pid").exists() or not pid.read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield process
    process.kill()
    process.wait()


def is_alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 300
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_or_killed_runner_leaves_no_job_and_the_next_one_goes_on(
    tmp_path: Path, runner: subprocess.Popen[bytes], signum: signal.Signals
) -> None:
    slow = int((tmp_path / "slow/seed_1/pid").read_text())
    os.kill(runner.pid, signum)
    code = runner.wait(300)
    wait_for_end(slow)
    assert code == (-9 if signum == signal.SIGKILL else 128 + signum)
    left = "running" if signum == signal.SIGKILL else "waiting"
    assert statuses(tmp_path) == {"quick": "done", "slow": left, "last": "waiting"}
    again = subprocess.run([*map(str, runner.args)], cwd=ROOT, timeout=300)  # type: ignore[arg-type]
    assert again.returncode == 0
    assert statuses(tmp_path) == {"quick": "done", "slow": "done", "last": "done"}
    counts = {name: len((tmp_path / name / "seed_1/starts").read_text()) for name in ("quick", "slow", "last")}
    assert counts == {"quick": 1, "slow": 2, "last": 1}
