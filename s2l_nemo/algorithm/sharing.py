"""Who samples what, and who trains on what. Pure functions without torch: the planner's simulation uses them too."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol, TypeVar


class OfPrompt(Protocol):
    """What belongs to a prompt."""

    @property
    def prompt_id(self) -> int: ...


Request = TypeVar("Request", bound=OfPrompt)


def shares(requests: Sequence[Request], world: int) -> list[list[Request]]:
    """The requests that each of `world` ranks samples. Each request is in the share of exactly one rank.

    The requests of a prompt stay on one rank, so that it is prefilled once. The largest groups come first. Each goes
    to the rank with the fewest requests. If there are fewer prompts than ranks, groups are cut into shares that differ
    by at most one.
    """
    by_prompt: dict[int, list[Request]] = {}
    for request in requests:
        by_prompt.setdefault(request.prompt_id, []).append(request)
    if len(by_prompt) < world:
        ordered = [request for group in by_prompt.values() for request in group]
        return [ordered[len(ordered) * rank // world : len(ordered) * (rank + 1) // world] for rank in range(world)]
    found: list[list[Request]] = [[] for _ in range(world)]
    for group in sorted(by_prompt.values(), key=len, reverse=True):
        min(found, key=len).extend(group)
    return found


def balanced_replicas(tokens_P: Sequence[int], replicas: int, per_update: int) -> list[int]:
    """The data-parallel replica of each of the P groups.

    Each replica gets as many groups of each `per_update` in a row, which are one optimizer step, and about as many
    tokens: the largest group left goes to the replica with the fewest. `tokens_P` are the tokens of each group.

    Raises ValueError if `replicas` does not divide `per_update`.
    """
    if per_update % replicas:
        raise ValueError(f"{per_update} groups cannot be shared equally by {replicas} data-parallel ranks")
    replica_P = [0] * len(tokens_P)
    for start in range(0, len(tokens_P), per_update):
        groups, totals = [0] * replicas, [0] * replicas
        for group in sorted(range(start, min(start + per_update, len(tokens_P))), key=lambda p: -tokens_P[p]):
            free = [replica for replica in range(replicas) if groups[replica] < per_update // replicas]
            replica = min(free, key=lambda replica: totals[replica])
            replica_P[group] = replica
            groups[replica] += 1
            totals[replica] += tokens_P[group]
    return replica_P


def apportion(count: int, shares: Sequence[float]) -> list[int]:
    """Divides `count` samples by the shares: whole parts first, what is left to the largest remainders, then in order.

    Shares are relative, and read as decimals: 0.1 is a tenth, and not the nearest binary number.
    """
    exact = [Fraction(str(share)) for share in shares]
    quotas = [count * share / sum(exact) for share in exact]
    parts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(parts)), key=lambda k: parts[k] - quotas[k])
    for k in by_remainder[: count - sum(parts)]:
        parts[k] += 1
    return parts
