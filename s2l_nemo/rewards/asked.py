r"""At start: do prompts ask for what the reward reads? A model that nobody asks for a box never earns one."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from s2l_nemo.config.mix import training_sources
from s2l_nemo.config.schema import AnswerKind, DataConfig, Extract, RewardsConfig, Task
from s2l_nemo.data.benchmarks import INSTRUCTIONS
from s2l_nemo.data.chat import unread_variables
from s2l_nemo.data.prompts import PromptSet
from s2l_nemo.rewards.judge import GoldJudge

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BOX_TOKEN = r"\boxed"
_PLACES = {
    Extract.boxed: r"\boxed{}",
    Extract.answer_line: "a line that begins with Answer:",
    Extract.hashes: "a line behind ####",
    Extract.tag: "<answer>",
    Extract.anywhere: r"\boxed{}, <answer>, or behind #### or Answer:",
    Extract.released: r"\boxed{}, a fraction, a line that begins with Answer:, a number or the last line",
}
# No quotes: they stand in the quotes of an override, and these in those of a shell.
_INSTRUCTIONS = {
    Extract.boxed: INSTRUCTIONS[AnswerKind.math],
    Extract.anywhere: INSTRUCTIONS[AnswerKind.math],
    Extract.answer_line: "Please reason step by step, and end with a line of the form Answer: X.",
    Extract.hashes: "Please reason step by step, and put your final answer behind #### on the last line.",
    Extract.tag: "Please reason step by step, and put your final answer between <answer> and </answer>.",
}
_EXAMPLES = 3


def wanted(data: DataConfig, rewards: RewardsConfig) -> str | None:
    """Where the reward looks for the answer, in words; None for a function of the user's, which may read anything."""
    if rewards.fn is not None:
        return None
    if _takes_any_letter(data, rewards):
        return r"\boxed{} or behind words such as 'the answer is'"
    return _PLACES[rewards.extract]


def _takes_any_letter(data: DataConfig, rewards: RewardsConfig) -> bool:
    """Whether letters are read without a box, too. A generated task has a verifier of its own."""
    generated = not training_sources(data) and data.task is Task.reasoning_gym
    return rewards.answer is AnswerKind.choice and rewards.extract is Extract.boxed and not generated


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
    """Prompts that do not ask for an answer where the reward looks for it.

    A tokenizer with a token for the box was made for models that answer in boxes, asked or not, such as the tiny
    family's.
    """
    place = rewards.extract
    if rewards.fn is not None or place not in _INSTRUCTIONS or _takes_any_letter(data, rewards):
        return []
    without, total = sum(one.unasked.get(place, 0) for one in sets), sum(len(one.prompts) for one in sets)
    boxes_unasked = place in (Extract.boxed, Extract.anywhere) and BOX_TOKEN in tokenizer.get_vocab()
    if without == 0 or boxes_unasked:
        return []
    some = f"{without:,} of {total:,} prompts do not ask"
    return [
        f"{f'none of the {total:,} prompts asks' if without == total else some} for {_PLACES[place]}, where the reward "
        f"""looks for the answer: set 'data.instruction="{_INSTRUCTIONS[place]}"', or data.system_prompt"""
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
