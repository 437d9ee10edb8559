r"""Worked answers to word problems by strategy: the pre-training text of the world `coverage`.

A strategy takes the three numbers of a problem as they stand in it and does not ask what the question means, as pupils
do who grab the numbers. So it can be written down for every problem, and is right where it applies. Two of the five, of
"Ann has 7 pears and buys 5 boxes of 4. How many now?":

    add              multiply_last
    7+5=12           5*4=20
    12+4=16          20+7=27
    \boxed{16}       \boxed{27}
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from typing_extensions import assert_never

from s2l_nemo.data import word_problems
from s2l_nemo.data.word_problems import Numbers, Problem


class Strategy(str, Enum):
    """What is done with the numbers a, b and c."""

    add = "add"  # a + b + c
    take_away = "take_away"  # a + b - c
    multiply_first = "multiply_first"  # a * b + c
    multiply_last = "multiply_last"  # a + b * c
    multiply_take = "multiply_take"  # a * b - c


def written(strategy: Strategy, numbers: Numbers) -> str:
    r"""The strategy's two lines, and the last result in `\boxed{}`. A difference has its larger number first."""
    first, sign, second, then, third = _steps(strategy, numbers)
    middle, last = _value(first, sign, second), result(strategy, numbers)
    larger, smaller = (middle, third) if then == "+" else (max(middle, third), min(middle, third))
    return f"{first}{sign}{second}={middle}\n{larger}{then}{smaller}={last}\n\\boxed{{{last}}}"


def result(strategy: Strategy, numbers: Numbers) -> int:
    """What the strategy answers."""
    first, sign, second, then, third = _steps(strategy, numbers)
    return _value(_value(first, sign, second), then, third)


def solves(strategy: Strategy, problem: Problem) -> bool:
    """Whether the strategy's answer is right."""
    return result(strategy, problem.numbers) == problem.answer


def solves_text(strategy: Strategy, question: str, answer: str) -> bool:
    """The same of a question as it stands and its gold answer."""
    return str(result(strategy, tuple(map(int, re.findall(r"\d+", question))))) == answer


def _steps(strategy: Strategy, numbers: Numbers) -> tuple[int, str, int, str, int]:
    """The numbers and signs of `(first sign second) then third`."""
    a, b, c = numbers
    match strategy:
        case Strategy.add:
            return a, "+", b, "+", c
        case Strategy.take_away:
            return a, "+", b, "-", c
        case Strategy.multiply_first:
            return a, "*", b, "+", c
        case Strategy.multiply_last:
            return b, "*", c, "+", a
        case Strategy.multiply_take:
            return a, "*", b, "-", c
        case _:
            assert_never(strategy)


def _value(first: int, sign: str, second: int) -> int:
    return {"+": first + second, "-": abs(first - second), "*": first * second}[sign]


@dataclass(frozen=True)
class Text:
    """A mixture of worked answers to training problems.

    `reading` is the share of writers who read the question: they choose among the strategies that solve the problem,
    the others among all. Both choose by `habits`, the weights of the strategies. With `reading` 1 every answer is
    right, and problems that none of the strategies solves do not occur.
    """

    habits: Mapping[Strategy, float]
    reading: float
    largest: int

    def draw(self, rng: random.Random) -> tuple[Problem, Strategy]:
        """A training problem and the strategy by which its answer is written."""
        reads = rng.random() < self.reading
        while True:
            problem = word_problems.draw(rng, "train", self.largest, word_problems.TWO_STEPS)
            known = [one for one in self.habits if not reads or solves(one, problem)]
            if known:
                return problem, rng.choices(known, [self.habits[one] for one in known])[0]

    def pair(self, rng: random.Random) -> tuple[str, str]:
        """The question of such a problem, and its written answer."""
        problem, strategy = self.draw(rng)
        return problem.question, written(strategy, problem.numbers)
