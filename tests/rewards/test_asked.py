r"""Warnings at the start of a run: prompts that do not ask for what the reward reads, golds that it cannot read."""

from __future__ import annotations

import shlex
import string
from pathlib import Path
from typing import Any

import pytest

from s2l_nemo.config.load import load_config
from s2l_nemo.config.schema import AnswerKind, Config, DataConfig, Extract, RewardsConfig, Task
from s2l_nemo.data.benchmarks import INSTRUCTIONS
from s2l_nemo.data.prompts import PromptSet, load_prompts
from s2l_nemo.rewards.asked import start_warnings, wanted
from s2l_nemo.types import Prompt
from tests.character_tokenizer import TEMPLATE, character_tokenizer

CONF = Path(__file__).resolve().parents[2] / "conf"
FILES = DataConfig(path="a.jsonl", valid_path="b.jsonl")


def prompts(count: int, unasked: int, answer: str = "1") -> PromptSet:
    every = [Prompt(number, "?", answer, (1,)) for number in range(count)]
    return PromptSet(every, 0, [], dict.fromkeys(Extract, unasked))


def warnings(data: DataConfig, rewards: RewardsConfig, *sets: PromptSet) -> list[str]:
    return start_warnings(data, rewards, character_tokenizer(), sets)


def test_prompts_that_nobody_asks_for_a_box_are_named_with_the_key_to_set() -> None:
    (warning,) = warnings(FILES, RewardsConfig(), prompts(1500, 1500), prompts(20, 20))
    assert warning.startswith(
        r"none of the 1,520 prompts asks for \boxed{}, where the reward looks for the answer: set"
    )
    assert as_set(warning).data.instruction == INSTRUCTIONS[AnswerKind.math]
    (warning,) = warnings(FILES, RewardsConfig(), prompts(1500, 0), prompts(20, 20))
    assert warning.startswith(r"20 of 1,520 prompts do not ask for \boxed{}")
    assert warnings(FILES, RewardsConfig(), prompts(1500, 0), prompts(20, 0)) == []


def as_set(warning: str) -> Config:
    """The configuration with what a warning says to set. It can be pasted into a shell."""
    (override,) = [word for word in shlex.split(warning) if word.startswith("data.instruction=")]
    return load_config([override.rstrip(",")], CONF)


@pytest.mark.parametrize("extract", [Extract.boxed, Extract.answer_line, Extract.hashes, Extract.tag, Extract.anywhere])
def test_the_instruction_asks_for_what_is_read(tmp_path: Path, extract: Extract) -> None:
    (tmp_path / "bare.jsonl").write_text('{"prompt": "1+1?", "answer": "2"}\n')
    rewards, tokenizer = RewardsConfig(extract=extract), character_tokenizer()

    def warned(instruction: str | None) -> list[str]:
        path = str(tmp_path / "bare.jsonl")
        data = DataConfig(path=path, valid_path=path, instruction=instruction)
        return start_warnings(data, rewards, tokenizer, [load_prompts(data, tokenizer, 999, "train")])

    (warning,) = warned(None)
    assert warned(as_set(warning).data.instruction) == []


def test_the_released_evaluation_reads_whatever_comes_last() -> None:
    assert warnings(FILES, RewardsConfig(extract=Extract.released), prompts(2, 2)) == []


def test_a_reward_that_reads_something_else_is_left_alone() -> None:
    for rewards in (RewardsConfig(answer=AnswerKind.choice), RewardsConfig(fn="package.module:function")):
        assert warnings(FILES, rewards, prompts(2, 2, "A")) == []
    for rewards, data in (
        (RewardsConfig(answer=AnswerKind.exact), FILES),
        (RewardsConfig(), DataConfig()),
        (RewardsConfig(answer=AnswerKind.choice), DataConfig(task=Task.reasoning_gym)),
    ):
        assert len(warnings(data, rewards, prompts(2, 2))) == 1
    letters = RewardsConfig(answer=AnswerKind.choice, extract=Extract.tag)
    assert len(warnings(FILES, letters, prompts(2, 2, "A"))) == 1


def test_what_the_reward_reads() -> None:
    assert wanted(FILES, RewardsConfig()) == wanted(DataConfig(), RewardsConfig()) == r"\boxed{}"
    assert wanted(FILES, RewardsConfig(fn="package.module:function")) is None
    assert wanted(FILES, RewardsConfig(extract=Extract.hashes)) == "a line behind ####"
    assert "the answer is" in str(wanted(FILES, RewardsConfig(answer=AnswerKind.choice)))


@pytest.mark.parametrize(("word", "count"), [(r"\boxed", 0), ("boxed", 1)])
def test_models_that_answer_in_boxes_unasked_need_no_warning(word: str, count: int) -> None:
    """A token for the box says it: the tiny family has one, and is not asked for boxes."""
    tokenizer: Any = character_tokenizer()
    tokenizer.add_tokens([word])
    assert len(start_warnings(FILES, RewardsConfig(), tokenizer, [prompts(2, 2)])) == count


def test_the_tiny_preset_with_a_model_of_another_kind_warns() -> None:
    data = load_config([], CONF).data
    tokenizer = character_tokenizer(alphabet=string.printable)
    sets = [load_prompts(data, tokenizer, 64, "train", 9)]
    assert [warning[:4] for warning in start_warnings(data, RewardsConfig(), tokenizer, sets)] == ["none"]


def test_the_paper_preset_asks_for_what_its_reward_reads(tmp_path: Path) -> None:
    (tmp_path / "bare.jsonl").write_text('{"prompt": "1+1?", "answer": "2"}\n')
    cfg = load_config(["--config-name", "paper"], CONF)
    cfg.data.path = cfg.data.valid_path = str(tmp_path / "bare.jsonl")
    tokenizer = character_tokenizer(TEMPLATE + "{% if not enable_thinking %}{% endif %}")
    sets = [load_prompts(cfg.data, tokenizer, cfg.rollout.max_prompt_length, "train")]
    assert start_warnings(cfg.data, cfg.rewards, tokenizer, sets) == []
    bare = load_config(
        ["--config-name", "paper", "data.format=base", "data.chat_template_kwargs.enable_thinking=null"], CONF
    )
    bare.data.path = bare.data.valid_path = cfg.data.path
    assert start_warnings(bare.data, bare.rewards, tokenizer, [load_prompts(bare.data, tokenizer, 512, "train")]) == []
    cfg.data.instruction = None
    sets = [load_prompts(cfg.data, tokenizer, cfg.rollout.max_prompt_length, "train")]
    assert len(start_warnings(cfg.data, cfg.rewards, tokenizer, sets)) == 1


def test_golds_of_files_that_cannot_be_read_are_named() -> None:
    sets = [prompts(3, 0, "7"), prompts(2, 0, "t(0,4]"), prompts(2, 0, r"\frac{1}{2}")]
    (warning,) = warnings(FILES, RewardsConfig(workers=1), *sets)
    assert warning.startswith("1 of 3 different answers in the data cannot be read by the reward")
    assert "'t(0,4]': " in warning
    assert warnings(DataConfig(), RewardsConfig(), *sets) == []  # generated
    assert warnings(FILES, RewardsConfig(fn="package.module:function"), *sets) == []


def test_a_variable_that_the_template_does_not_read_is_named() -> None:
    data = DataConfig(chat_template_kwargs={"enable_thinking": False, "messages": None})
    (warning,) = warnings(data, RewardsConfig(), prompts(1, 0))
    assert warning.startswith("data.chat_template_kwargs.enable_thinking changes nothing")
