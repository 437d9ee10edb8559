"""Which requests an evaluation makes: seeds, chunks, chat template, room for the response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from s2l_nemo.config.evaluation import EvaluateOptions, Mode
from s2l_nemo.config.schema import AnswerKind
from s2l_nemo.data.benchmarks import INSTRUCTIONS, Benchmark, Problem
from s2l_nemo.engines.protocol import LocalEngine
from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.modes import MODES, Settings, settings
from s2l_nemo.evaluation.sampling import Plan, Sampler, check_memory, chunk_problems, make_plan, sample_seed
from s2l_nemo.types import Completion, SampleRequest, SamplingParams, Source
from tests.arrays import ids, lps

INSTRUCTION = INSTRUCTIONS[AnswerKind.math]


class Tokenizer:
    """One token a character. With a template: `T` or `N` for thinking or not, an effort, then the user's text."""

    def __init__(self, *, has_template: bool) -> None:
        self.chat_template = "template" if has_template else None

    def __call__(self, texts: list[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(c) for c in text] for text in texts]}

    def apply_chat_template(
        self,
        chats: list[list[dict[str, str]]],
        *,
        add_generation_prompt: bool,
        enable_thinking: bool,
        effort: str = "",
    ) -> list[list[int]]:
        assert add_generation_prompt
        assert all([turn["role"] for turn in chat] == ["user"] for chat in chats)
        return self(["NT"[enable_thinking] + effort + chat[0]["content"] for chat in chats])["input_ids"]


class Engine(LocalEngine):
    """Answers every request with the low bits of its own seed as text; remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int]]] = []

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        self.batches.append([(request.prompt_id, request.sample_id) for request in requests])
        return [
            Completion(
                request.prompt_id,
                request.sample_id,
                Source.LEARNER,
                ids([request.seed % 2**31, 0]),
                lps([0.0, 0.0]),
                "length",
                0,
            )
            for request in requests
        ]

    def weight_hash(self) -> str:
        return ""


def benchmark(problems: int) -> Benchmark:
    rows = tuple(Problem(i, f"q{i}", str(i), f"q{i}\n\n{INSTRUCTION}") for i in range(problems))
    return Benchmark("mine", AnswerKind.math, 100, rows)


def plan(*, template: bool = True, instruction: bool = True, thinking: bool = False, positions: int = 1000,
         max_tokens: int | None = None, **variables: object) -> Plan:  # fmt: skip
    tokenizer: Any = Tokenizer(has_template=template)
    return make_plan(
        benchmark(5), tokenizer, thinking=thinking, variables=variables, instruction=instruction,
        settings=MODES[Mode.nothink], max_tokens=max_tokens, stop_token_ids=(7,), positions=positions,
    )  # fmt: skip


def test_modes_are_those_of_the_model_card() -> None:
    assert settings(Mode.nothink, EvaluateOptions()) == Settings(0.7, 0.8, 20, 1.5)
    assert settings(Mode.think, EvaluateOptions()) == Settings(0.6, 0.95, 20, 0.0)
    options = EvaluateOptions(temperature=0.0, top_k=0, presence_penalty=0.0)
    assert settings(Mode.nothink, options) == Settings(0.0, 0.8, 0, 0.0)


def test_chat_template_and_thinking_switch() -> None:
    def first(one: Plan) -> str:
        return "".join(map(chr, one.prompts[0]))

    assert first(plan(thinking=False)) == f"Nq0\n\n{INSTRUCTION}"
    assert first(plan(thinking=True)) == f"Tq0\n\n{INSTRUCTION}"
    assert first(plan(template=False)) == f"q0\n\n{INSTRUCTION}"
    assert first(plan(instruction=False)) == "Nq0"
    assert first(plan(instruction=False, effort="low")) == "Nlowq0"


def test_room_for_the_response() -> None:
    assert plan().params == SamplingParams(100, (7,), temperature=0.7, top_p=0.8, top_k=20, presence_penalty=1.5)
    assert plan(max_tokens=30).params.max_new_tokens == 30
    prompt = len(f"Nq0\n\n{INSTRUCTION}")
    assert plan(positions=prompt + 40).params.max_new_tokens == 40
    with pytest.raises(UserError, match=f"a prompt of {prompt} tokens leaves no room"):
        plan(positions=prompt)


def test_memory_of_the_batch() -> None:
    one = plan(max_tokens=30)
    tokens = 30 + len(f"Nq0\n\n{INSTRUCTION}")
    check_memory([one], rows=8, token_bytes=100, free_bytes=8 * tokens * 100)
    with pytest.raises(UserError, match=r"evaluate.batch_rows=8 responses .* to at most 7"):
        check_memory([one], rows=8, token_bytes=100, free_bytes=8 * tokens * 100 - 1)


def test_chunks_do_not_depend_on_where_the_run_begins() -> None:
    whole, later = Engine(), Engine()
    rows = list(Sampler(whole, str, [], k=3, seed=1, chunk=2).sample(plan(), start=0))
    rest = list(Sampler(later, str, [], k=3, seed=1, chunk=2).sample(plan(), start=2))
    assert whole.batches == [[(p, k) for p in part for k in range(3)] for part in ([0, 1], [2, 3], [4])]
    assert later.batches == whole.batches[1:]
    assert rest == rows[1:]
    assert [row.id for part in rows for row in part] == [0, 1, 2, 3, 4]
    first = rows[0][0]
    assert first.outputs == [str([sample_seed(1, "mine", 0, k) % 2**31, 0]) for k in range(3)]
    assert (first.question, first.answer, first.tokens, first.finish_reasons) == ("q0", "0", [2] * 3, ["length"] * 3)


def test_chunk_holds_a_few_batches() -> None:
    assert chunk_problems(16, 64) == 16
    assert chunk_problems(1024, 64) == 1
    assert chunk_problems(1, 1) == 4


def test_seeds_are_a_function_of_all_four_and_never_change() -> None:
    seeds = {
        sample_seed(seed, name, problem, sample)
        for seed in (0, 1) for name in ("aime24", "aime25") for problem in range(10) for sample in range(10)
    }  # fmt: skip
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sample_seed(1, "aime24", 3, 2) == SEED_1_AIME24_3_2


SEED_1_AIME24_3_2 = 5_050_048_924_357_981_329  # half of blake2b-64 of [1, "aime24", 3, 2]
