"""Real rank processes without NeMo: errors, signals, environments, orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from s2l_nemo.errors import UserError
from s2l_nemo.platform.failures import CRASHED, USER_ERROR, Failure
from s2l_nemo.platform.launch import STOP_SIGNALS, first_failure, launch, torchrun_signals

ROOT = Path(__file__).resolve().parents[2]


def heeds_hangups() -> None:
    """Undoes what `nohup make test` leaves to all processes."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def start(body: str, world: int = 2, before: Callable[[], object] = heeds_hangups) -> subprocess.Popen[str]:
    """A process that forks `world` ranks running `body`, or is the only one, with `rank` set. `before` runs in it
    before Python starts."""
    code = (
        "import os, signal, sys, time\nos.environ['TORCH_CPP_LOG_LEVEL'] = 'ERROR'\n"  # as in the recipe
        "from s2l_nemo.platform import launch\nfrom s2l_nemo.errors import UserError\n"
        "launch.GRACE_SECONDS = 1.0\n"
        "def say(*words): os.write(1, (' '.join(map(str, words)) + '\\n').encode())\n"
        "def main():\n    rank = int(os.environ['RANK'])\n"
        + textwrap.indent(textwrap.dedent(body), "    ")
        + f"\nsys.exit(launch.launch(main, devices={world}, num_nodes=1, on_gpu=False, preload=lambda: None))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


def run(body: str, world: int = 2) -> tuple[int, str, str]:
    process = start(body, world)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def test_ranks_get_their_environment() -> None:
    code, out, err = run("say(rank, os.environ['LOCAL_RANK'], os.environ['WORLD_SIZE'])", 3)
    assert (code, err) == (0, "")
    assert sorted(out.splitlines()) == ["0 0 3", "1 1 3", "2 2 3"]


def test_a_user_error_is_one_line_even_if_every_rank_raises_it() -> None:
    code, _, err = run("raise UserError('model.path=x is missing; set it')")
    assert code == 2
    assert err.splitlines() == ["error: model.path=x is missing; set it"]


def test_a_failure_of_one_rank_ends_the_others_and_is_the_one_shown() -> None:
    code, _, err = run("if rank == 1: raise KeyError('lost')\ntime.sleep(50)")
    assert code == 1
    assert err.startswith("rank 1 failed:\nTraceback")
    assert "KeyError: 'lost'" in err


def test_a_killed_rank_ends_the_run() -> None:
    code, _, err = run("if rank == 0: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(50)")
    assert code == 1
    assert err == "rank 0 was killed by SIGKILL; the kernel does so if memory runs out, see dmesg\n"


LOSES_ITS_PEER = """
    import torch
    torch.distributed.init_process_group("gloo")
    torch.distributed.barrier()
    if rank == 1:
        {end}
    torch.distributed.barrier()
"""


@pytest.mark.parametrize(
    ("end", "shown"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "rank 1 was killed by SIGKILL"),
        ("raise KeyError('lost')", "rank 1 failed:\nTraceback"),
        ("raise UserError('the disk is upside down; turn it')", "error: the disk is upside down; turn it"),
        ("raise SystemExit(3)", "rank 0 failed:\nTraceback"),  # nobody knows better
    ],
)
def test_f27_not_what_the_loss_of_a_rank_did_to_others_but_its_own_error_is_shown(end: str, shown: str) -> None:
    _, _, err = run(LOSES_ITS_PEER.format(end=end))
    assert err.startswith(shown)
    assert ("gloo" in err) == end.endswith("SystemExit(3)")


@pytest.mark.parametrize(("end", "code"), [("pass", 0), ("raise SystemExit(143)", 143), ("raise UserError('no')", 2)])
def test_a_launchers_rank_ends_as_it_has_ended_though_a_thread_of_torch_still_uses_python(end: str, code: int) -> None:
    """Under torchrun or Slurm, and with one rank. Without care the interpreter aborts (-6)."""
    body = f"""
        import torch
        torch.distributed.init_process_group("gloo")
        work = torch.distributed.all_reduce(torch.ones(1), async_op=True)
        work.get_future().then(lambda _: time.sleep(1))
        print("reduced")
        {end}
    """
    ended, out, _ = run(body, world=1)
    assert (ended, out) == (code, "reduced\n")


DMESG = "; the kernel does so if memory runs out, see dmesg"
AFTERMATH = Failure(CRASHED, "Connection closed by peer", aftermath=True)
OWN = Failure(CRASHED, "KeyError")
MISTAKE = Failure(USER_ERROR, "error: one line")


@pytest.mark.parametrize(
    ("failures", "exit_codes", "received", "expected"),
    [
        ([], [0, 0], [], None),
        ([], [0, 0], [15], None),  # it ended before the signal came
        ([AFTERMATH, OWN, MISTAKE], [1, 1, 2], [], OWN),
        ([AFTERMATH], [1, -9], [], Failure(CRASHED, f"rank 1 was killed by SIGKILL{DMESG}")),
        ([AFTERMATH], [1, -11], [], Failure(CRASHED, "rank 1 was killed by SIGSEGV")),
        ([AFTERMATH], [1, None], [], AFTERMATH),  # the other one was killed here
        ([], [-15, -15], [15], Failure(143, "interrupted")),
        ([AFTERMATH], [1, -10], [10], Failure(138, "interrupted")),
        ([MISTAKE], [2, 143], [15], MISTAKE),
        ([], [3, 3], [], Failure(3)),
        ([], [0, 143], [], Failure(143)),
    ],
)  # fmt: skip
def test_r15_the_failure_that_explains_the_others(
    failures: list[Failure], exit_codes: list[int | None], received: list[int], expected: Failure | None
) -> None:
    assert first_failure(failures, exit_codes, received) == expected


def test_r13_a_process_that_outlives_its_rank_does_not_hold_up_the_end() -> None:
    code, out, err = run(
        """
        child = os.fork()
        if child == 0:
            os.close(1), os.close(2)
            time.sleep(600)
            os._exit(0)
        say(child)
        raise KeyError('lost')
        """,
        world=1,
    )
    assert code == 1
    assert "KeyError: 'lost'" in err
    assert alive(int(out))
    os.kill(int(out), signal.SIGKILL)


def test_an_exit_code_of_all_ranks_is_that_of_the_run() -> None:
    assert run("raise SystemExit(3)") == (3, "", "")


def test_a_long_traceback_of_every_rank_blocks_nobody() -> None:
    code, _, err = run("raise KeyError('x' * 300_000)", 4)
    assert code == 1
    assert len(err) > 300_000


def test_no_space_is_a_users_error() -> None:
    code, _, err = run("import errno\nraise OSError(errno.ENOSPC, 'No space left on device', '/runs/x')")
    assert code == 2
    assert err.splitlines() == [
        "error: /runs/x: No space left on device: free space or inodes there, or choose another place; "
        "run the same command to continue"
    ]


@pytest.mark.parametrize("signum", STOP_SIGNALS)
def test_a_signal_to_the_parent_reaches_every_rank_once(signum: signal.Signals) -> None:
    process = start(
        f"""
        got = []
        signal.signal({int(signum)}, lambda *a: got.append(1))
        say('ready')
        while not got: time.sleep(0.02)
        time.sleep(0.3)
        say(len(got))
        """
    )
    assert process.stdout is not None
    assert [process.stdout.readline(), process.stdout.readline()] == ["ready\n", "ready\n"]
    process.send_signal(signum)
    out, _ = process.communicate(timeout=600)
    assert (process.returncode, out.split()) == (0, ["1", "1"])


def test_a_signal_before_the_ranks_listen_ends_them_all() -> None:
    process = start("say('ready')\ntime.sleep(50)")
    assert process.stdout is not None
    assert [process.stdout.readline(), process.stdout.readline()] == ["ready\n", "ready\n"]
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (143, "interrupted\n")


def test_a_signal_ends_ranks_in_the_midst_of_a_collective_before_they_listen() -> None:
    process = start(
        """
        import torch
        torch.distributed.init_process_group("gloo")
        torch.distributed.barrier()
        say('ready')
        if rank == 0: torch.distributed.barrier()
        time.sleep(50)
        """
    )
    assert process.stdout is not None
    assert [process.stdout.readline(), process.stdout.readline()] == ["ready\n", "ready\n"]
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (143, "interrupted\n")


def test_nohup_is_respected() -> None:
    body = f"say(signal.getsignal({int(signal.SIGHUP)}) == signal.SIG_IGN)"
    process = start(body, before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    out, _ = process.communicate(timeout=600)
    assert out.split() == ["True", "True"]


def test_ranks_die_with_their_parent() -> None:
    process = start("say(os.getpid())\ntime.sleep(50)")
    assert process.stdout is not None
    pids = [int(process.stdout.readline()) for _ in range(2)]
    process.kill()
    process.wait()
    deadline = time.monotonic() + 300
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


def test_torchrun_of_this_torch_takes_the_signals() -> None:
    from torch.distributed.run import get_args_parser

    options = torchrun_signals()
    assert options == ["--signals-to-handle=SIGINT,SIGTERM,SIGUSR1,SIGUSR2,SIGHUP"]
    assert get_args_parser().parse_args([*options, "script"]).signals_to_handle == options[0].partition("=")[2]


def test_several_nodes_without_a_launcher_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"trainer.num_nodes=2 needs a launcher"):
        launch(lambda: None, devices=8, num_nodes=2, on_gpu=True, preload=lambda: None)
