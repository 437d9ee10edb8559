"""A store that jobs write into: who works on which share, and whether a command fits what is there."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from s2l_nemo.errors import UserError
from s2l_nemo.files import TEMPORARY
from s2l_nemo.store.facts import NAME, StoreFacts, first_difference, read_facts, write_facts
from s2l_nemo.store.locks import LockedError, is_locked, locked
from s2l_nemo.store.prompts import prompt_difference, read_prompts, write_prompts
from s2l_nemo.store.sampling.plan import Share
from s2l_nemo.store.shards import FOLDER, read_keys, shard_paths
from s2l_nemo.types import Prompt

_LOCKS = ".locks"
# What a fact is called on the command line, where that is not its name.
_KEYS = {
    "weight_hash": "weights of model",
    "tokenizer_hash": "tokenizer of model",
    "vocab_size": "vocabulary of model",
    "sampling.stop_token_ids": "stop tokens of model",
}


@contextlib.contextmanager
def claimed(folder: Path, share: Share) -> Iterator[None]:
    """Keeps other jobs of the share out, and jobs of another division. Removes what a kill has left half-written.

    Raises UserError if another job is at work that would sample the same prompts.
    """
    locks = folder / _LOCKS
    locks.mkdir(parents=True, exist_ok=True)
    (folder / FOLDER).mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(locks / f"{share.job}-of-{share.jobs}", wait=False))
        except LockedError:
            raise UserError(
                f"shard={share.job}/{share.jobs} of {folder} is being sampled by another process: wait for it, or give "
                "another shard"
            ) from None
        for other in sorted(locks.iterdir()):
            if other.name.partition("-of-")[2] != str(share.jobs) and is_locked(other):
                raise UserError(
                    f"shard={share.job}/{share.jobs} of {folder}: a job with shard={other.name.replace('-of-', '/')} "
                    "is at work; jobs that run at once must divide the prompts alike"
                )
        for leftover in (folder / FOLDER).glob(f"{TEMPORARY}{share.prefix}*"):
            leftover.unlink()
        yield


def check_fits(folder: Path, facts: StoreFacts, prompts: Sequence[Prompt]) -> None:
    """Raises UserError, naming the difference, if `folder` holds a store of other facts. A hash that is None fits."""
    if not (folder / NAME).exists():
        return
    there = read_facts(folder)
    stored, ours = there.identity(), facts.identity()
    if facts.weight_hash is None:
        ours["weight_hash"] = stored["weight_hash"]
    name = first_difference(stored, ours)
    if name is None:
        return
    if name in ("prompts", "prompts_hash"):
        known = list(read_prompts(folder, there))
        found = prompt_difference(known, prompts) or f"it has {len(known)} prompts, the command {len(prompts)}"
        raise UserError(
            f"the store {folder} was sampled from other prompts: {found}; give the same data.* and "
            "rollout.max_prompt_length, or another output"
        )
    shown = _KEYS.get(name, name.replace("sampling.", "rollout."))
    values = [str(one.get(name, "absent"))[:40] for one in (stored, ours)]
    raise UserError(
        f"the store {folder} was sampled with another value of {shown}: {values[0]}, not {values[1]}; give the same, "
        "or another output"
    )


def create_or_check(folder: Path, facts: StoreFacts, prompts: Sequence[Prompt]) -> None:
    """Makes the store if there is none. Several jobs may do so at once. Raises UserError as `check_fits`."""
    with locked(folder / ".lock", wait=True):
        for leftover in folder.glob(f"{TEMPORARY}*"):
            leftover.unlink()
        if not (folder / NAME).exists():
            write_prompts(folder, prompts)
            write_facts(folder, facts)  # last: a folder with it is a store
    check_fits(folder, facts, prompts)


def stored_samples(folder: Path, facts: StoreFacts, prompt_ids: Collection[int]) -> dict[int, set[int]]:
    """The samples that the store has of these prompts.

    Raises UserError for a shard that is bad or of another store, and if two hold one rollout.
    """
    wanted = set(prompt_ids)
    found: dict[int, set[int]] = {prompt_id: set() for prompt_id in wanted}
    paths = shard_paths(folder)
    for path in paths:
        for prompt_id, sample in zip(*(keys.tolist() for keys in read_keys(path, facts)), strict=True):
            if prompt_id not in wanted:
                continue
            if sample in found[prompt_id]:
                first = _holder(paths, facts, prompt_id, sample)
                raise UserError(
                    f"{first} and {path.name} both hold prompt {prompt_id} sample {sample}: remove one of them"
                )
            found[prompt_id].add(sample)
    return found


def _holder(paths: Sequence[Path], facts: StoreFacts, prompt_id: int, sample: int) -> Path:
    for path in paths:
        if (prompt_id, sample) in zip(*(keys.tolist() for keys in read_keys(path, facts)), strict=True):
            return path
    raise AssertionError  # it has just been read
