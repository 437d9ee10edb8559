r"""Procedural arithmetic: sums with worked steps. A question is the tuple of its terms.

The worked answer of 278 + 345, units first, each column with its carry:

    8+5=13
    7+4+1=12
    2+3+1=6
    \boxed{623}
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal

from s2l_nemo.errors import UserError

Split = Literal["train", "valid"]
Question = tuple[int, ...]

_HELD_OUT = 8  # one question in eight is held out, whatever the seed
_SCATTER = 2654435761  # prime, so coprime to every 10**a * 9**b: multiplying by it permutes the question space


def question_text(terms: Question) -> str:
    """The prompt, such as `What is 123 + 456?`."""
    return f"What is {' + '.join(map(str, terms))}?"


def answer(terms: Question) -> str:
    """The gold answer."""
    return str(sum(terms))


def worked_answer(terms: Question) -> str:
    r"""One line per column, units first, then the sum in `\boxed{}`."""
    return _work(terms)


def slip(rng: random.Random, terms: Question) -> str:
    """A worked answer with one wrong digit, carried on to a final answer that is always wrong."""
    column = rng.randrange(len(str(max(terms))))
    return _work(terms, slip_column=column, slip_by=rng.randrange(1, 10))


def _work(terms: Question, slip_column: int | None = None, slip_by: int = 0) -> str:
    columns = len(str(max(terms)))
    lines, digits, carry = [], "", 0
    for column in range(columns):
        addends = [term // 10**column % 10 for term in terms] + ([carry] if carry else [])
        total = sum(addends)
        if column == slip_column:
            total += (total + slip_by) % 10 - total % 10  # another last digit, the same carry
        lines.append(f"{'+'.join(map(str, addends))}={total}")
        carry, digit = divmod(total, 10)
        digits = f"{digit}{digits}"
    return "\n".join([*lines, rf"\boxed{{{int(f'{carry}{digits}')}}}"])


def split_size(split: Split, digits: int, terms: int) -> int:
    """Number of questions of a split: together the splits hold each question of the space once."""
    space: int = (9 * 10 ** (digits - 1)) ** terms
    held_out = space // _HELD_OUT
    return held_out if split == "valid" else space - held_out


def draw(rng: random.Random, split: Split, digits: int, terms: int) -> Question:
    """One question of the split, uniformly."""
    return _question(rng.randrange(split_size(split, digits, terms)), split, digits, terms)


def _question(row: int, split: Split, digits: int, terms: int) -> Question:
    """The row-th question of the split. Held-out questions are the first rows of one fixed permutation of the space."""
    first = 10 ** (digits - 1)
    radix = 9 * first
    offset = 0 if split == "valid" else split_size("valid", digits, terms)
    index = (row + offset) * _SCATTER % radix**terms
    values = []
    for _ in range(terms):
        index, value = divmod(index, radix)
        values.append(first + value)
    return tuple(values)


def questions(split: Split, count: int, digits: int, terms: int, seed: int) -> Iterator[Question]:
    """`count` different questions of the split in random order; a larger count only adds questions at the end.

    Raises UserError where the split holds fewer than `count`.
    """
    available = split_size(split, digits, terms)
    if count > available:
        raise UserError(
            f"{count} {split} prompts asked for, but there are only {available} sums of {terms} terms with {digits} "
            "digits in that split: ask for fewer, or raise data.arithmetic.digits or data.arithmetic.terms"
        )
    rng = random.Random(f"{split}-{seed}")
    seen: set[int] = set()
    while len(seen) < count:
        row = rng.randrange(available)
        if row not in seen:
            seen.add(row)
            yield _question(row, split, digits, terms)
