"""Responses of one model to a benchmark, chunk by chunk, with seeds that depend on nothing but what is asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from s2l_nemo.config.evaluation import EvaluateConfig, result_name
from s2l_nemo.data.benchmarks import Benchmark, Problem
from s2l_nemo.data.chat import template_variables
from s2l_nemo.engines.kinds import ENGINES
from s2l_nemo.engines.protocol import RolloutEngine
from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.engines import Engines, start_engines
from s2l_nemo.evaluation.plan import Plan, make_plan
from s2l_nemo.evaluation.raw import RawRow
from s2l_nemo.models.open import Model
from s2l_nemo.models.precision import Precision
from s2l_nemo.types import Completion, SampleRequest

CHUNK_BATCHES = 4  # full batches of a chunk: more lose more to a kill, fewer leave rows idle at every end


def chunk_problems(k: int, batch_rows: int) -> int:
    """Problems sampled and saved together."""
    return max(1, CHUNK_BATCHES * batch_rows // k)


@dataclass(frozen=True)
class Sampler:
    """One model and what is asked of it. Each engine samples `rows` responses at once."""

    engines: Engines
    decode: Callable[[Sequence[int]], str]
    plans: list[Plan]
    seed: int
    rows: int

    def chunk(self, plan: Plan) -> int:
        """Problems sampled and saved together."""
        return chunk_problems(plan.k, self.rows)

    def sample(self, plan: Plan, start: int) -> Iterator[list[RawRow]]:
        """Rows of the problems from number `start` on, which begins a chunk, a chunk at a time."""
        chunk, end = self.chunk(plan), len(plan.prompts)
        parts = [range(first, min(first + chunk, end)) for first in range(start, end, chunk)]
        return self.engines.map(lambda engine, part: self._sample(engine, plan, part), parts)

    def close(self) -> None:
        """Ends the engines."""
        self.engines.close()

    def _sample(self, engine: RolloutEngine, plan: Plan, part: range) -> list[RawRow]:
        name, problems = plan.benchmark.name, plan.benchmark.problems
        requests = [
            SampleRequest(index, k, plan.prompts[index], sample_seed(self.seed, name, problems[index].problem_id, k))
            for index in part
            for k in range(plan.k)
        ]
        completions = iter(engine.generate(requests, plan.params))
        return [self._row(problems[index], [next(completions) for _ in range(plan.k)]) for index in part]

    def _row(self, problem: Problem, samples: Sequence[Completion]) -> RawRow:
        return RawRow(
            id=problem.problem_id,
            question=problem.question,
            answer=problem.gold,
            outputs=[self.decode(completion.token_ids.tolist()) for completion in samples],
            tokens=[len(completion.token_ids) for completion in samples],
            finish_reasons=[completion.finish_reason for completion in samples],
        )


def load_sampler(
    cfg: EvaluateConfig, model: Model, benchmarks: Sequence[Benchmark], precision: Precision, device: str
) -> Sampler:
    """Loads tokenizer and weights of `model`. Raises UserError if they cannot be read or do not fit the benchmarks."""
    variables = template_variables(cfg.data.chat_template_kwargs)
    plans = [
        make_plan(one, model, mode=cfg.mode, asking=cfg.evaluate, variables=variables, k=cfg.k) for one in benchmarks
    ]
    rows = cfg.evaluate.batch_rows
    engines = start_engines(
        cfg.engine,
        model,
        precision,
        device,
        rows=rows,
        tokens=max(longest(plan) for plan in plans),
        logs=Path(cfg.evaluate.dir) / "engines" / result_name(cfg),
    )
    if device == "cuda" and not ENGINES[cfg.engine.kind].served:
        token_bytes = model.shape.kv_elements_per_token * precision.element_bytes
        check_memory(plans, rows, token_bytes, torch.cuda.mem_get_info()[0])

    def decode(token_ids: Sequence[int]) -> str:
        return str(model.tokenizer.decode(token_ids, skip_special_tokens=True))

    return Sampler(engines, decode, plans, cfg.seed, rows)


def longest(plan: Plan) -> int:
    """Tokens of the longest sequence that may come of it."""
    return max(map(len, plan.prompts)) + plan.params.max_new_tokens


def check_memory(plans: Sequence[Plan], rows: int, token_bytes: int, free_bytes: int) -> None:
    """Raises UserError if keys and values of `rows` responses need more than `free_bytes`, at `token_bytes` a token."""
    for plan in plans:
        tokens = longest(plan)
        if rows * tokens * token_bytes > free_bytes:
            fits = max(1, free_bytes // (tokens * token_bytes))
            raise UserError(
                f"evaluate.batch_rows={rows} responses of {tokens:,} tokens ({plan.benchmark.name}) need "
                f"{rows * tokens * token_bytes / 1e9:.1f} GB for keys and values, and {free_bytes / 1e9:.1f} GB of the "
                f"GPU are free: set evaluate.batch_rows to at most {fits}, or lower evaluate.max_tokens"
            )


def sample_seed(seed: int, benchmark: str, problem_id: int, sample_id: int) -> int:
    """Seed of one response, 0 <= seed < 2**63, the same in every process and on every machine."""
    text = json.dumps([seed, benchmark, problem_id, sample_id]).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
