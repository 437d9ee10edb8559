r"""At start: do prompts ask for what the reward reads? A model that nobody asks for a box never earns a reward."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from s2l_nemo.config.mix import training_sources
from s2l_nemo.config.schema import AnswerKind, DataConfig, RewardsConfig, Task
from s2l_nemo.data.benchmarks import INSTRUCTIONS
from s2l_nemo.data.chat import unread_variables
from s2l_nemo.data.prompts import PromptSet
from s2l_nemo.rewards.judge import GoldJudge

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BOX = r"\boxed"
_EXAMPLES = 3


def wanted(data: DataConfig, rewards: RewardsConfig) -> str | None:
    r"""What the reward reads in a response, in words; None for a function of the user's, which may read anything."""
    if rewards.fn is not None:
        return None
    generated = not training_sources(data) and data.task is Task.reasoning_gym  # its own verifier reads the box
    if rewards.answer is AnswerKind.choice and not generated:
        return r"a letter, in \boxed{} or behind words such as 'the answer is'"
    return r"\boxed{}"


def start_warnings(
    data: DataConfig, rewards: RewardsConfig, tokenizer: PreTrainedTokenizerFast, sets: Sequence[PromptSet]
) -> list[str]:
    """What a person should know before a run trains on these prompts, one line each."""
    return [
        *_unasked(data, rewards, tokenizer, sets),
        *_unreadable(data, rewards, sets),
        *(
            f"data.chat_template_kwargs.{name} changes nothing: the learner's chat template does not read it"
            for name in unread_variables(tokenizer, data)
        ),
    ]


def _unasked(
    data: DataConfig, rewards: RewardsConfig, tokenizer: PreTrainedTokenizerFast, sets: Sequence[PromptSet]
) -> list[str]:
    """Prompts that do not ask for the box.

    A tokenizer with a token for it was made for models that answer in boxes, asked or not, such as the tiny family's.
    """
    without, total = sum(one.without_box for one in sets), sum(len(one.prompts) for one in sets)
    if wanted(data, rewards) != r"\boxed{}" or without == 0 or BOX in tokenizer.get_vocab():
        return []
    how_many = (
        f"none of the {total:,} prompts asks" if without == total else f"{without:,} of {total:,} prompts do not ask"
    )
    return [
        rf"{how_many} for \boxed{{}}, in which the reward looks for the answer: set "
        rf"""'data.instruction="{INSTRUCTIONS[AnswerKind.math]}"', or data.system_prompt"""
    ]


def _unreadable(data: DataConfig, rewards: RewardsConfig, sets: Sequence[PromptSet]) -> list[str]:
    """Gold answers of files that the reward cannot read."""
    if rewards.fn is not None or not training_sources(data):
        return []
    golds = list(dict.fromkeys(prompt.answer for one in sets for prompt in one.prompts))
    with contextlib.closing(GoldJudge(rewards)) as judge:
        reasons = judge.unreadable(golds)
    bad = [f"{gold!r:.40}: {reason}" for gold, reason in zip(golds, reasons, strict=True) if reason is not None]
    if not bad:
        return []
    return [
        f"{len(bad):,} of {len(golds):,} different answers in the data cannot be read by the reward, so no response to "
        f"their questions is ever right ({'; '.join(bad[:_EXAMPLES])}): tools/prepare_data.py leaves such rows out"
    ]
