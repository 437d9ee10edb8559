r"""Answers as text: the part of a response that is its answer, and one way of writing it.

Nothing here imports sympy. Every function is pure and takes time linear in its input.
"""

from __future__ import annotations

from s2l_nemo.rewards.choices import extract_choice
from s2l_nemo.rewards.extraction import last_boxed
from s2l_nemo.rewards.notation import canonical
from s2l_nemo.rewards.plain_numbers import readings

__all__ = ["extract_choice", "last_boxed", "normalize_answer"]


def normalize_answer(answer: str) -> str:
    r"""An answer in one way of writing, for counting how many differ and not for showing; see `notation.canonical`.

    Commas that may part thousands are removed. A second call changes nothing in an ordinary answer.
    """
    return readings(canonical(answer))[0]
