"""The plain world: sums with worked columns, and an explorer that is a smaller copy of the learner.

The learner has about 0.9 M parameters. It is pre-trained on worked answers to sums. As in real text, a share of the
answers has a slip. So the learner often makes slips too, and RL can improve it. The explorer has about a quarter of the
size. It is distilled from the learner on the same text: its loss is the forward KL to the learner's next-token
distribution, as in Sec. 2.2 of the paper.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from s2l_nemo.config.schema import ArithmeticConfig, DataConfig, RewardsConfig
from s2l_nemo.data import arithmetic
from s2l_nemo.data.prompts import load_prompts
from s2l_nemo.rewards.grader import ExactGrader, GradeItem
from s2l_nemo.toy_worlds.models import MAX_LENGTH, Shape, build_model, build_tokenizer
from s2l_nemo.toy_worlds.training import Loss, Stage, distillation_loss, pretraining_loss, text_batches, train

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

LEARNER = Shape(128, 384, 4, 48)
EXPLORER = Shape(64, 192, 4, 24)
MAX_ANSWER = 48  # tokens that a measurement samples; a worked answer has 26 to 33
MEASURED_TOGETHER = 64  # prompts in a batch of a measurement

Steps = Callable[[str, int], Callable[[], None]]  # a title and a number of steps in, what is called after each one out


@dataclass(frozen=True)
class PlainRecipe:
    """Everything that the family depends on."""

    seed: int = 1
    digits: int = 3
    terms: int = 2
    slip_share: float = 0.4  # of the answers in pre-training
    learner: Shape = LEARNER
    explorer: Shape = EXPLORER
    learner_steps: int = 550
    explorer_steps: int = 550
    batch_size: int = 32  # answers in a step
    lr: float = 3e-3
    warmup_steps: int = 40
    measured_prompts: int = 64
    measured_samples: int = 16

    def draw(self, rng: random.Random) -> tuple[str, str]:
        """A training question and its worked answer, which may have a slip."""
        terms = arithmetic.draw(rng, "train", self.digits, self.terms)
        slips = rng.random() < self.slip_share
        answer = arithmetic.slip(rng, terms) if slips else arithmetic.worked_answer(terms)
        return arithmetic.question_text(terms), answer

    def make(self, folder: Path, steps: Steps) -> dict[str, Any]:
        """Trains both models into `folder`. Returns facts about them. On one machine a recipe has one result."""
        tokenizer = build_tokenizer()

        def made(name: str, shape: Shape, loss: Loss, count: int) -> tuple[Qwen3ForCausalLM, dict[str, Any]]:
            torch.manual_seed(self.seed)
            model = build_model(shape, tokenizer)
            stage = Stage(count, self.batch_size, self.lr, self.warmup_steps)
            batches = text_batches(self.draw, stage, tokenizer, seed=f"{name}-{self.seed}")
            last_loss = train(model, loss, batches, stage, steps(f"{name}: training steps", count))
            passes = measure(model, tokenizer, self, steps(f"{name}: held-out prompts", self.measured_prompts))
            model.save_pretrained(folder / name, safe_serialization=True)
            tokenizer.save_pretrained(folder / name)
            return model, {"parameters": model.num_parameters(), "last_loss": round(last_loss, 4), **passes}

        learner, learner_facts = made("learner", self.learner, pretraining_loss, self.learner_steps)
        _, explorer_facts = made("explorer", self.explorer, distillation_loss(learner), self.explorer_steps)
        smallest = self.terms * 10 ** (self.digits - 1)
        largest = self.terms * (10**self.digits - 1)
        return {
            "learner": learner_facts,
            "explorer": explorer_facts,
            "chance": round(1 / (largest - smallest + 1), 6),  # of guessing one of the possible sums
        }


@torch.no_grad()
def measure(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: PlainRecipe, advance: Callable[[], None]
) -> dict[str, float]:
    """pass@1 and pass@k on held-out prompts at temperature 1, with k = `recipe.measured_samples`."""
    data = DataConfig(arithmetic=ArithmeticConfig(digits=recipe.digits, terms=recipe.terms))
    prompts = load_prompts(data, tokenizer, MAX_LENGTH, "valid", recipe.measured_prompts).prompts
    grader = ExactGrader(RewardsConfig())
    torch.manual_seed(recipe.seed)
    rewards: list[list[float]] = []
    for start in range(0, len(prompts), MEASURED_TOGETHER):
        batch = prompts[start : start + MEASURED_TOGETHER]
        tokens_PT = torch.tensor([prompt.token_ids for prompt in batch])  # questions of as many digits are as long
        output_BT = model.generate(
            tokens_PT,
            attention_mask=torch.ones_like(tokens_PT),
            num_return_sequences=recipe.measured_samples,
            max_new_tokens=MAX_ANSWER,
        )
        texts = tokenizer.batch_decode(output_BT[:, tokens_PT.size(1) :], skip_special_tokens=True)
        for index, prompt in enumerate(batch):
            samples = texts[index * recipe.measured_samples : (index + 1) * recipe.measured_samples]
            items = [GradeItem(prompt.prompt_id, prompt.text, prompt.answer, text) for text in samples]
            rewards.append([grade.reward or 0.0 for grade in grader.grade(items)])
            advance()
    rewards_PK = torch.tensor(rewards)
    return {
        "pass@1": round(rewards_PK.mean().item(), 4),
        f"pass@{recipe.measured_samples}": round(rewards_PK.amax(dim=1).mean().item(), 4),
    }
