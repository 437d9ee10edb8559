"""The index of a store: its rollouts in a form that is read by position. A cache, made from the shards.

Parquet is read by row groups, and a training step asks for thousands of single rollouts. So the first opening copies
the shards into `data.bin`: for each rollout its tokens (int32), then its log-probs (float32), shard after shard.
`rows.npy` says where each is. Both lie in a folder named by the store and by names, sizes and times of its shards:
other shards, another index. Axes: R rollouts.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from s2l_nemo.errors import UserError
from s2l_nemo.files import TEMPORARY, sync, write_json_atomic
from s2l_nemo.store.facts import StoreFacts
from s2l_nemo.store.locks import locked
from s2l_nemo.store.shards import Shard, read_shard, shard_paths

_FORMAT = 1  # must change if the files of an index change
ROW = np.dtype(
    [
        ("prompt_id", "<i8"),
        ("offset", "<i8"),  # first byte in data.bin
        ("sample", "<i4"),
        ("length", "<i4"),  # tokens
        ("stopped", "?"),
    ]
)
Rows = npt.NDArray[np.void]
Rewards = npt.NDArray[np.float32]
_ARRAYS = ("rows.npy", "rewards.npy")
_BLOCK = 2**20  # rows that are checked at a time
OnShard = Callable[[int, int], None]  # shards done, shards in all


@dataclass(frozen=True)
class Index:
    """Rows and rewards in the order of (prompt_id, sample), mapped, and the open file of tokens and log-probs."""

    rows_R: Rows
    rewards_R: Rewards
    data: BinaryIO


def open_index(
    folder: Path, home: Path, facts: StoreFacts, prompt_ids: Callable[[], AbstractSet[int]], on_shard: OnShard | None
) -> Index:
    """The index of the store in `folder`, kept in `home`. It is made if it is missing or of other shards.

    Processes that open a store at once make one index. `prompt_ids` is called if one is made. Raises UserError if a
    shard is bad, if two hold one rollout, if a sample is missing before others of its prompt, or if `home` cannot be
    written.
    """
    shards = shard_paths(folder)
    path = home / _key(shards, facts)
    index = _read(path, facts)
    if index is not None:
        return index
    try:
        home.mkdir(parents=True, exist_ok=True)
        with locked(home / "lock", wait=True):
            index = _read(path, facts)  # another process may have made it
            if index is None:
                _make(path, shards, facts, prompt_ids(), on_shard)
    except OSError as error:
        raise UserError(
            f"cannot write the index {home}: {error.strerror}; make the folder writable, free some space, or give the "
            "index another folder"
        ) from error
    index = index or _read(path, facts)
    assert index is not None
    return index


def _key(shards: Sequence[Path], facts: StoreFacts) -> str:
    listing = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in shards]
    return f"{_hash([_FORMAT, facts.identity()])}-{_hash(listing)}"


def _hash(values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _read(path: Path, facts: StoreFacts) -> Index | None:
    """None if there is no index, or one that is damaged: it may come with a store from elsewhere."""
    try:
        head = json.loads((path / "index.json").read_bytes())
        size = head["data_bytes"]
        if {name: _hash_file(path / name) for name in _ARRAYS} != head["sha256"]:
            return None
        data = (path / "data.bin").open("rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, RecursionError):
        return None
    arrays = _arrays(path)
    if os.fstat(data.fileno()).st_size != size or arrays is None or not _fit(arrays[0], size, facts.has_logprobs):
        data.close()
        return None
    return Index(*arrays, data)


def _arrays(path: Path) -> tuple[Rows, Rewards] | None:
    """Both arrays, mapped; None if they are none of ours."""
    try:
        rows_R, rewards_R = (
            np.lib.format.open_memmap(path / name, mode="r")  # type: ignore[no-untyped-call]
            for name in _ARRAYS
        )
    except OSError:
        raise
    except Exception:  # the head of an array is read with Python's own parser, which fails in many ways
        return None
    is_ours = rows_R.dtype == ROW and rewards_R.dtype == np.float32 and rows_R.ndim == 1
    return (rows_R, rewards_R) if is_ours and rows_R.shape == rewards_R.shape else None


def _fit(rows_R: Rows, size: int, has_logprobs: bool) -> bool:
    """Whether rows ascend, with samples from 0, and lie within data of `size` bytes. Looks at some at a time."""
    if any(rows_R[:1]["sample"] != 0) or any(rows_R[:1]["prompt_id"] < 0):
        return False
    for first in range(0, len(rows_R), _BLOCK):
        part_R = rows_R[first : first + _BLOCK]
        bytes_R = (8 if has_logprobs else 4) * part_R["length"].astype(np.int64)
        inside_R = (part_R["offset"] >= 0) & (bytes_R >= 0) & (part_R["offset"] <= size - bytes_R)
        after_R = rows_R[first + 1 : first + _BLOCK + 1]
        before_R = part_R[: len(after_R)]
        same_R = after_R["prompt_id"] == before_R["prompt_id"]
        ordered_R = same_R | (after_R["prompt_id"] > before_R["prompt_id"])
        counted_R = after_R["sample"] == np.where(same_R, before_R["sample"].astype(np.int64) + 1, 0)
        if not (inside_R & (part_R["offset"] % 4 == 0)).all() or not (ordered_R & counted_R).all():
            return False
    return True


def _make(
    path: Path, shards: Sequence[Path], facts: StoreFacts, prompt_ids: AbstractSet[int], on_shard: OnShard | None
) -> None:
    """Writes the index under a temporary name and renames it. Indexes of the store's earlier shards go."""
    temporary = path.parent / f"{TEMPORARY}{path.name}"
    store = path.name.partition("-")[0]
    for old in (*path.parent.glob(f"{store}-*"), *path.parent.glob(f"{TEMPORARY}{store}-*")):
        shutil.rmtree(old)
    temporary.mkdir()
    parts: list[tuple[Rows, Rewards]] = []
    with (temporary / "data.bin").open("wb") as data:
        for number, shard_path in enumerate(shards):
            if on_shard:
                on_shard(number, len(shards))
            shard = read_shard(shard_path, facts, prompt_ids)
            parts.append((_append(data, shard), shard.reward_R))
        if on_shard:
            on_shard(len(shards), len(shards))
        data.flush()
        os.fsync(data.fileno())
        size = data.tell()
    for name, array in zip(_ARRAYS, _sorted(parts, shards), strict=True):
        np.save(temporary / name, array, allow_pickle=False)
        sync(temporary / name)
    head = {"data_bytes": size, "sha256": {name: _hash_file(temporary / name) for name in _ARRAYS}}
    write_json_atomic(temporary / "index.json", head)
    temporary.rename(path)
    sync(path.parent)


def _append(data: BinaryIO, shard: Shard) -> Rows:
    """Writes tokens and log-probs of a shard. Returns its rows."""
    rows_R = np.zeros(len(shard.prompt_id_R), ROW)
    words = 1 if shard.logprobs_N is None else 2  # of 4 bytes for each token
    starts_R = np.cumsum(shard.length_R) - shard.length_R
    rows_R["prompt_id"], rows_R["sample"], rows_R["length"] = shard.prompt_id_R, shard.sample_R, shard.length_R
    rows_R["stopped"] = shard.stopped_R
    rows_R["offset"] = data.tell() + 4 * words * starts_R
    if shard.logprobs_N is None:
        data.write(shard.tokens_N.tobytes())
        return rows_R
    place_N = np.arange(len(shard.tokens_N)) + np.repeat(starts_R, shard.length_R)
    content = np.empty(2 * len(shard.tokens_N), np.int32)
    content[place_N] = shard.tokens_N
    content[place_N + np.repeat(shard.length_R, shard.length_R)] = shard.logprobs_N.view(np.int32)
    data.write(content.tobytes())
    return rows_R


def _sorted(parts: Sequence[tuple[Rows, Rewards]], shards: Sequence[Path]) -> tuple[Rows, Rewards]:
    """All rows and rewards by (prompt_id, sample). Raises UserError for a rollout that comes twice, or is missing."""
    if not parts:
        return np.zeros(0, ROW), np.zeros(0, np.float32)
    rows_R, rewards_R = (np.concatenate(column) for column in zip(*parts, strict=True))
    shard_R = np.repeat(np.arange(len(parts)), [len(rows) for rows, _ in parts])
    order_R = np.lexsort((shard_R, rows_R["sample"], rows_R["prompt_id"]))
    rows_R, rewards_R, shard_R = rows_R[order_R], rewards_R[order_R], shard_R[order_R]
    prompt_R, sample_R = rows_R["prompt_id"], rows_R["sample"].astype(np.int64)
    same = (prompt_R[1:] == prompt_R[:-1]) & (sample_R[1:] == sample_R[:-1])
    if same.any():
        row = int(np.argmax(same))
        raise UserError(
            f"{shards[shard_R[row]]} and {shards[shard_R[row + 1]].name} both hold prompt {prompt_R[row]} sample "
            f"{sample_R[row]}: remove one of them"
        )
    is_first = np.concatenate([[True], prompt_R[1:] != prompt_R[:-1]])
    expected_R = np.arange(len(rows_R)) - np.maximum.accumulate(np.where(is_first, np.arange(len(rows_R)), 0))
    if not np.array_equal(sample_R, expected_R):
        row = int(np.argmax(sample_R != expected_R))
        raise UserError(
            f"prompt {prompt_R[row]} has no sample {expected_R[row]} but sample {sample_R[row]} "
            f"({shards[shard_R[row]]}): a shard is missing; run the sampler again"
        )
    return rows_R, rewards_R
