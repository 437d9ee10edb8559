"""Pre-training and distillation of tiny models on questions with written answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

Draw = Callable[[random.Random], tuple[str, str]]  # a question of the training split, and a written answer
Loss = Callable[["Qwen3ForCausalLM", torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Stage:
    """One stretch of training: on how much text, and how fast."""

    steps: int
    batch_size: int  # answers in a step
    lr: float
    warmup_steps: int


def text_batches(
    draw: Draw, stage: Stage, tokenizer: PreTrainedTokenizerFast, seed: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """A batch for every step: tokens_BT and is_answer_BS, true on targets in an answer."""
    rng = random.Random(seed)
    for _ in range(stage.steps):
        prompts, answers = [], []
        for _ in range(stage.batch_size):
            question, answer = draw(rng)
            prompts.append([{"role": "user", "content": question}])
            answers.append(answer)
        prompt_rows = tokenizer.apply_chat_template(prompts, add_generation_prompt=True)
        answer_rows = tokenizer([answer + tokenizer.eos_token for answer in answers])["input_ids"]
        length = max(len(prompt) + len(answer) for prompt, answer in zip(prompt_rows, answer_rows, strict=True))
        tokens_BT = torch.full((len(prompts), length), tokenizer.pad_token_id)
        is_answer_BS = torch.zeros(len(prompts), length - 1, dtype=torch.bool)
        for row, (prompt, answer) in enumerate(zip(prompt_rows, answer_rows, strict=True)):
            end = len(prompt) + len(answer)
            tokens_BT[row, :end] = torch.tensor(prompt + answer)
            is_answer_BS[row, len(prompt) - 1 : end - 1] = True
        yield tokens_BT, is_answer_BS


def answer_logits(model: Qwen3ForCausalLM, tokens_BT: torch.Tensor, is_answer_BS: torch.Tensor) -> torch.Tensor:
    """The logits [N, V] that predict the N answer tokens. Attention is causal, so right padding needs no mask."""
    logits_BTV: torch.Tensor = model(input_ids=tokens_BT, use_cache=False).logits
    return logits_BTV[:, :-1][is_answer_BS]


def pretraining_loss(model: Qwen3ForCausalLM, tokens_BT: torch.Tensor, is_answer_BS: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy of the answer tokens."""
    return F.cross_entropy(answer_logits(model, tokens_BT, is_answer_BS), tokens_BT[:, 1:][is_answer_BS])


def distillation_loss(teacher: Qwen3ForCausalLM) -> Loss:
    """A loss: the mean over answer tokens of the forward KL from the teacher's next-token distribution (Sec. 2.2)."""

    def loss(student: Qwen3ForCausalLM, tokens_BT: torch.Tensor, is_answer_BS: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            teacher_NV = F.log_softmax(answer_logits(teacher, tokens_BT, is_answer_BS), dim=-1)
        student_NV = F.log_softmax(answer_logits(student, tokens_BT, is_answer_BS), dim=-1)
        return F.kl_div(student_NV, teacher_NV, log_target=True, reduction="batchmean")

    return loss


def train(
    model: Qwen3ForCausalLM,
    loss: Loss,
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    stage: Stage,
    advance: Callable[[], None],
) -> float:
    """Trains with AdamW, warm-up and linear decay. Returns the last loss. `advance` is called after each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.lr, betas=(0.9, 0.95), weight_decay=0.01)
    steps, warmup = stage.steps, stage.warmup_steps
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / steps)
    )
    model.train()
    for tokens_BT, is_answer_BS in batches:
        value = loss(model, tokens_BT, is_answer_BS)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        advance()
    model.eval()
    return value.item()
