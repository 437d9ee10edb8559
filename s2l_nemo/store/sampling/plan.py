"""Which samples a job draws, and in which files. A pure function of the command and of what the store holds.

A chunk is sampled as a whole and becomes one file, so the engine sees the same batches whether or not it was cut off.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from s2l_nemo.algorithm.groups import explorer_seed
from s2l_nemo.types import Prompt, SampleRequest

BATCHES = 4  # full batches of a chunk: more lose more to a kill, fewer leave rows idle at every end


@dataclass(frozen=True)
class Share:
    """The share of one job: every prompt whose index modulo `jobs` is `job` - 1, `chunk` prompts at a time."""

    job: int
    jobs: int
    chunk: int

    @property
    def prefix(self) -> str:
        """What the names of its files begin with."""
        return f"shard{self.job:04}of{self.jobs:04}-"


@dataclass(frozen=True)
class Chunk:
    """Samples that are missing, of up to `Share.chunk` prompts, and the name of the file that they become."""

    name: str
    prompts: Sequence[Prompt]
    missing: Sequence[Sequence[int]]  # samples of each prompt

    def __len__(self) -> int:
        return sum(map(len, self.missing))

    def requests(self, seed: int, explorer: int) -> list[SampleRequest]:
        """What the engine is asked, prompt by prompt."""
        return [
            SampleRequest(one.prompt_id, n, one.token_ids, explorer_seed(seed, explorer, one.prompt_id, n))
            for one, missing in zip(self.prompts, self.missing, strict=True)
            for n in missing
        ]


def chunk_prompts(samples: int, batch_rows: int) -> int:
    """The prompts of a chunk that fills the engine's batch `BATCHES` times."""
    return max(1, BATCHES * batch_rows // samples)


def plan(
    prompts: Sequence[Prompt], share: Share, samples: int, stored: Mapping[int, Collection[int]]
) -> tuple[list[Chunk], int]:
    """The chunks that are not complete, and how many of the job's rollouts the store has already.

    Once a file is written, its chunk lacks no sample below `samples`. So no later file of the same share, number and
    last sample can exist, and names never collide, whatever chunks earlier commands had.
    """
    mine = prompts[share.job - 1 :: share.jobs]
    chunks, done = [], 0
    for first in range(0, len(mine), share.chunk):
        part = mine[first : first + share.chunk]
        missing = [sorted(set(range(samples)).difference(stored.get(one.prompt_id, ()))) for one in part]
        lacking = [(one, its) for one, its in zip(part, missing, strict=True) if its]
        done += samples * len(part) - sum(map(len, missing))
        if lacking:
            low = min(its[0] for _, its in lacking)
            number = f"chunk{first // share.chunk:06}x{share.chunk:04}"
            name = f"{share.prefix}{number}-samples{low:04}to{samples - 1:04}.parquet"
            chunks.append(Chunk(name, [one for one, _ in lacking], [its for _, its in lacking]))
    return chunks, done
