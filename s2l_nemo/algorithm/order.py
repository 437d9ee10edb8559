"""In which order the prompts of a data set are visited. No state: a resumed run needs only its position."""

from __future__ import annotations

import random
from collections.abc import Iterator, Set

from s2l_nemo.errors import UserError


def take(position: int, size: int, count: int, seed: int) -> list[int]:
    """Indices of the next `size` of `count` prompts when `position` prompts have been consumed.

    Every epoch is a new permutation of all prompts, a pure function of (seed, epoch). It gives `count // size` whole
    batches. The prompts that are left at its end are dropped, and they are other ones in each epoch. So no batch spans
    two epochs, and none has a prompt twice.

    Raises UserError if a batch is larger than the data set, or if `position` is not at the start of a batch.
    """
    if size > count:
        raise UserError(
            f"a batch of {size} prompts needs as many different ones, but the data set has {count}: lower "
            "algorithm.prompts_per_step or add prompts"
        )
    if position % size:
        raise UserError(
            f"{position} prompts have been consumed, which is no whole number of batches of {size}: continue with the "
            "algorithm.prompts_per_step that the run began with"
        )
    epoch, batch = divmod(position // size, count // size)
    return _permutation(epoch, count, seed)[batch * size : (batch + 1) * size]


def batches(steps: int, size: int, count: int, seed: int) -> Iterator[list[int]]:
    """What `take` gives at each of the first `steps` steps. It makes each permutation once.

    Raises UserError as `take`.
    """
    take(0, size, count, seed)
    in_epoch = count // size
    for step in range(steps):
        epoch, batch = divmod(step, in_epoch)
        if batch == 0:
            permutation = _permutation(epoch, count, seed)
        yield permutation[batch * size : (batch + 1) * size]


def take_others(position: int, size: int, count: int, seed: int, taken: Set[int]) -> tuple[list[int], int]:
    """Up to `size` indices that are not in `taken`, from any position on, and the position after them.

    The permutations are those of `take`, but follow one another without a gap. There are fewer indices if all `count`
    are taken. Each is returned once.
    """
    chosen: list[int] = []
    while len(chosen) < min(size, count - len(taken)):
        epoch, start = divmod(position, count)
        for index in _permutation(epoch, count, seed)[start:]:
            if len(chosen) == size:
                break
            position += 1
            if index not in taken and index not in chosen:
                chosen.append(index)
    return chosen, position


def _permutation(epoch: int, count: int, seed: int) -> list[int]:
    indices = list(range(count))
    random.Random(f"order-{seed}-{epoch}").shuffle(indices)
    return indices
