"""Procedural word problems of one or two steps, as the easiest of GSM8K: `Ann has 7 pears and buys 5 more. ...`

A problem is a kind and its numbers. One in eight is held out, whatever the seed. Names and things come from the seed.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from s2l_nemo.config.schema import WordProblems
from s2l_nemo.data.arithmetic import Split
from s2l_nemo.errors import UserError

_HELD_OUT = 8
_NAMES = (
    "Ann",
    "Ben",
    "Carla",
    "David",
    "Emma",
    "Farid",
    "Grace",
    "Hugo",
    "Ines",
    "Jonas",
    "Kim",
    "Lena",
    "Mo",
    "Nora",
)
_THINGS = ("apples", "pears", "coins", "books", "stickers", "marbles", "pencils", "cards", "shells", "stamps")

Numbers = tuple[int, ...]


@dataclass(frozen=True)
class Kind:
    """A text with places for a name, another name, things and the numbers a, b and c; and what the answer is."""

    text: str
    numbers: int
    answer: Callable[..., int]
    sensible: Callable[..., bool] = lambda *_: True


KINDS = (
    Kind("{name} has {a} {things} and buys {b} more. How many {things} does {name} have now?", 2, lambda a, b: a + b),
    Kind("{name} has {a} {things} and gives {b} of them to {other}. How many {things} does {name} have left?", 2,
         lambda a, b: a - b, lambda a, b: a > b),
    Kind("{name} has {a} {things}. {other} has {b} more than {name}. How many {things} does {other} have?", 2,
         lambda a, b: a + b),
    Kind("There are {a} {things} in each box. How many {things} are in {b} boxes?", 2, lambda a, b: a * b),
    Kind("{name} finds {a} {things} a day. How many {things} does {name} find in {b} days?", 2, lambda a, b: a * b),
    Kind("{name} is {a} years old. How old will {name} be in {b} years?", 2, lambda a, b: a + b),
    Kind("{name} pays for something that costs {a} dollars with {b} dollars. How many dollars does {name} get back?", 2,
         lambda a, b: b - a, lambda a, b: b > a),
    Kind("{name} has {a} {things}, {other} has {b}, and they lose {c} of them. How many {things} are left?", 3,
         lambda a, b, c: a + b - c, lambda a, b, c: c < a + b),
    Kind("{name} has {a} {things} and buys {b} packs of {c}. How many {things} does {name} have now?", 3,
         lambda a, b, c: a + b * c),
)  # fmt: skip

# Two steps each, with three numbers: two kinds for each of a + b + c, a + b - c, a * b + c, a + b * c and a * b - c.
TWO_STEPS = (
    Kind("{name} has {a} {things}, finds {b} and buys {c}. How many now?", 3, lambda a, b, c: a + b + c),
    Kind("{a} {things}, then {b} more and {c} more. How many in all?", 3, lambda a, b, c: a + b + c),
    Kind("{name} has {a} {things}, finds {b} and loses {c}. How many now?", 3, lambda a, b, c: a + b - c,
         lambda a, b, c: c < a + b),
    Kind("{a} {things} and {b} more, of which {c} are sold. How many are left?", 3, lambda a, b, c: a + b - c,
         lambda a, b, c: c < a + b),
    Kind("{name} buys {a} boxes of {b} {things} and finds {c}. How many now?", 3, lambda a, b, c: a * b + c),
    Kind("{a} rows of {b} {things} and {c} more. How many in all?", 3, lambda a, b, c: a * b + c),
    Kind("{name} has {a} {things} and buys {b} boxes of {c}. How many now?", 3, lambda a, b, c: a + b * c),
    Kind("{a} {things} and {b} rows of {c}. How many in all?", 3, lambda a, b, c: a + b * c),
    Kind("{name} buys {a} boxes of {b} {things} and loses {c}. How many now?", 3, lambda a, b, c: a * b - c,
         lambda a, b, c: c < a * b),
    Kind("{a} rows of {b} {things}, of which {c} are sold. How many are left?", 3, lambda a, b, c: a * b - c,
         lambda a, b, c: c < a * b),
)  # fmt: skip
OF_SET = {WordProblems.easy: KINDS, WordProblems.two_steps: TWO_STEPS}


def words(kinds: Sequence[Kind]) -> list[str]:
    """Every word of the questions, sorted: for a tokenizer that has each as one token."""
    texts = (re.sub(r"\{\w+\}", "", kind.text) for kind in kinds)
    return sorted({*_NAMES, *_THINGS, *(word for text in texts for word in re.findall("[A-Za-z]+", text))})


def questions(
    split: Split, count: int, largest: int, seed: int, kinds: Sequence[Kind] = KINDS
) -> Iterator[tuple[str, str]]:
    """`count` different problems of the split with numbers from 2 to `largest`, and their answers.

    Each kind is equally likely, as long as it has problems left. A larger count only adds problems at the end. Raises
    UserError if the split holds fewer than `count`.
    """
    problems = [
        [
            numbers
            for numbers in product(range(2, largest + 1), repeat=kind.numbers)
            if kind.sensible(*numbers) and (split == "valid") is _is_held_out(number, numbers)
        ]
        for number, kind in enumerate(kinds)
    ]
    available = sum(map(len, problems))
    if count > available:
        raise UserError(
            f"{count} {split} prompts asked for, but there are only {available} word problems with numbers up to "
            f"{largest} in that split: ask for fewer, or raise data.word_problems.largest"
        )
    rng = random.Random(f"{split}-{seed}")
    for of_kind in problems:
        rng.shuffle(of_kind)
    for _ in range(count):
        number = rng.choice([number for number, of_kind in enumerate(problems) if of_kind])
        numbers = problems[number].pop()
        yield _text(kinds[number], numbers, rng), str(kinds[number].answer(*numbers))


@dataclass(frozen=True)
class Problem:
    """One problem as a person reads it, and what it is made of."""

    kind: Kind
    numbers: Numbers
    question: str

    @property
    def answer(self) -> int:
        """The gold answer."""
        return self.kind.answer(*self.numbers)


def draw(rng: random.Random, split: Split, largest: int, kinds: Sequence[Kind]) -> Problem:
    """A problem of the split with numbers from 2 to `largest`. Kinds are equally likely, and all problems of a kind."""
    number = rng.randrange(len(kinds))
    kind = kinds[number]
    while True:
        numbers = tuple(rng.randint(2, largest) for _ in range(kind.numbers))
        if kind.sensible(*numbers) and (split == "valid") is _is_held_out(number, numbers):
            return Problem(kind, numbers, _text(kind, numbers, rng))


def _is_held_out(number: int, numbers: Numbers) -> bool:
    return zlib.crc32(f"{number} {numbers}".encode()) % _HELD_OUT == 0


def _text(kind: Kind, numbers: Numbers, rng: random.Random) -> str:
    name, other = rng.sample(_NAMES, 2)
    values = dict(zip("abc", numbers, strict=False))
    return kind.text.format(name=name, other=other, things=rng.choice(_THINGS), **values)
