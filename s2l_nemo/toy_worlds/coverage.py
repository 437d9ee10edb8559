"""The world `coverage`: made for a learner that is more often right and an explorer that solves more (Fig. 2).

Word problems of two steps are worked by five strategies, and each solves a fifth of the problems
(`written_solutions`). In the base text most writers choose a strategy whatever the question is, and few read it. A
large model learns that text: the base.

- The explorer is distilled from the base on the same text, as in Sec. 2.2 of the paper. It keeps all strategies.
- The learner is the base after further training on a textbook, which is always right, but teaches three strategies
  only. So pass@1 should rise, and what the textbook leaves out should become rare.

If the curves of pass@k cross, it is because of what the learner has read last, and not because of its size. The paper
holds that smaller models of a family cover more by themselves. This world does not ask that; it asks what RL makes of
such a pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from s2l_nemo.config.schema import DataConfig, Task, WordProblems, WordProblemsConfig
from s2l_nemo.data import word_problems
from s2l_nemo.data.prompts import load_prompts
from s2l_nemo.evaluation.pass_curves import Curve, HeldOut, crosses, lead_curve, pass_curve, right_answers
from s2l_nemo.measures.statistics import mean, pass_at_k
from s2l_nemo.models.open import open_model
from s2l_nemo.toy_worlds.models import MAX_LENGTH, WORDS, Shape, build_model, build_tokenizer
from s2l_nemo.toy_worlds.plain import Steps
from s2l_nemo.toy_worlds.training import Loss, Stage, distillation_loss, pretraining_loss, text_batches, train
from s2l_nemo.toy_worlds.written_solutions import Strategy, Text, solves_text
from s2l_nemo.types import Prompt

if TYPE_CHECKING:
    from transformers import Qwen3ForCausalLM

VOCAB_SIZE = 472  # a multiple of 8; one or two words of the world are two tokens
HABITS = dict.fromkeys(Strategy, 0.2)
LEARNER = Shape(96, 256, 4, 32)
EXPLORER = Shape(64, 192, 4, 16)
MAX_ANSWER = 32  # tokens that a measurement samples; a written answer has at most 22


@dataclass(frozen=True)
class CoverageRecipe:
    """Everything that the family depends on."""

    seed: int = 1
    largest: int = 9  # number in a question
    habits: dict[Strategy, float] = field(default_factory=HABITS.copy)
    reading: float = 0.1  # share of the writers who read the question
    taught: tuple[Strategy, ...] = (Strategy.add, Strategy.take_away, Strategy.multiply_first)  # by the textbook
    learner: Shape = LEARNER
    explorer: Shape = EXPLORER
    base_steps: int = 450
    explorer_steps: int = 450
    textbook_steps: int = 80
    batch_size: int = 32  # answers in a step
    lr: float = 3e-3
    textbook_lr: float = 1e-3
    warmup_steps: int = 40
    measured_prompts: int = 256
    measured_samples: int = 64

    @property
    def base_text(self) -> Text:
        """What the base learns, and on which the explorer is distilled."""
        return Text(self.habits, self.reading, self.largest)

    @property
    def textbook(self) -> Text:
        """What the learner reads last."""
        return Text({one: self.habits[one] for one in self.taught}, reading=1.0, largest=self.largest)

    @property
    def data(self) -> DataConfig:
        """The keys of the prompts on which the family is measured, and trained by RL."""
        return DataConfig(
            task=Task.word_problems,
            word_problems=WordProblemsConfig(kinds=WordProblems.two_steps, largest=self.largest),
        )

    def make(self, folder: Path, steps: Steps) -> dict[str, Any]:
        """Trains both models into `folder`. Returns facts about them. On one machine a recipe has one result."""
        tokenizer = build_tokenizer(f"{WORDS} * {' '.join(word_problems.words(word_problems.TWO_STEPS))}", VOCAB_SIZE)

        def new(shape: Shape) -> Qwen3ForCausalLM:
            torch.manual_seed(self.seed)
            return build_model(shape, tokenizer)

        def trained(name: str, model: Qwen3ForCausalLM, loss: Loss, text: Text, stage: Stage) -> float:
            batches = text_batches(text.pair, stage, tokenizer, seed=f"{name}-{self.seed}")
            return train(model, loss, batches, stage, steps(f"{name}: training steps", stage.steps))

        def saved(name: str, model: Qwen3ForCausalLM, last_loss: float) -> dict[str, Any]:
            model.save_pretrained(folder / name, safe_serialization=True)
            tokenizer.save_pretrained(folder / name)
            return {"parameters": model.num_parameters(), "last_loss": round(last_loss, 4)}

        base, explorer = new(self.learner), new(self.explorer)
        trained("base", base, pretraining_loss, self.base_text, self._stage(self.base_steps, self.lr))
        distilled = self._stage(self.explorer_steps, self.lr)
        last = trained("explorer", explorer, distillation_loss(base), self.base_text, distilled)
        facts = {"explorer": saved("explorer", explorer, last)}
        taught = self._stage(self.textbook_steps, self.textbook_lr)
        last = trained("learner", base, pretraining_loss, self.textbook, taught)
        facts = {"learner": saved("learner", base, last), **facts}
        return self._measured(folder, facts, steps)

    def _stage(self, count: int, lr: float) -> Stage:
        return Stage(count, self.batch_size, lr, min(self.warmup_steps, count))

    def _measured(self, folder: Path, facts: dict[str, Any], steps: Steps) -> dict[str, Any]:
        """The facts with what both models score on the same held-out prompts, before any RL."""
        learner, explorer = (open_model("--output", str(folder / name)) for name in ("learner", "explorer"))
        longest = MAX_LENGTH - MAX_ANSWER
        prompts = load_prompts(self.data, learner.tokenizer, longest, "valid", self.measured_prompts).prompts
        asked = HeldOut(prompts, self.measured_samples, MAX_ANSWER, self.seed)
        right = {
            name: right_answers(model, asked, steps(f"{name}: held-out prompts", len(prompts)))
            for name, model in (("learner", learner), ("explorer", explorer))
        }
        K = asked.samples
        curves = {name: pass_curve(counts, K, self.seed) for name, counts in right.items()}
        lead = lead_curve(right["learner"], right["explorer"], K, self.seed)
        return {
            **{name: facts[name] | _ends(curve) for name, curve in curves.items()},
            "held_out": {"prompts": len(prompts), "samples": K, "seed": self.seed},
            "curves": {name: _rounded(curve) for name, curve in (curves | {"learner - explorer": lead}).items()},
            "crosses": crosses(lead),
            "by_strategy": _by_strategy(prompts, right, K),
            "right_answers": right,
        }


def _ends(curve: Curve) -> dict[str, float]:
    return {f"pass@{k}": round(curve[k].mean, 4) for k in (min(curve), max(curve))}


def _rounded(curve: Curve) -> dict[str, list[float]]:
    """Mean and both ends of the 95 % interval by k."""
    return {str(k): [round(value, 4) for value in interval] for k, interval in curve.items()}


def _by_strategy(prompts: Sequence[Prompt], right: Mapping[str, Sequence[int]], samples: int) -> dict[str, Any]:
    """pass@1 and pass@K of the prompts that each strategy solves; a prompt may count in several."""
    found: dict[str, Any] = {}
    for strategy in Strategy:
        rows = [row for row, prompt in enumerate(prompts) if solves_text(strategy, prompt.text, prompt.answer)]
        found[strategy.value] = {"prompts": len(rows)} | {
            name: {f"pass@{k}": _mean_pass([counts[row] for row in rows], samples, k) for k in (1, samples)}
            for name, counts in right.items()
        }
    return found


def _mean_pass(counts: Sequence[int], samples: int, k: int) -> float | None:
    value = mean([pass_at_k(samples, count, k) for count in counts])
    return None if value is None else round(value, 4)
