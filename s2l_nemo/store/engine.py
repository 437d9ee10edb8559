"""An engine that samples nothing: it answers requests with the rollouts of a store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from s2l_nemo.config.schema import DrawOrder
from s2l_nemo.engines.protocol import Bucket, LocalEngine, RefitStats
from s2l_nemo.errors import UserError
from s2l_nemo.splitmix import GAMMA, mixed
from s2l_nemo.store.reader import Store
from s2l_nemo.types import Completion, SampleRequest, SamplingParams, Source


class StoreEngine(LocalEngine):
    """A frozen explorer from a store (see `protocol.RolloutEngine`).

    A request's `draw` says which of its prompt's samples it is, counted over the run: draw n is the n-th in the order,
    so nothing is drawn twice, and a resumed run needs no state. Seeds are not read. Completions are ungraded: the
    stored rewards are for people, and training grades again.
    """

    def __init__(
        self,
        store: Store,
        *,
        samples: int,
        order: DrawOrder,
        seed: int,
        needs_logprobs: bool,
        source: int = Source.EXPLORER,
    ) -> None:
        """The run may use the first `samples` of each prompt. That number must not change during a run.

        The permutation depends on it, and a store may be extended. `seed` is the run's, `source` the explorer's number.
        Raises UserError if a loss `needs_logprobs` and the store has none.
        """
        store.check(needs_logprobs=needs_logprobs)
        self._store = store
        self.samples = samples
        self._order = order
        self._seed = seed
        self._source = source
        self._checked: SamplingParams | None = None

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        """One completion per request, in the order of the requests; see `RolloutEngine.generate`.

        Raises UserError if the store was sampled otherwise than `params` say, or has no such draw.
        """
        if params != self._checked:
            self._store.check_sampling(params)
            self._checked = params
        prompt_ids = [request.prompt_id for request in requests]
        return self._store.draw_all(
            prompt_ids,
            self._positions(prompt_ids, [request.draw for request in requests]),
            sample_ids=[request.sample_id for request in requests],
            source=self._source,
            limit=params.max_new_tokens,
        )

    def weight_hash(self) -> str:
        """That of the model that sampled. Imported rollouts, whose model is unknown, have the hash of their prompts."""
        return self._store.facts.weight_hash or self._store.facts.prompts_hash

    def close(self) -> None:
        """Closes the store."""
        self._store.close()

    def _positions(self, prompt_ids: Sequence[int], draws: Sequence[int]) -> Sequence[int]:
        """Which stored sample each draw is."""
        needed: dict[int, int] = {}
        for prompt_id, draw in zip(prompt_ids, draws, strict=True):
            if draw >= needed.get(prompt_id, 0):
                needed[prompt_id] = draw + 1
        is_shuffled = self._order is DrawOrder.shuffled
        for prompt_id, count in needed.items():
            stored = self._store.count(prompt_id)
            count = max(count, self.samples) if is_shuffled else count  # the permutation is of all that the run may use
            if count > min(stored, self.samples):
                raise UserError(
                    f"prompt {prompt_id} needs {count} stored samples and has {min(stored, self.samples)} "
                    f"({stored} in {self._store.folder}, of which the run uses {self.samples}): sample more with "
                    "recipes/sample_explorer.py, or use fewer"
                )
        if not is_shuffled or not needed:
            return draws
        orders = permutations(self._seed, list(needed), self.samples)
        rows = dict(zip(needed, orders.tolist(), strict=True))
        return [rows[prompt_id][draw] for prompt_id, draw in zip(prompt_ids, draws, strict=True)]


class ReplayedLearner(StoreEngine):
    """A learner whose samples come from a store, in stored order: `rollout.replay` (see `protocol.LearnerEngine`).

    It holds no model, so it takes no weights. Its completions say that they are of the version of the last refit,
    which is the learner that trains on them, and not the one that has sampled them.
    """

    last_refit: RefitStats | None = None

    def __init__(self, store: Store, *, needs_logprobs: bool) -> None:
        """The run may use all samples of each prompt. Raises UserError as `StoreEngine`."""
        super().__init__(
            store,
            samples=store.most,
            order=DrawOrder.stored,
            seed=0,  # that order needs none
            needs_logprobs=needs_logprobs,
            source=Source.LEARNER,
        )
        self.weight_version = 0

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        """See `StoreEngine.generate`."""
        return [replace(one, weight_version=self.weight_version) for one in super().generate(requests, params)]

    def update_weights(self, buckets: Iterable[Bucket], version: int) -> None:  # noqa: ARG002  nobody makes them
        """Remembers the version. No bucket is asked for, so the actor gathers none."""
        self.weight_version = version


def permutations(seed: int, prompt_ids: Sequence[int], samples: int) -> torch.Tensor:
    """int64 [P, N]: for each prompt an order of N samples, made of the seed and its id alone.

    Samples are sorted by a hash of seed, prompt and sample, a number of 64 bits without a sign.
    """
    seed_1 = torch.tensor([(seed + 2**63) % 2**64 - 2**63])  # any integer, as a signed one of 64 bits
    prompt_P1 = mixed(mixed(seed_1 + GAMMA) + torch.tensor(prompt_ids) + GAMMA).unsqueeze(1)
    hash_PN = mixed(prompt_P1 + torch.arange(samples) + GAMMA)
    return (hash_PN ^ torch.iinfo(torch.int64).min).argsort(dim=1, stable=True)  # the order of unsigned numbers
