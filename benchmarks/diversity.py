"""Measures the seconds of the three diversity metrics, and compares them with nltk and a plain Levenshtein table.

The text is random. Token ids follow Zipf's law with exponent 1.2, and there are at most 2,000 of them. Each sample
repeats a random part of the first sample of its problem, so that samples share long n-grams. The reference would take
hours for all of the text. So for the ratio both sides run on `--reference-samples` samples of one problem.

    python benchmarks/diversity.py --output diversity.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from s2l_nemo.measures.diversity import Samples, diversity_P, edit_diversity, self_bleu, unique_fraction


def build_problems(problems: int, samples: int, length: int) -> list[Samples]:
    rng = np.random.default_rng(0)
    built = []
    for _ in range(problems):
        tokens = np.minimum(rng.zipf(1.2, (samples, length)), 2000)
        for row in tokens[1:]:
            start, stop = np.sort(rng.integers(0, length + 1, 2))
            row[start:stop] = tokens[0, start:stop]
        built.append(Samples(tokens.tolist(), [str(answer) for answer in rng.integers(0, samples // 2 + 1, samples)]))
    return built


def nltk_self_bleu(tokens_K: Sequence[Sequence[int]]) -> float:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smoothing = SmoothingFunction().method1
    others = [[*tokens_K[:k], *tokens_K[k + 1 :]] for k in range(len(tokens_K))]
    scores = [sentence_bleu(o, t, smoothing_function=smoothing) for o, t in zip(others, tokens_K, strict=True)]
    return statistics.mean(map(float, scores))


def plain_edit_diversity(tokens_K: Sequence[Sequence[int]]) -> float:
    distances = []
    for k, a in enumerate(tokens_K):
        for b in tokens_K[:k]:
            row = list(range(len(b) + 1))
            for i, x in enumerate(a, 1):
                above, row = row, [i]
                for j, y in enumerate(b, 1):
                    row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
            distances.append(row[-1] / max(len(a), len(b), 1))
    return statistics.mean(distances)


def seconds(run: Callable[[], object], repeats: int) -> float:
    """The median seconds of the repeats."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def measure_all(problems: list[Samples], workers: int, repeats: int) -> dict[str, float]:
    return {
        "Self-BLEU": seconds(lambda: [self_bleu(p.tokens_K) for p in problems], repeats),
        "edit": seconds(lambda: [edit_diversity(p.tokens_K, workers) for p in problems], repeats),
        "unique": seconds(lambda: [unique_fraction(p.answers_K) for p in problems], repeats),
        "all three": seconds(lambda: diversity_P(problems, workers), repeats),
    }


def measure_reference(tokens_K: Sequence[Sequence[int]], repeats: int) -> dict[str, tuple[float, float]]:
    """Seconds of our metric and of the reference on the same samples, in one thread. Asserts that results are equal."""
    sides: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {
        "Self-BLEU": (lambda: self_bleu(tokens_K), lambda: nltk_self_bleu(tokens_K)),
        "edit": (lambda: edit_diversity(tokens_K, workers=1), lambda: plain_edit_diversity(tokens_K)),
    }
    for ours, theirs in sides.values():
        assert abs(ours() - theirs()) < 1e-9
    return {name: (seconds(ours, repeats), seconds(theirs, repeats)) for name, (ours, theirs) in sides.items()}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--problems", type=int, default=30)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=500, help="tokens of a sample")
    parser.add_argument("--reference-samples", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    problems = build_problems(args.problems, args.samples, args.length)
    ours = measure_all(problems, args.workers, args.repeats)
    small = measure_reference(problems[0].tokens_K[: args.reference_samples], args.repeats)
    table = Table(
        title=f"Seconds for {args.problems} problems x {args.samples} samples x {args.length} tokens, {args.workers}"
        f" threads, medians of {args.repeats}; right: 1 problem x {args.reference_samples} samples, 1 thread"
    )
    for column in ("metric", "seconds", "ours", "reference", "ratio"):
        table.add_column(column, justify="right")
    for name, value in ours.items():
        pair = small.get(name)
        right = (f"{pair[0]:.4f}", f"{pair[1]:.4f}", f"{pair[1] / pair[0]:.0f}") if pair else ("", "", "")
        table.add_row(name, f"{value:.3f}", *right)
    Console().print(table)
    if args.output:
        settings = {key: value for key, value in vars(args).items() if key != "output"}
        machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        content = {"settings": settings, **machine, "seconds": ours, "small_ours_and_reference": small}
        args.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
