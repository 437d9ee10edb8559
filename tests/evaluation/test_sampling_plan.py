"""Which requests an evaluation makes: seeds, chunks, chat template, room for the response."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from s2l_nemo.config.asking import Asking, Mode, PromptStyle
from s2l_nemo.config.evaluation import EvaluateOptions
from s2l_nemo.config.schema import AnswerKind
from s2l_nemo.data.benchmarks import INSTRUCTIONS, Benchmark, Problem
from s2l_nemo.engines.protocol import EngineDied, LocalEngine
from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.engines import Engines
from s2l_nemo.evaluation.modes import Settings, settings
from s2l_nemo.evaluation.plan import Plan, make_plan
from s2l_nemo.evaluation.sampling import Sampler, check_memory, chunk_problems, sample_seed
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


def plan(*, template: bool = True, mode: Mode = Mode.nothink, positions: int = 1000, room: int | None = None,
         k: int | None = 3, of: Benchmark | None = None, variables: dict[str, Any] | None = None,
         **asking: Any) -> Plan:  # fmt: skip
    model: Any = SimpleNamespace(
        tokenizer=Tokenizer(has_template=template), stop_token_ids=(7,), shape=SimpleNamespace(max_positions=positions)
    )
    asked = Asking(**asking)
    return make_plan(of or benchmark(5), model, mode=mode, asking=asked, variables=variables or {}, k=k, room=room)


def test_modes_are_those_of_the_model_card() -> None:
    assert settings(Mode.nothink, EvaluateOptions()) == Settings(0.7, 0.8, 20, 1.5)
    assert settings(Mode.think, EvaluateOptions()) == Settings(0.6, 0.95, 20, 0.0)
    options = EvaluateOptions(temperature=0.0, top_k=0, presence_penalty=0.0)
    assert settings(Mode.nothink, options) == Settings(0.0, 0.8, 0, 0.0)


def first(one: Plan) -> str:
    return "".join(map(chr, one.prompts[0]))


def test_chat_template_and_thinking_switch() -> None:
    assert first(plan()) == f"Nq0\n\n{INSTRUCTION}"
    assert first(plan(mode=Mode.think)) == f"Tq0\n\n{INSTRUCTION}"
    assert first(plan(template=False)) == f"q0\n\n{INSTRUCTION}"
    assert first(plan(prompt=PromptStyle.plain)) == "Nq0"
    assert first(plan(prompt=PromptStyle.plain, variables={"effort": "low"})) == "Nlowq0"


def test_prompts_of_the_released_evaluation() -> None:
    assert first(plan(prompt=PromptStyle.released)) == "Nq0 /no_think"
    assert first(plan(prompt=PromptStyle.released, mode=Mode.think)) == "Tq0 /think"
    text = f"q?\n\nA. one\nB. two\n\n{INSTRUCTIONS[AnswerKind.choice]}"
    letters = Benchmark("letters", AnswerKind.choice, 100, (Problem(0, "q?", "A", text),), samples=4)
    assert first(plan(prompt=PromptStyle.released, of=letters)) == (
        "Nq?\n\nA. one\nB. two\nAnswer with only the letter (A, B, C, D, or E). /no_think"
    )
    assert plan(of=letters, k=None).k == 4
    assert plan(k=None).k == 16


def test_room_for_the_response() -> None:
    assert plan().params == SamplingParams(100, (7,), temperature=0.7, top_p=0.8, top_k=20, presence_penalty=1.5)
    assert plan(max_tokens=30, top_k=5).params.max_new_tokens == 30
    prompt = len(f"Nq0\n\n{INSTRUCTION}")
    assert plan(positions=prompt + 40).params.max_new_tokens == 40
    assert plan(room=prompt + 30).params.max_new_tokens == 30
    with pytest.raises(UserError, match=f"a prompt of {prompt} tokens leaves no room for a response in the model's"):
        plan(positions=prompt)
    with pytest.raises(UserError, match="in the engine's"):
        plan(room=prompt)


def test_memory_of_the_batch() -> None:
    one = plan(max_tokens=30)
    tokens = 30 + len(f"Nq0\n\n{INSTRUCTION}")
    check_memory([one], rows=8, token_bytes=100, free_bytes=8 * tokens * 100)
    with pytest.raises(UserError, match=r"evaluate.batch_rows=8 responses .* to at most 7"):
        check_memory([one], rows=8, token_bytes=100, free_bytes=8 * tokens * 100 - 1)


def sampler(*engines: Engine) -> Sampler:
    """Chunks have two problems of three samples."""
    return Sampler(Engines(engines), str, [], seed=1, rows=2)


def test_engines_share_the_chunks_and_the_rows_come_in_order() -> None:
    """The first engine waits in its first chunk until the second has done all the others."""
    others_done = threading.Event()
    done: list[int] = []

    class Slow(Engine):
        def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
            assert others_done.wait(60)
            return super().generate(requests, params)

    class Quick(Engine):
        def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
            done.append(len(requests))
            if len(done) == 2:
                others_done.set()
            return super().generate(requests, params)

    slow, quick = Slow(), Quick()
    rows = list(sampler(slow, quick).sample(plan(), start=0))
    assert [row.id for part in rows for row in part] == [0, 1, 2, 3, 4]
    assert rows == list(sampler(Engine()).sample(plan(), start=0))
    assert len(slow.batches) == 1
    assert len(quick.batches) == 2


def test_a_lost_engine_ends_the_evaluation() -> None:
    class Lost(Engine):
        def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
            raise EngineDied("gone")

    with pytest.raises(EngineDied):
        list(sampler(Lost(), Lost()).sample(plan(), start=0))


def test_chunks_do_not_depend_on_where_the_run_begins() -> None:
    whole, later = Engine(), Engine()
    rows = list(sampler(whole).sample(plan(), start=0))
    rest = list(sampler(later).sample(plan(), start=2))
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
