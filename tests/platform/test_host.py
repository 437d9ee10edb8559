"""F30: limits and left-over variables of the machine are one line before anything waits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from s2l_nemo.errors import UserError
from s2l_nemo.platform.host import allow_open_files, check_interface

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import resource, sys
from s2l_nemo.platform.host import allow_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
try:
    allow_open_files(512)
except ValueError as error:
    print(error)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "lines"),
    [
        (64, 600, ["512"]),
        (600, 600, ["600"]),
        (64, 64, ["this process may open 64 files, and a run needs 512: raise the limit (ulimit -Hn 512)", "64"]),
    ],
)
def test_f30_a_limit_of_open_files_is_raised_or_one_line(soft: int, hard: int, lines: list[str]) -> None:
    command = [sys.executable, "-c", CODE, str(soft), str(hard)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == lines


def test_f30_here_there_are_enough() -> None:
    allow_open_files(8)


def test_f30_an_interface_that_is_not_there_is_one_line() -> None:
    check_interface({})
    check_interface({"GLOO_SOCKET_IFNAME": ""}, ["lo"])
    check_interface({"GLOO_SOCKET_IFNAME": "lo,eth0"}, ["lo", "eth0"])
    with pytest.raises(UserError) as caught:
        check_interface({"GLOO_SOCKET_IFNAME": "lo,ib0"}, ["lo", "eth0"])
    assert str(caught.value) == (
        "GLOO_SOCKET_IFNAME=lo,ib0: this machine has no interface ib0, only lo, eth0: choose one of them, or unset the "
        "variable"
    )
    with pytest.raises(UserError, match="no interface no-such-interface"):
        check_interface({"GLOO_SOCKET_IFNAME": "no-such-interface"})
