"""What a machine must allow a run, checked before anything waits for it: open files, and the network interface."""

from __future__ import annotations

import resource
import socket
from collections.abc import Collection, Mapping

from s2l_nemo.errors import UserError

OPEN_FILES = 1024  # of one process: libraries, data, shards of checkpoints, connections between ranks


def allow_open_files(wanted: int = OPEN_FILES) -> None:
    """Raises this process's limit of open files to `wanted`. Raises UserError if the system forbids it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise UserError(
            f"this process may open {hard} files, and a run needs {wanted}: raise the limit (ulimit -Hn {wanted})"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def check_interface(environ: Mapping[str, str], interfaces: Collection[str] | None = None) -> None:
    """Raises UserError if GLOO_SOCKET_IFNAME names no interface of this machine: ranks would not find each other.

    `interfaces`: None stands for those of this machine.
    """
    known = [name for _, name in socket.if_nameindex()] if interfaces is None else interfaces
    for name in filter(None, environ.get("GLOO_SOCKET_IFNAME", "").split(",")):
        if name not in known:
            raise UserError(
                f"GLOO_SOCKET_IFNAME={environ['GLOO_SOCKET_IFNAME']}: this machine has no interface {name}, only "
                f"{', '.join(known)}: choose one of them, or unset the variable"
            )
