"""How benchmarks are asked: keys that evaluations and the validation sets of a run share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from s2l_nemo.fields import COUNT, POSITIVE_COUNT, SHARE, TEMPERATURE_OR_GREEDY, between, key


class Mode(str, Enum):
    nothink = "nothink"
    think = "think"


class PromptStyle(str, Enum):
    """What stands in a prompt besides the question."""

    boxed = "boxed"  # asks for reasoning and an answer in a box
    plain = "plain"  # nothing
    released = (
        "released"  # as the paper's released evaluation has it: Qwen3's switch /no_think or /think, no instruction
    )


@dataclass
class Asking:
    """The mode's sampling, but for keys that are given."""

    prompt: PromptStyle = key(
        PromptStyle.boxed,
        "after the question: boxed asks for a boxed answer, plain for nothing, released as the paper's evaluation",
    )
    proofs: bool = key(True, "also olympiadbench's proofs, whose answer is a sentence that no grader judges fairly")
    limit: int | None = key(None, "only the first problems of each benchmark", POSITIVE_COUNT)
    max_tokens: int | None = key(None, "tokens of a response; null: the benchmark's", POSITIVE_COUNT)
    temperature: float | None = key(None, "sampling temperature; null: the mode's; 0 is greedy", TEMPERATURE_OR_GREEDY)
    top_p: float | None = key(
        None, "sample among the likeliest tokens of this total probability; null: the mode's", SHARE
    )
    top_k: int | None = key(None, "sample among this many likeliest tokens; null: the mode's; 0: off", COUNT)
    presence_penalty: float | None = key(
        None, "taken off the logit of every token that the response holds; null: the mode's", between(-2, 2)
    )
