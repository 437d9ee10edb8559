"""Where the ranks of a run come together. Whoever waits here answers to signals, and says after a while who is missing.

torch's own rendezvous waits in C++ for half an hour, deaf to SIGTERM, and then tells how many ranks it lacks.
"""

from __future__ import annotations

import datetime
import os
import socket
import time

import torch
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]  # public, by its docs

from s2l_nemo.errors import UserError

BEAT_S = 0.1  # between two looks
TELL_S = 10.0  # in which rank 0 tells the others that some are missing, before its store goes with it
ALL = "all"


def join(timeout_s: float, start_s: float) -> Store:
    """Initialises torch.distributed with the ranks that the environment speaks of, and returns their store. Collective.

    No later collective may take longer than `timeout_s`.

    Raises UserError on every rank that has come, naming the others, if they are not all there after `start_s`.
    """
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = meet(rank, world, start_s)
    store.set_timeout(datetime.timedelta(seconds=timeout_s))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        store=PrefixStore("groups", store),
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=timeout_s),
    )
    return store


def meet(rank: int, world: int, start_s: float) -> Store:
    """The store of the run, once all of its ranks have come to it. Rank 0 holds it, or torchrun does.

    Raises UserError as `join` does.
    """
    deadline = time.monotonic() + start_s
    store = open_store(rank, world, deadline, start_s)
    store.set(f"here/{rank}", socket.gethostname())
    if rank == 0:
        missing = _missing(store, world, deadline)
        store.set("start", missing or ALL)
        if missing:
            here = [one for one in range(1, world) if store.check([f"here/{one}"])]
            _wait_for(store, [f"told/{one}" for one in here], time.monotonic() + TELL_S)
            raise UserError(_late(missing, start_s))
        return store
    if _wait_for(store, ["start"], deadline + TELL_S):
        raise UserError(_late("rank 0 has not started", start_s))
    told = store.get("start").decode()
    if told != ALL:
        store.set(f"told/{rank}", "")
        raise UserError(_late(told, start_s))
    return store


def open_store(rank: int, world: int, deadline: float, start_s: float) -> Store:
    """A connection of its own to the store. `deadline` is a time of the monotonic clock."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # as torch's env:// does: torchrun's agent holds a store for its workers, which they must not hold again
    by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    hosts = rank == 0 and not by_agent
    while not hosts and not _answers(address, port):
        if time.monotonic() > deadline:
            raise UserError(_late(f"rank 0 does not answer at MASTER_ADDR={address} MASTER_PORT={port}", start_s))
        time.sleep(BEAT_S)
    try:
        store = TCPStore(
            address,
            port,
            world,
            hosts,
            datetime.timedelta(seconds=start_s),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"MASTER_ADDR={address} MASTER_PORT={port} cannot be used ({reason}): give others") from error
    return PrefixStore(f"s2l/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _missing(store: Store, world: int, deadline: float) -> str:
    """Waits for all ranks. Returns those that have not come by the deadline, in words; "" if there are none."""
    rest = _wait_for(store, [f"here/{rank}" for rank in range(world)], deadline)
    if not rest:
        return ""
    ranks = [int(key.rpartition("/")[2]) for key in rest]
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"{len(ranks)} of {world} ranks have not come: rank {shown}"


def _wait_for(store: Store, keys: list[str], deadline: float) -> list[str]:
    """Waits until the store has all of the keys. Returns those that are missing at the deadline."""
    while keys := [key for key in keys if not store.check([key])]:
        if time.monotonic() > deadline:
            break
        time.sleep(BEAT_S)
    return keys


def _late(what: str, start_s: float) -> str:
    return (
        f"{what} after trainer.start_s={start_s:g} seconds: see whether these processes were started and reach "
        "MASTER_ADDR, or raise trainer.start_s"
    )
