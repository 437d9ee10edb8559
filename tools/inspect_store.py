"""Shows what a store of rollouts holds: counts, pass@k, lengths, diversity, settings.

    python tools/inspect_store.py FOLDER [--diversity-prompts 64] [--seed 0]

A rollout is right if its stored reward is at least 1. Diversity is measured on some prompts only, drawn by `--seed`.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone without installation

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from s2l_nemo.arguments import Parser, a_path
from s2l_nemo.evaluation.console import console
from s2l_nemo.evaluation.scoring import curve_points
from s2l_nemo.measures.diversity import DiversityScores, Samples, diversity
from s2l_nemo.measures.statistics import bootstrap_mean, pass_at_k
from s2l_nemo.platform.failures import command
from s2l_nemo.rewards.answers import normalize_answer
from s2l_nemo.store.facts import sampling_json
from s2l_nemo.store.reader import Store
from s2l_nemo.store.sampling.opened import open_shown
from s2l_nemo.store.shards import ShardNotes, read_notes, shard_paths
from s2l_nemo.types import Source

RESAMPLES = 1000  # of the bootstrap: a store has thousands of prompts


@command
def main(argv: list[str]) -> int:
    parser = Parser(__doc__)
    parser.add_argument("folder", type=a_path, help="of recipes/sample_explorer.py or tools/import_store.py")
    parser.add_argument("--index", type=a_path, help="folder of the index; default FOLDER/index")
    parser.add_argument("--diversity-prompts", type=int, default=64, help="0: no diversity; default 64")
    parser.add_argument("--seed", type=int, default=0, help="which prompts those are; default 0")
    options = parser.parse_args(argv)
    out = console()
    store = open_shown(options.folder, out, options.index)
    notes = [
        read_notes(path, store.facts)
        for path in track(shard_paths(store.folder), "shards", console=out, transient=True, disable=not out.is_terminal)
    ]
    print_counts(out, store, notes)
    if store.samples:
        print_pass_at_k(out, store)
    if options.diversity_prompts > 0 and store.samples > 1:
        print_diversity(out, store, notes, options.diversity_prompts, options.seed)
    print_settings(out, store, sorted({one.engine for one in notes}))
    return 0


def print_counts(out: Console, store: Store, notes: list[ShardNotes]) -> None:
    counts = store.counts
    lengths = np.array([length for one in counts for length in store.lengths(one)])
    stopped = np.array([stops for one in counts for stops in store.stopped(one)])
    errors = sum(error is not None for one in notes for error in one.grader_errors)
    table = plain_table(f"Store {store.folder}")
    table.add_row("rollouts", f"{store.rollouts:,} in {len(notes):,} files")
    table.add_row("prompts", f"{len(counts):,} of {store.facts.prompts:,} sampled")
    table.add_row(
        "samples of a prompt", " ".join(f"{n} ({p:,} prompts)" for n, p in sorted(Counter(counts.values()).items()))
    )
    if len(lengths):
        low, middle, high = np.quantile(lengths, (0.05, 0.5, 0.95))
        table.add_row(
            "tokens",
            f"mean {lengths.mean():,.1f}, 5 % {low:,.0f}, median {middle:,.0f}, 95 % {high:,.0f}, "
            f"longest {lengths.max():,}",
        )
        table.add_row(
            "cut off", f"{100 * (1 - stopped.mean()):.1f} % at {store.facts.sampling.max_new_tokens:,} tokens"
        )
    table.add_row("checks that failed", f"{errors:,}, which count as wrong")
    out.print(table)


def print_pass_at_k(out: Console, store: Store) -> None:
    """pass@k over prompts with 95 % bootstrap intervals."""
    right = [(store.count(one), int((store.rewards(one) >= 1).sum())) for one in store.counts]
    table = plain_table("pass@k of the stored rewards (95 %)")
    for k in curve_points(store.samples):
        mean, low, high = bootstrap_mean([[pass_at_k(n, c, k)] for n, c in right], resamples=RESAMPLES)
        table.add_row(f"k = {k}", f"{100 * mean:.1f} ({100 * low:.1f} - {100 * high:.1f})")
    none, all_right = sum(c == 0 for _, c in right), sum(c == n for n, c in right)
    table.add_row("never right, always right", f"{none:,} and {all_right:,} of {len(right):,} prompts")
    out.print(table)


def print_diversity(out: Console, store: Store, notes: list[ShardNotes], prompts: int, seed: int) -> None:
    chosen = sorted(random.Random(seed).sample(sorted(store.counts), min(prompts, len(store.counts))))
    scores = measure_diversity(store, notes, chosen)
    table = plain_table(f"Diversity of {len(chosen)} prompts (seed {seed}), K = {store.samples}")
    table.add_row("Self-BLEU", f"{scores.self_bleu:.3f}, lower is more diverse")
    table.add_row("edit diversity", f"{scores.edit:.3f}")
    known = store.facts.seed is not None
    table.add_row("unique answers", f"{scores.unique:.3f}" if known else "unknown: imported rollouts have no answers")
    out.print(table)


def measure_diversity(store: Store, notes: list[ShardNotes], chosen: list[int]) -> DiversityScores:
    """Means over the chosen prompts, of the first K samples, K being what every prompt has."""
    wanted = set(chosen)
    answers = {
        (prompt_id, sample): answer
        for one in notes
        for prompt_id, sample, answer in zip(one.prompt_ids, one.samples, one.answers, strict=True)
        if prompt_id in wanted
    }

    def samples(prompt_id: int) -> Samples:
        drawn = store.draw(prompt_id, range(store.samples), source=Source.EXPLORER)
        texts = [answers[prompt_id, one.sample_id] for one in drawn]
        return Samples(
            [one.token_ids.tolist() for one in drawn],
            [None if text is None else normalize_answer(text) for text in texts],
        )

    return diversity([samples(prompt_id) for prompt_id in chosen])


def print_settings(out: Console, store: Store, engines: list[str]) -> None:
    facts = store.facts
    table = plain_table("Settings")
    for name, value in sampling_json(facts.sampling).items():
        table.add_row(name, str(value))
    table.add_row(
        "log-probs", "of the sampler" if facts.has_logprobs else "unknown: needs algorithm.importance=learner_old"
    )
    table.add_row("model", f"{facts.model}, {facts.precision}, weights {(facts.weight_hash or 'unknown')[:12]}")
    table.add_row("engine", ", ".join(engines))
    table.add_row("tokenizer", f"{facts.tokenizer_hash[:12]}, {facts.vocab_size:,} tokens")
    table.add_row("hash of the prompts", facts.prompts_hash[:12])
    table.add_row("seed, explorer", f"{facts.seed}, {facts.explorer}")
    table.add_row("rewards", ", ".join(f"{name}={value}" for name, value in facts.rewards.items()))
    out.print(table)


def plain_table(title: str) -> Table:
    table = Table(
        title=title, title_style="bold", title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 2)
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
