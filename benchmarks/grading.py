r"""Measures how many answers the grader grades in a second, and compares it with direct calls of math-verify.

There are three mixes. In each of them all pairs differ.
- `typical` has a response for every gold answer of a benchmark file. Three of five are right, the others are plausible
  slips. Without a file, nine of ten gold answers are plain numbers.
- `symbolic` has no equal texts and no pair of plain numbers, so every answer takes the symbolic check.
- `distinct` is like it, but no two expressions are alike, so no cache of parsed expressions helps.

The other side calls `math_verify.parse` and `verify` in this process on the same responses, in turns with the grader.
Workers are warm. Their start is paid once in a run and is reported apart. Figures are medians over the repeats.

    python benchmarks/grading.py --file math500.jsonl --output grading.json
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from s2l_nemo.config.schema import RewardsConfig
from s2l_nemo.rewards.answers import last_boxed, normalize_answer
from s2l_nemo.rewards.grader import GradeItem, MathGrader
from s2l_nemo.rewards.notation import canonical
from s2l_nemo.rewards.plain_numbers import exact_number
from s2l_nemo.rewards.quick import decide

Pairs = list[tuple[str, str]]  # (answer, gold)


@dataclass(frozen=True)
class Measurement:
    """Answers graded in a second, as medians over the repeats."""

    mix: str
    answers: int
    checked: float  # fraction of answers that the workers check
    ours: float
    math_verify: float
    errors: int


def generated_golds(rng: random.Random, count: int) -> list[str]:
    """Gold answers like those of the benchmarks: nine in ten are plain numbers."""
    makers: list[Callable[[int, int], str]] = [
        *[lambda a, _: str(a)] * 6,
        *[lambda a, b: rf"\frac{{{a}}}{{{b}}}"] * 3,
        lambda a, b: rf"{a}\sqrt{{{b}}}",
    ]
    return [rng.choice(makers)(rng.randint(2, 2000), rng.randint(2, 99)) for _ in range(count)]


def typical(golds: list[str], rng: random.Random, count: int) -> Pairs:
    """Responses to gold answers in turn: 2 of 5 as they stand, 1 of 5 written in another way, 2 of 5 a slip."""
    pairs = []
    for index in range(count):
        gold = golds[index % len(golds)]
        kind = rng.randrange(5)
        value = exact_number(normalize_answer(gold))
        if kind < 2:
            answer = gold
        elif kind == 2:
            answer = rf"\dfrac{{{value.numerator}}}{{{value.denominator}}}" if value else rf"\left({gold}\right)"
        else:
            answer = str(value + rng.randint(1, 50)) if value is not None else f"{gold}+{rng.randint(1, 50)}"
        pairs.append((answer, gold))
    return pairs


def symbolic(rng: random.Random, count: int) -> Pairs:
    """Short expressions with another way of writing them. Every second one is wrong."""
    pairs = []
    for index in range(count):
        a, b, c = rng.randint(2, 60), rng.randint(2, 60), rng.randint(2, 9)
        slip = index % 2
        pairs.append(
            [
                (rf"{b + slip}+{a}\sqrt{{{c}}}", rf"{a}\sqrt{{{c}}}+{b}"),
                (rf"{a}x+x^2-{b + slip}", rf"x^2+{a}x-{b}"),
                (rf"({b},{a}\pi-{slip})", rf"({b}, {a} \pi)"),
                (rf"{a}<x\le {b + a + slip}", rf"({a}, {a + b}]"),
                (rf"\frac{{{a}\pi}}{{{b + slip}}}", rf"\frac{{{a}}}{{{b}}}\pi"),
                (rf"{b + slip},\sqrt{{{a}}}+1", rf"1+\sqrt{{{a}}}, {b}"),
            ][index // 2 % 6]
        )
    return pairs


def distinct(rng: random.Random, count: int) -> Pairs:
    """Pairs of expressions with five random coefficients."""
    pairs = []
    for index in range(count):
        a, b, c, d, e = (rng.randint(2, 10**4) for _ in range(5))
        shift = index % 2
        pairs.append((rf"{b}+{a}\sqrt{{{c}}}-\frac{{{d + shift}}}{{{e}}}", rf"{a}\sqrt{{{c}}}+{b}-\frac{{{d}}}{{{e}}}"))
    return pairs


def direct(items: list[GradeItem]) -> None:
    """Calls math-verify as its documentation says, without its time-outs."""
    from math_verify import parse, verify

    for item in items:
        gold = parse(f"${item.gold}$", parsing_timeout=None)
        verify(gold, parse(item.response, parsing_timeout=None), timeout_seconds=None)


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(mix: str, pairs: Pairs, rewards: RewardsConfig, repeats: int) -> Measurement:
    """Measures one mix. Each repeat has a new grader, which other pairs have warmed, so that it knows no verdict."""
    items = [GradeItem(0, "", gold, rf"Therefore the answer is $\boxed{{{answer}}}$.") for answer, gold in pairs]
    ours, theirs, errors = [], [], 0
    warm_up = [GradeItem(0, "", r"x+y", rf"\boxed{{y+x+{index}-{index}}}") for index in range(200)]
    direct(warm_up)
    for _ in range(repeats):
        grader = MathGrader(rewards)
        grader.grade(warm_up)
        start = time.perf_counter()
        grades = grader.grade(items)
        ours.append(len(items) / (time.perf_counter() - start))
        grader.close()
        errors = sum(grade.reward is None for grade in grades)
        theirs.append(len(items) / seconds(lambda: direct(items)))
    checked = statistics.mean(
        decide(canonical(item.gold), canonical(last_boxed(item.response) or "")) is None for item in items
    )
    return Measurement(mix, len(items), checked, statistics.median(ours), statistics.median(theirs), errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--file", type=Path, nargs="*", default=[], help="JSONL with `answer`; default: generated golds"
    )
    parser.add_argument("--count", type=int, default=1000, help="answers of each mix")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # math-verify warns that its time-outs are off

    rng = random.Random(0)
    lines = [line for path in args.file for line in path.read_text().splitlines()]
    golds = [str(json.loads(line)["answer"]) for line in lines] or generated_golds(rng, args.count)
    rng.shuffle(golds)
    rewards = RewardsConfig(workers=args.workers)
    start_s = seconds(lambda: MathGrader(rewards).grade([GradeItem(0, "", r"\sqrt{2}", r"\boxed{2\sqrt{2}}")]))
    mixes = {
        "typical": typical(golds, rng, args.count),
        "symbolic": symbolic(rng, args.count),
        "distinct": distinct(rng, args.count),
    }
    results = [measure(mix, pairs, rewards, args.repeats) for mix, pairs in mixes.items()]

    table = Table("mix", "answers", "checked", "ours /s", "math-verify /s", "ratio", "errors")
    for row in results:
        numbers = f"{row.checked:.0%}", f"{row.ours:.0f}", f"{row.math_verify:.0f}", f"{row.ours / row.math_verify:.1f}"
        table.add_row(row.mix, str(row.answers), *numbers, str(row.errors))
    Console().print(table, f"first symbolic check of a run, with the start of a worker: {start_s:.1f} s")
    if args.output:
        machine = {"machine": platform.machine(), "python": platform.python_version(), "workers": args.workers}
        report = {**machine, "start_s": start_s, "results": [asdict(row) for row in results]}
        args.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
