"""Benchmarks at every validation: how they are read, asked, graded, named and written."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from s2l_nemo.config.checks import check_config
from s2l_nemo.config.load import load_config
from s2l_nemo.config.schema import AnswerKind, Config, RewardsConfig, ValidationConfig
from s2l_nemo.errors import UserError
from s2l_nemo.records.metrics import read_metrics
from s2l_nemo.trainer.grading import Grading
from s2l_nemo.trainer.stop import StopRequest
from s2l_nemo.trainer.validation import Validation, read_validation, validation_metrics
from s2l_nemo.trainer.validation_sets import BenchmarkSet, SetPrompts, graded_sets, load_sets, set_facts
from s2l_nemo.types import SampleRequest, SamplingParams
from tests.evaluation.test_sampling_plan import Tokenizer
from tests.trainer.scripted import RUN_SEED, Answer, ScriptedGrader, decode, prompts
from tests.trainer.test_fit import run_of

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    letters = {"question": "which?", "choices": {"label": ["A", "B"], "text": ["x", "y"]}, "answerKey": "B"}
    sums = [{"question": f"{n} + 1 = ?", "answer": n + 1} for n in range(3)]
    (tmp_path / "commonsenseqa.jsonl").write_text(json.dumps(letters) + "\n")
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums))
    return tmp_path


def config(data: Path, *arguments: str) -> Config:
    cfg = load_config(
        [f"validation.data={data}", "rollout.max_prompt_length=200", "rollout.max_response_length=300", *arguments],
        CONF,
    )
    check_config(cfg)
    return cfg


def load(data: Path, *arguments: str) -> list[SetPrompts]:
    """The sets as a model reads them whose tokens are characters."""
    model: Any = SimpleNamespace(
        tokenizer=Tokenizer(has_template=True), stop_token_ids=(7,), shape=SimpleNamespace(max_positions=10_000)
    )
    return load_sets(config(data, *arguments), model)


def test_each_set_has_its_own_mode_and_sampling(data: Path) -> None:
    sums, thought, letters = load(
        data, "validation.sets=[sums,thought,commonsenseqa]", "validation.samples=5", "rewards.answer=exact",
        "validation.options.thought={benchmark: sums, mode: think, k: 2, limit: 1, max_tokens: 90, prompt: released}",
        "validation.options.sums.temperature=0.3",
    )  # fmt: skip
    room = 500 - max(len(prompt.token_ids) for prompt in sums.prompts)
    assert sums.params == SamplingParams(room, (7,), temperature=0.3, top_p=0.8, top_k=20, presence_penalty=1.5)
    assert (sums.samples, len(sums.prompts), sums.answer, sums.mode) == (5, 3, AnswerKind.exact, "nothink")
    assert (sums.prompts[2].prompt_id, sums.prompts[2].text, sums.prompts[2].answer) == (2, "2 + 1 = ?", "3")
    assert thought.params == SamplingParams(90, (7,), temperature=0.6, top_p=0.95, top_k=20, presence_penalty=0.0)
    assert "".join(map(chr, thought.prompts[0].token_ids)) == "T0 + 1 = ? /think"
    assert (thought.name, thought.benchmark, thought.samples, len(thought.prompts)) == ("thought", "sums", 2, 1)
    assert (letters.answer, letters.prompts[0].answer) == (AnswerKind.choice, "B")
    assert set_facts([thought]) == {"validation": "thought (1 problems x 2, think, 90 tokens)"}
    assert set_facts([]) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["validation.sets=[a,a]"], r"validation.sets=\[a,a\]: give each name once"),
        (["validation.sets=[a/b]"], r"validation.sets=\[a/b\]"),
        (["validation.options.aime24.k=3"], "validation.options.aime24: no such set; add aime24 to validation.sets"),
        (["validation.sets=[a]", "validation.options.a=3"], "validation.options.a=3: expected keys below it"),
        (["validation.sets=[a]", "validation.options.a.kk=3"], "validation.options.a: unknown key kk=3"),
        (["validation.sets=[a]", "validation.options.a.k=0"], "validation.options.a.k=0: must be at least 1"),
        (["validation.sets=[a]", "validation.options.a.temperature=0"], "set validation.options.a.k=1"),
        (["validation.sets=[a]", "validation.options.a.max_tokens=500"], "max_tokens=500 leaves no room for a prompt"),
        (["checkpoint.best=reward"], "checkpoint.best=reward is no metric .* give validation/pass@1$"),
        (
            ["checkpoint.best=validation/b/pass@1", "validation.sets=[a]"],
            "give validation/pass@1 or validation/a/pass@1",
        ),
        (["checkpoint.best=validation/pass@1", "validation.every=0"], "with validation.every=0: one validation"),
    ],
)
def test_mistakes_in_the_configuration(data: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(data, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["validation.sets=[absent]"], "no benchmark 'absent'"),
        (
            ["validation.sets=[sums]", "validation.options.sums.max_tokens=480"],
            "leaves [0-9]+ tokens of rollout.max_pr",
        ),
        (
            ["validation.sets=[sums]", "rollout.max_prompt_length=20", "rollout.max_response_length=20"],
            "the engine's 40",
        ),
    ],
)
def test_mistakes_in_the_files(data: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(data, *arguments)


def test_each_kind_of_answer_has_one_grader(data: Path) -> None:
    sets = load(data, "validation.sets=[sums,again,commonsenseqa]", "validation.options.again.benchmark=sums")
    graded = graded_sets(sets, RewardsConfig(answer=AnswerKind.exact), decode)
    assert graded[0].grading is graded[1].grading
    assert graded[0].grading is not graded[2].grading
    for one in graded:
        one.grading.close()


def test_metrics_by_set() -> None:
    sums = Validation([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], 2, 0.25)
    found = validation_metrics(Validation([[1.0]], 0, sets={"sums": sums, "greedy": Validation([[0.0]], 0)}),
                               {"sums": 2, "greedy": 1})  # fmt: skip
    assert found["validation/pass@1"] == 1.0
    assert found["validation/sums/pass@1"] == 0.5
    assert found["validation/sums/pass@2"] == pytest.approx(2 / 3)
    assert (found["validation/sums/grader_errors"], found["validation/sums/truncated_fraction"]) == (2, 0.25)
    assert {name for name in found if "greedy" in name} == {
        f"validation/greedy/{name}"
        for name in ("pass@1", "pass@1_low", "pass@1_high", "grader_errors", "truncated_fraction")
    }
    assert validation_metrics(None, {"sums": 2, "greedy": 1}) == dict.fromkeys(found)


def test_a_run_asks_its_sets_at_every_validation(
    tmp_path: Path, stop: StopRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(request: SampleRequest) -> Answer:
        return Answer((int(request.prompt_id != 40),), finish="length" if request.prompt_id == 41 else "stop")

    run = run_of(tmp_path, stop, by_learner=answer, validation=ValidationConfig(every=2, samples=2))
    params = SamplingParams(5, (2,), temperature=0.125)
    asked = SetPrompts("mine", "mine", AnswerKind.math, "nothink", prompts(40, 41), 3, params)
    grader = ScriptedGrader(run.time)
    run.trainer.valid_sets = [BenchmarkSet(asked, Grading(decode, grader))]
    run.trainer.fit()
    of_set = [requests for requests, its in run.learner.asked if its == params]
    assert [[(one.prompt_id, one.sample_id) for one in requests] for requests in of_set] == [
        [(p, k) for p in (40, 41) for k in range(3)]
    ] * 4  # before training, after steps 2, 4 and 5
    assert all(requests == of_set[0] for requests in of_set)  # the same seeds: differences are paired
    assert run.trainer.run_seed == RUN_SEED
    assert {item.question for item in grader.items} == {"question 40", "question 41"}
    assert not any(item.question in ("question 40", "question 41") for item in run.grader.items)
    metrics = read_metrics(run.run_dir.metrics)
    assert [line["validation/mine/pass@1"] for line in metrics] == [None, 0.5, None, 0.5, 0.5]
    assert [line["validation/mine/truncated_fraction"] for line in metrics] == [None, 0.5, None, 0.5, 0.5]
    assert (read_validation(run.run_dir.validation / "mine", 5) or {})["correct"] == [[0.0] * 3, [1.0] * 3]
    monkeypatch.setattr("s2l_nemo.trainer.recorder.plot_run", lambda run_dir: [])
    run.recorder.summarize(5)
    summary = json.loads(run.run_dir.summary.read_text())
    assert [summary[f"mine/pass@1/{moment}"] for moment in ("before", "after", "difference")] == [0.5, 0.5, 0.0]
    assert "  mine: pass@1 0.500 [0.000, 1.000] on 2 problems x 3" in run.lines()
