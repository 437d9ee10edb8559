r"""Decides answers that need no algebra: equal text, words, plain numbers with their units, other bases.

How units and numbers are compared:
- Units: see `units`. A percent sign on both sides is a unit; on one side only, `N\%` may mean N or N/100.
- A number in base b (`52_8`) is right in that base only. A rounded decimal is wrong.
- Commas may part thousands or members: if a text allows both, both are tried on both sides.
- An answer that is nested deeper than any answer is (`nesting`) is right only if it is the gold answer's text.
"""

from __future__ import annotations

import re

from s2l_nemo.rewards.nesting import nested_too_deeply
from s2l_nemo.rewards.notation import MAX_SYMBOLIC
from s2l_nemo.rewards.plain_numbers import exact_number, readings
from s2l_nemo.rewards.units import Unit, split_unit

_BASED = re.compile(r"-?[0-9A-Z]*\d[0-9A-Z]*_(?:\d|\{\d+\}|\d\d)")
_COMMAND = re.compile(r"\\[A-Za-z]+|\\.")
_WORD = re.compile(r"[A-Za-z]{3,}")
_PLAIN_WORDS = re.compile(r"(?!(?:[A-Za-z]{1,2}-)+[A-Za-z]{1,2}$)[A-Za-z][A-Za-z' -]+")  # `p-q` is a difference
_SHORT_WORDS = ("no", "on", "in", "up", "am", "pm", "ok", "so", "it", "we", "he")  # others are products: `xy`
_NEGATION = re.compile(r"(?<![A-Za-z])(?:not|isn't|never|except|cannot)(?![A-Za-z])", re.IGNORECASE)
_LETTER = re.compile(r"[A-Z]")
_LABELLED = re.compile(r"\(([A-J])\)\s*(?![\s(A-Z)])(?![^()]*\([A-J]\))(.+)", re.DOTALL)


def decide(gold: str, answer: str) -> bool | None:
    """Whether a canonical answer is right. None if text and exact numbers cannot tell, so that it takes algebra."""
    if gold == answer:
        return bool(gold)
    answer = without_label(gold, answer)
    verdicts = {_decide(one, other) for one in readings(gold) for other in readings(answer)}
    if True in verdicts:
        return True
    return None if None in verdicts and not nested_too_deeply(answer) else False


def without_label(gold: str, answer: str) -> str:
    """Of an answer like `(C) 10` the letter if the gold answer is a letter, else what stands behind it."""
    labelled = _LABELLED.fullmatch(answer)
    if labelled is None:
        return answer
    return labelled[1] if _LETTER.fullmatch(gold) else labelled[2].strip()


def _decide(gold: str, answer: str) -> bool | None:
    if gold == answer:
        return True
    if not gold or not answer or max(len(gold), len(answer)) > MAX_SYMBOLIC or is_prose(gold):
        return False
    if _PLAIN_WORDS.fullmatch(gold) and (len(gold) > 2 or gold.lower() in _SHORT_WORDS):
        return gold.casefold() == answer.casefold()
    if bool(_NEGATION.search(gold)) != bool(_NEGATION.search(answer)):
        return False
    if _BASED.fullmatch(gold) or _BASED.fullmatch(answer):
        return False
    gold_value, gold_unit = split_unit(gold, trusted=True)
    return _same_quantity(gold_value, gold_unit, *split_unit(answer, also=gold_unit))


def _same_quantity(gold: str, gold_unit: Unit, answer: str, unit: Unit) -> bool | None:
    """Whether two values with their units are equal; None if it takes algebra. A value without a unit fits any unit."""
    if gold_unit is not None and unit is not None and gold_unit != unit:
        return False
    if gold == answer:
        return True
    left, right = exact_number(gold), exact_number(answer)
    if left is None or right is None:
        return None
    if left == right:
        return True
    if "%" not in (gold_unit, unit) or gold_unit == unit:
        return False
    return left == right / 100 if unit == "%" else left / 100 == right


def is_prose(text: str) -> bool:
    """Whether a gold answer is prose, which only its own text can equal: four words of three letters or more."""
    return len(_WORD.findall(_COMMAND.sub(" ", text))) >= 4
