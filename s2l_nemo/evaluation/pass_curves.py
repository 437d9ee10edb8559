"""pass@k of models on the same generated prompts, and where the curve of one crosses another's (Fig. 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.table import Table

from s2l_nemo.config.schema import RewardsConfig
from s2l_nemo.engines.build import EngineFactory
from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.evaluation.sampling import sample_seed
from s2l_nemo.evaluation.scoring import curve_points
from s2l_nemo.measures import crossed
from s2l_nemo.measures.statistics import Interval, bootstrap_mean, pass_at_k
from s2l_nemo.models.open import Model
from s2l_nemo.models.precision import Precision
from s2l_nemo.rewards.grader import ExactGrader, GradeItem
from s2l_nemo.types import Prompt, SampleRequest, SamplingParams

Counts = Sequence[int]  # right answers of P problems, each of K samples
Curve = dict[int, Interval]  # by k


@dataclass(frozen=True)
class HeldOut:
    """What is asked: `samples` answers of each prompt at temperature 1."""

    prompts: Sequence[Prompt]
    samples: int
    max_tokens: int  # of an answer
    seed: int
    rows: int = 512  # answers that are sampled at once


def right_answers(model: Model, asked: HeldOut, advance: Callable[[], None]) -> list[int]:
    """How many of the samples of each prompt are right: P counts from 0 to K.

    The answer in the box must be the gold text. The embedded engine samples, on the CPU in fp32. A sample's seed
    depends on its prompt and its number alone. `advance` is called for each prompt. Raises UserError if the model
    cannot be loaded.
    """
    tokens = max(len(prompt.token_ids) for prompt in asked.prompts) + asked.max_tokens
    factory = EngineFactory(EngineConfig(), Precision.fp32, torch.device("cpu"), asked.rows, tokens)
    engine = factory.explorer(model)
    params = SamplingParams(asked.max_tokens, model.stop_token_ids)
    together = max(1, asked.rows // asked.samples)
    counts = []
    for start in range(0, len(asked.prompts), together):
        batch = asked.prompts[start : start + together]
        requests = [_request(prompt, number, asked.seed) for prompt in batch for number in range(asked.samples)]
        completions = engine.generate(requests, params)
        texts = model.tokenizer.batch_decode([one.token_ids for one in completions], skip_special_tokens=True)
        for prompt, first in zip(batch, range(0, len(texts), asked.samples), strict=True):
            counts.append(_right(prompt, texts[first : first + asked.samples]))
            advance()
    return counts


def _request(prompt: Prompt, number: int, seed: int) -> SampleRequest:
    return SampleRequest(
        prompt.prompt_id, number, prompt.token_ids, sample_seed(seed, "held-out", prompt.prompt_id, number)
    )


def _right(prompt: Prompt, texts: Sequence[str]) -> int:
    items = [GradeItem(prompt.prompt_id, prompt.text, prompt.answer, text) for text in texts]
    return sum(grade.reward == 1.0 for grade in ExactGrader(RewardsConfig()).grade(items))


def pass_curve(counts: Counts, samples: int, seed: int = 0) -> Curve:
    """pass@k with its 95 % interval over problems, for every power of two up to K = `samples`, and for K."""
    return crossed.pass_curve([[(samples, count) for count in counts]], curve_points(samples), seed)


def lead_curve(first: Counts, second: Counts, samples: int, seed: int = 0) -> Curve:
    """By how much the pass@k of `first` is higher, with its 95 % interval: problems are drawn in pairs.

    Raises ValueError if the numbers of problems differ.
    """
    leads = {}
    for k in curve_points(samples):
        passes = [[pass_at_k(samples, count, k) for count in counts] for counts in (first, second)]
        leads[k] = bootstrap_mean([[mine - its] for mine, its in zip(*passes, strict=True)], seed=seed)
    return leads


def crosses(lead: Curve) -> bool:
    """Whether the first model is better at k = 1 and worse at the largest k, both beyond the 95 % interval."""
    return lead[min(lead)].low > 0 > lead[max(lead)].high


def curve_table(curves: Mapping[str, Curve]) -> Table:
    """One row for each k, one column for each curve, in per cent."""
    table = Table(title="pass@k in %, 95 % bootstrap intervals over problems", title_justify="left")
    table.add_column("k", justify="right")
    for name in curves:
        table.add_column(name, justify="right")
    for k in next(iter(curves.values())):
        table.add_row(str(k), *(interval_text(curve[k]) for curve in curves.values()))
    return table


def interval_text(interval: Interval) -> str:
    """Such as `62.1 (58.0 to 66.3)`, in per cent."""
    mean, low, high = (100 * value for value in interval)
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"
