"""Tasks of the library reasoning-gym with their verifiers. The library is an optional extra."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from s2l_nemo.config.schema import ReasoningGymConfig
from s2l_nemo.data.arithmetic import Split
from s2l_nemo.errors import UserError


class ReasoningGymTask:
    """One task: its training and held-out questions, and its verifier.

    With N = `train_prompts`, rows 0 to N - 1 are training questions and rows from N on are held-out ones. The library
    seeds item i of a data set with seed + i, so the held-out items continue the same stream.
    """

    def __init__(self, config: ReasoningGymConfig) -> None:
        """Raises UserError if the library is not installed, or does not know the task or its parameters."""
        self.name = config.dataset
        self.train_prompts = config.train_prompts
        self._train = _create(config, config.seed)
        self._valid = _create(config, config.seed + config.train_prompts)

    def rows(self, split: Split) -> Iterator[tuple[int, str, str]]:
        """(row, question, answer) of each item. The answer is empty if the task has many right ones.

        Small tasks repeat themselves: a held-out question that also occurs in the training split is left out.
        """
        trained = {item["question"] for item in self._items(self._train)} if split == "valid" else set()
        first = self.train_prompts if split == "valid" else 0
        for offset, item in enumerate(self._items(self._valid if split == "valid" else self._train)):
            if item["question"] not in trained:
                yield first + offset, item["question"], "" if item["answer"] is None else str(item["answer"])

    def score(self, row: int, answer: str) -> float:
        """The score from 0 to 1 that the verifier gives to an answer to the question of that row."""
        dataset, index = (self._train, row) if row < self.train_prompts else (self._valid, row - self.train_prompts)
        return float(dataset.score_answer(answer=answer, entry=dataset[index]))

    def _items(self, dataset: Any) -> Iterator[dict[str, Any]]:
        return (dataset[index] for index in range(self.train_prompts))


def _create(config: ReasoningGymConfig, seed: int) -> Any:
    try:
        import reasoning_gym
    except ImportError as error:
        raise UserError(
            f"data.task=reasoning_gym needs the library reasoning-gym ({error}): pip install 's2l_nemo[reasoning-gym]'"
        ) from error
    try:
        return reasoning_gym.create_dataset(config.dataset, size=config.train_prompts, seed=seed, **config.params)
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(
            f"reasoning-gym refuses data.reasoning_gym.dataset={config.dataset} with params {dict(config.params)}: "
            f"{error}"
        ) from error
