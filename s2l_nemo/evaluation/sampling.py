"""Responses of one model to a benchmark, chunk by chunk, with seeds that depend on nothing but what is asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from s2l_nemo.config.evaluation import EvaluateConfig, Mode, samples
from s2l_nemo.data.benchmarks import INSTRUCTIONS, Benchmark, Problem
from s2l_nemo.data.chat import template_variables
from s2l_nemo.engines.build import EngineFactory
from s2l_nemo.engines.options import EngineConfig
from s2l_nemo.engines.protocol import RolloutEngine
from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.modes import Settings
from s2l_nemo.evaluation.raw import RawRow
from s2l_nemo.models.open import Model
from s2l_nemo.models.precision import Precision
from s2l_nemo.types import Completion, SampleRequest, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHUNK_BATCHES = 4  # full batches of a chunk: more lose more to a kill, fewer leave rows idle at every end


@dataclass(frozen=True)
class Plan:
    """What to ask: the benchmark, its prompts as tokens, and how to sample."""

    benchmark: Benchmark
    prompts: list[tuple[int, ...]]
    params: SamplingParams


def make_plan(
    benchmark: Benchmark,
    tokenizer: PreTrainedTokenizerFast,
    *,
    thinking: bool,
    variables: Mapping[str, Any],
    instruction: bool,
    settings: Settings,
    max_tokens: int | None,
    stop_token_ids: tuple[int, ...],
    positions: int,
) -> Plan:
    """Prompts go through the chat template, which gets `variables` and `enable_thinking`. Without one they stay as they
    are.

    A response has at most `max_tokens` (None: the benchmark's), and no more than the longest prompt leaves of the
    model's `positions`. Raises UserError if that prompt leaves none.
    """
    texts = [problem.prompt for problem in benchmark.problems]
    if not instruction:
        texts = [text.removesuffix(INSTRUCTIONS[benchmark.answer]).rstrip() for text in texts]
    if tokenizer.chat_template is None:
        encoded = tokenizer(texts)["input_ids"]
    else:
        chats = [[{"role": "user", "content": text}] for text in texts]
        # a template that does not know the switch ignores it
        switches = {**variables, "enable_thinking": thinking}
        encoded = tokenizer.apply_chat_template(chats, add_generation_prompt=True, **switches)
    prompts = [tuple(tokens) for tokens in encoded]
    longest = max(map(len, prompts))
    if longest >= positions:
        raise UserError(
            f"benchmarks={benchmark.name}: a prompt of {longest} tokens leaves no room for a response in the model's "
            f"{positions} positions; choose another model or leave the benchmark out"
        )
    limit = min(max_tokens or benchmark.max_tokens, positions - longest)
    return Plan(benchmark, prompts, SamplingParams(limit, stop_token_ids, **asdict(settings)))


def chunk_problems(k: int, batch_rows: int) -> int:
    """Problems sampled and saved together."""
    return max(1, CHUNK_BATCHES * batch_rows // k)


@dataclass(frozen=True)
class Sampler:
    """One model and what is asked of it: `k` samples of each problem, `chunk` problems at a time."""

    engine: RolloutEngine
    decode: Callable[[Sequence[int]], str]
    plans: list[Plan]
    k: int
    seed: int
    chunk: int

    def sample(self, plan: Plan, start: int) -> Iterator[list[RawRow]]:
        """Rows of the problems from number `start` on, which begins a chunk, a chunk at a time."""
        for first in range(start, len(plan.prompts), self.chunk):
            yield self._sample(plan, range(first, min(first + self.chunk, len(plan.prompts))))

    def _sample(self, plan: Plan, part: range) -> list[RawRow]:
        name, problems = plan.benchmark.name, plan.benchmark.problems
        requests = [
            SampleRequest(index, k, plan.prompts[index], sample_seed(self.seed, name, problems[index].problem_id, k))
            for index in part
            for k in range(self.k)
        ]
        completions = iter(self.engine.generate(requests, plan.params))
        return [self._row(problems[index], [next(completions) for _ in range(self.k)]) for index in part]

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
    cfg: EvaluateConfig, model: Model, benchmarks: Sequence[Benchmark], how: Settings, precision: Precision, device: str
) -> Sampler:
    """Loads tokenizer and weights of `model`. Raises UserError if they cannot be read or do not fit the benchmarks."""
    tokenizer = model.tokenizer
    plans = [
        make_plan(
            benchmark,
            tokenizer,
            thinking=cfg.mode is Mode.think,
            variables=template_variables(cfg.data.chat_template_kwargs),
            instruction=cfg.evaluate.instruction,
            settings=how,
            max_tokens=cfg.evaluate.max_tokens,
            stop_token_ids=model.stop_token_ids,
            positions=model.shape.max_positions,
        )
        for benchmark in benchmarks
    ]
    rows = cfg.evaluate.batch_rows
    factory = EngineFactory(EngineConfig(), precision, torch.device(device), rows, model.shape.max_positions)
    engine = factory.explorer(model)  # frozen

    if device == "cuda":
        token_bytes = model.shape.kv_elements_per_token * precision.element_bytes
        check_memory(plans, rows, token_bytes, torch.cuda.mem_get_info()[0])

    def decode(token_ids: Sequence[int]) -> str:
        return str(tokenizer.decode(token_ids, skip_special_tokens=True))

    return Sampler(engine, decode, plans, samples(cfg), cfg.seed, chunk_problems(samples(cfg), rows))


def check_memory(plans: Sequence[Plan], rows: int, token_bytes: int, free_bytes: int) -> None:
    """Raises UserError if keys and values of `rows` responses need more than `free_bytes`, at `token_bytes` a token."""
    for plan in plans:
        tokens = max(map(len, plan.prompts)) + plan.params.max_new_tokens
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
