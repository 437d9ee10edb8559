"""Gold answers: what in a data set's text is the answer, and whether anything could be graded against it.

`unreadable_gold` is asked when data are prepared or loaded, not in step 300.
"""

from __future__ import annotations

import json
import re

from s2l_nemo.config.schema import AnswerKind
from s2l_nemo.rewards.choices import boxed_letter
from s2l_nemo.rewards.extraction import last_boxed
from s2l_nemo.rewards.notation import canonical
from s2l_nemo.rewards.plain_numbers import exact_number
from s2l_nemo.rewards.quick import decide

_HASHES = re.compile(r"(?:^|\n)####[ \t]*(\S[^\n]*)\s*$")
_ONE_IN_A_LIST = re.compile(r"\[\s*(?:\"([^\"]*)\"|'([^']*)')\s*\]")


def plain_gold(gold: str) -> str:
    r"""The answer in a gold text: the content of a `\boxed`, what follows `####`, or the only string of a JSON list."""
    if one := _ONE_IN_A_LIST.fullmatch(gold.strip()):
        gold = json.loads(f'"{one[1]}"') if one[1] is not None and _is_json(one[1]) else one[1] or one[2] or ""
    if hashes := _HASHES.search(gold):
        return hashes[1]
    boxed = last_boxed(gold) if "boxed" in gold or "fbox" in gold else None
    return gold if boxed is None else boxed


def _is_json(text: str) -> bool:
    try:
        json.loads(f'"{text}"')
    except ValueError:
        return False
    return True


def unreadable_gold(gold: str, kind: AnswerKind) -> str | None:
    """Why no answer could be graded against this gold, in a few words; None if it is a good one.

    A good gold of `math` is a number, mathematics that the parser reads, or words, and is equal to itself. One of
    `choice` is a letter. One of `exact` is any text. A gold that is neither a number nor words imports sympy, which
    takes a second once.
    """
    if not gold.strip():
        return "it is empty"
    if kind is AnswerKind.exact:
        return None
    if kind is AnswerKind.choice:
        return None if boxed_letter(gold) == gold.strip().upper() else "it is no letter"
    text = canonical(plain_gold(gold))
    if not decide(text, text):
        return "it is not equal to itself"
    # A number and words are decided against any other answer without algebra.
    if exact_number(text) is not None or decide(text, r"\zeta") is not None:
        return None
    from s2l_nemo.rewards.equivalence import why_unreadable

    return why_unreadable(text)
