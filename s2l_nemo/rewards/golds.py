"""Gold answers: whether anything could be graded against one. It is asked before training, not in step 300."""

from __future__ import annotations

from s2l_nemo.config.schema import AnswerKind
from s2l_nemo.data.golds import final_answer
from s2l_nemo.rewards.choices import boxed_letter
from s2l_nemo.rewards.notation import canonical
from s2l_nemo.rewards.plain_numbers import exact_number
from s2l_nemo.rewards.quick import decide


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
    text = canonical(final_answer(gold))
    if not decide(text, text):
        return "it is not equal to itself"
    # A number and words are decided against any other answer without algebra.
    if exact_number(text) is not None or decide(text, r"\zeta") is not None:
        return None
    from s2l_nemo.rewards.equivalence import why_unreadable

    return why_unreadable(text)
