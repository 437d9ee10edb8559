from __future__ import annotations

import io
import json
import os
import random
import signal
import tempfile
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from s2l_nemo.config.schema import AnswerKind
from s2l_nemo.data.normalize import answer_key, question_key, strip_wrapper, why_unanswerable
from s2l_nemo.data.prepare import (
    CONTRADICTION,
    EXACT,
    EXCLUDED,
    MALFORMED,
    NORMALIZED,
    UNREADABLE,
    Keys,
    Output,
    Preparation,
    Report,
    find_keys,
    item_of,
    json_line,
    source_id,
)
from s2l_nemo.data.sources import BadRow
from s2l_nemo.errors import UserError
from s2l_nemo.files import TEMPORARY

PREFIX = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
SUFFIX = '\n\nRemember to put your answer on its own line after "Answer:".'
NO_BOX = ", and you do not need to use a \\boxed command."


@pytest.mark.parametrize(
    "wrapped",
    [
        f"{PREFIX}What is 1+1?{SUFFIX}",
        f"{PREFIX}What is 1+1?",
        f"What is 1+1?{SUFFIX}",
        "\n" + PREFIX.replace("$Answer", "$ANSWER") + "What is 1+1?" + SUFFIX[:-1] + NO_BOX,
        "What is 1+1? Let's think step by step and output the final answer within \\boxed{}.",
        "What is 1+1?\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
        "What is 1+1?\nPresent the answer in LaTeX format: \\boxed{Your answer}",
        'What is 1+1? Let\'s think step by step and output the final answer after "####".',
        "What is 1+1?\n\nPut your final answer on a new line after ####",
        "Think step by step. Write the final numeric answer after '####'. What is 1+1?",
        "  What is 1+1?\n",
    ],
)
def test_instructions_around_the_question_are_stripped(wrapped: str) -> None:
    assert strip_wrapper(wrapped) == "What is 1+1?"


def test_a_question_about_answers_is_left_alone() -> None:
    question = 'Remember to put your answer on its own line after "Answer:". Then what is 1+1?'
    assert strip_wrapper(question) == question
    assert (
        strip_wrapper("Ann has $3.5. Give the answer as a fraction.") == "Ann has $3.5. Give the answer as a fraction."
    )
    assert strip_wrapper("Add 1 and 2 and put your final answer after ####") == "Add 1 and 2"
    assert strip_wrapper(PREFIX + SUFFIX) == ""


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Find  the sum,\nof all", "find the sum of all."),
        (r"What is $\dfrac{1}{2}+x$?", r"what is \( \frac{1}{2} + x \)"),
        (r"Let $\left( a,\, b \right)$ be", r"Let $(a,b)$ be"),
        (r"so that $$x=1.$$", r"so that $x = 1$."),
        (r"a\quad b~c", "a b c"),
        ("\uff26ind \uff11\uff12", "Find 12"),
        ("the “sum” is", 'the "sum" is'),
    ],
)
def test_the_same_question_written_otherwise(left: str, right: str) -> None:
    assert question_key(left) == question_key(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Find 3.5", "Find 35"),
        ("Find $5!$", "Find $5$"),
        ("Find $n$", "Find $N$"),
        ("Find $f'(1)$", "Find $f(1)$"),
        ("Find $x+1$", "Find $x-1$"),
        ("Find $(a,b)$", "Find $(ab)$"),
        ("sums 1 2", "sums 12"),
    ],
)
def test_different_questions_stay_different(left: str, right: str) -> None:
    assert question_key(left) != question_key(right)


@example("\\", " ")  # a backslash and a space are a LaTeX space
@given(st.text(), st.sampled_from([" ", "\n", "  ", "\t"]))
def test_keys_do_not_depend_on_space_around_and_hold_for_any_text(text: str, space: str) -> None:
    assert question_key(space + text + space) == question_key(text)
    assert answer_key(space + text + space) == answer_key(text)


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ("34", " $34$. ", True),
        ("1,234", "1234", True),
        (r"\dfrac{1}{2}", r"\frac{1} {2}", True),
        ("(1,2)", "12", False),
        ("1.5", "15", False),
        ("-1", "1", False),
    ],
)
def test_answers(left: str, right: str, equal: bool) -> None:
    assert (answer_key(left) == answer_key(right)) is equal


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("1+1?", "2", None),
        ("1+1?", r"\text{two}", None),
        ("Which $x$ solves it? [asy]draw(A--B);[/asy]", r"$\left\{1, 2\right\}$", None),
        ("", "2", "empty question"),
        ("[asy]draw(A--B);[/asy]", "2", "empty question"),
        ("See ![](https://cdn.example/x.png). Area?", "2", "question needs a picture"),
        (r"See \includegraphics[width=3cm]{x}", "2", "question needs a picture"),
        ("1+1?", " $ $", "no answer"),
        ("1+1?", "x" * 301, "answer is prose"),
        ("1+1?", "First we show that every prime divides the sum, then", "answer is prose"),
        ("1+1?", "N/A", "answer cannot be graded"),
        ("1+1?", "see solution", "answer cannot be graded"),
        ("1+1?", r"\frac{1}{2", "answer cannot be graded"),
        ("1+1?", "}{", "answer cannot be graded"),
    ],
)
def test_reasons_why_a_row_is_dropped(question: str, answer: str, reason: str | None) -> None:
    assert why_unanswerable(question, answer) == reason


class ByNumber:
    """Two answers are the same if they are the same fraction. `?!` cannot be read."""

    def unreadable(self, golds: Sequence[str]) -> list[str | None]:
        return ["no sense" if "?!" in gold else None for gold in golds]

    def same(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        return [Fraction(one) == Fraction(other) for one, other in pairs]


def prepare(
    folder: Path, records: Iterable[Any], held_out: int = 0, seed: int = 1, **options: Any
) -> tuple[list[dict[str, str]], Report]:
    with tempfile.TemporaryFile() as spool:
        preparation = Preparation(Keys("q", "a"), spool, ByNumber(), **options)
        for line, record in enumerate(records, start=1):
            preparation.add(line, record)
        preparation.write(Output(folder / "out.jsonl"), held_out, seed, {"source": "test"})
    lines = (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], preparation.report


def test_every_row_is_kept_or_counted_under_its_reason(tmp_path: Path) -> None:
    rows, report = prepare(
        tmp_path,
        [
            {"q": f"{PREFIX}What is 1+1?{SUFFIX}", "a": "2"},
            {"q": f"{PREFIX}What is 1+1?{SUFFIX}", "a": "2"},
            {"q": "what is  1+1", "a": " 2."},
            {"q": "What is 2+2?", "a": 4, "extra_info": {"index": "uuid"}},
            {"q": "What is 3+3?", "a": "6"},
            {"q": "What is 3+3", "a": "7"},
            {"q": "what is 3+3", "a": "6"},
            BadRow(8, "not valid JSON"),
            {"q": "What is 4+4?"},
            {"q": "What is 4+4?", "a": None},
            {"q": "What is 4+4?", "a": True},
            {"q": "What is 4+4?", "a": "8\ud800"},
            {"q": "In the benchmark?", "a": "1"},
            {"q": "Half of 1?", "a": "0.5"},
            {"q": "Half of 1?", "a": "1/2"},
            {"q": "Half of 2?", "a": "?!"},
        ],
        excluded=[question_key("in the benchmark")],
        instructions={AnswerKind.math: "Box it."},
    )
    assert rows[0] == {"prompt": "What is 1+1?\n\nBox it.", "answer": "2", "id": rows[0]["id"]}
    assert rows[1] == {"prompt": "What is 2+2?\n\nBox it.", "answer": "4", "id": "uuid"}
    assert rows[2] == {"prompt": "Half of 1?\n\nBox it.", "answer": "0.5", "id": rows[2]["id"]}
    assert len(rows) == report.kept == 3
    assert report.kinds == {"math": 3}
    assert report.dropped == {
        MALFORMED: 4,
        CONTRADICTION: 3,
        NORMALIZED: 2,
        EXACT: 1,
        EXCLUDED: 1,
        UNREADABLE: 1,
        "no answer": 1,
    }
    assert report.examples[CONTRADICTION] == ["5: '6'", "6: '7'", "7: '6'"]
    assert report.examples[UNREADABLE] == ["16: '?!': no sense"]
    assert report.examples[MALFORMED][:2] == ["8: not valid JSON", "9: no key 'a', there are ['q']; set --answer-key"]
    assert report.wrappers == 1
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert manifest["source"] == "test"
    assert manifest["rows"]["dropped"] == report.dropped
    assert list(manifest["sha256"]) == ["out.jsonl"]


QUESTIONS = st.sampled_from(["What is 1+1?", "what is 1+1", "What is 2+2?", "What is 3+3?", "", "![](x)"])
RECORDS = st.lists(
    st.builds(lambda q, a: {"q": q, "a": a}, QUESTIONS, st.sampled_from(["1", "2", "2.", "2.0", ""])), max_size=12
)


@given(RECORDS, st.randoms(use_true_random=False))
def test_what_is_kept_does_not_depend_on_order_or_repetition(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, str]], rng: random.Random
) -> None:
    # By definition: a question is kept where its gradable rows agree on one answer.
    answers: dict[str, set[str]] = {}
    for record in records:
        if record["q"] not in ("", "![](x)") and record["a"]:
            answers.setdefault(question_key(record["q"]), set()).add(str(float(record["a"])))
    expected = {question for question, found in answers.items() if len(found) == 1}
    folder = tmp_path_factory.mktemp("prepare", numbered=True)
    always = {"q": "Always?", "a": "1"}  # an empty output is an error
    for repeated in (
        [*records, always],
        [*records, always, *records],
        rng.sample([*records, always], len(records) + 1),
    ):
        rows, report = prepare(folder, repeated)
        assert {question_key(row["prompt"]) for row in rows} == expected | {"always"}
        assert len(rows) == report.kept == len(expected) + 1
        assert report.read == len(repeated) == report.kept + sum(report.dropped.values())


def test_held_out_rows_are_drawn_by_the_seed(tmp_path: Path) -> None:
    records = [{"q": f"What is {i}+1?", "a": i + 1} for i in range(40)]
    valid = tmp_path / "out_valid.jsonl"

    def split(seed: int) -> tuple[list[str], list[str]]:
        rows, report = prepare(tmp_path, records, held_out=10, seed=seed)
        assert (report.kept, report.held_out) == (30, 10)
        return [row["prompt"] for row in rows], [json.loads(line)["prompt"] for line in valid.read_text().splitlines()]

    train, held_out = split(1)
    assert {*train, *held_out} == {record["q"] for record in records}
    assert len(train) == 30
    assert train == sorted(train, key=lambda text: [record["q"] for record in records].index(text))
    assert split(1) == (train, held_out) != split(2)


def test_too_few_rows_are_an_error_that_says_why_and_nothing_is_written(tmp_path: Path) -> None:
    record = {"q": "1+1?", "a": "2"}
    with pytest.raises(UserError, match=r"1 of 3 rows are left, with 1 to hold out: 2 x exact duplicate \(line 2\)"):
        prepare(tmp_path, [record] * 3, held_out=1)
    with pytest.raises(
        UserError, match=r"0 of 1 rows are left, with 0 to hold out: 1 x malformed row \(line 1: no key 'q'"
    ):
        prepare(tmp_path, [{"question": "1+1?"}])
    assert list(tmp_path.iterdir()) == []


class FullDisk(io.BytesIO):
    """Fails when it is read back."""

    def __iter__(self) -> Any:
        yield super().readline()
        raise OSError(28, "No space left on device")


def test_a_failure_while_writing_leaves_the_old_files(tmp_path: Path) -> None:
    prepare(tmp_path, [{"q": "1+1?", "a": "2"}])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    preparation = Preparation(Keys("q", "a"), FullDisk(), ByNumber())
    for line in range(3):
        preparation.add(line, {"q": f"{line}+3?", "a": "2"})
    with pytest.raises(OSError, match="No space left"):
        preparation.write(Output(tmp_path / "out.jsonl"), 0, 1, {})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


class PowerCut(io.BytesIO):
    """Kills the process when it is read back."""

    def __iter__(self) -> Any:
        yield super().readline()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("exists", [False, True])
def test_a_kill_while_writing_leaves_the_old_files_or_none(tmp_path: Path, exists: bool) -> None:
    if exists:
        prepare(tmp_path, [{"q": "1+1?", "a": "2"}])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    preparation = Preparation(Keys("q", "a"), PowerCut(), ByNumber())
    for line in range(3):
        preparation.add(line, {"q": f"{line}+3?", "a": "2"})
    child = os.fork()
    if child == 0:
        preparation.write(Output(tmp_path / "out.jsonl"), 1, 1, {})
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if not path.name.startswith(TEMPORARY)}
    assert after == before


def test_a_choice_of_half_a_character_is_a_malformed_row() -> None:
    record: dict[str, object] = {"question": "Which?", "choices": ["A) x", "B) \ud800"], "answer": "A"}
    with pytest.raises(ValueError, match="'choices' holds half of a surrogate pair"):
        item_of(record, find_keys(record))


def test_an_id_of_half_a_character_is_kept_as_the_source_wrote_it() -> None:
    line = json_line({"prompt": "p\u00fc", "id": "\ud800"})
    assert line == '{"prompt": "p\u00fc", "id": "\\ud800"}\n'.encode()
    assert json.loads(line)["id"] == "\ud800"


def test_fields_are_found_by_their_usual_names() -> None:
    dapo: dict[str, object] = {"prompt": [], "reward_model": {"ground_truth": "1"}, "answer": None}
    assert find_keys(dapo) == Keys("prompt", "reward_model.ground_truth")
    assert find_keys({"problem": "p", "solution": "long", "answer": "1"}) == Keys("problem", "answer")
    assert find_keys({"text": "p", "answer": "1"}, prompt="text") == Keys("text", "answer")
    with pytest.raises(ValueError, match=r"cannot tell question and answer among \['text'\]; give --prompt-key"):
        find_keys({"text": "p"})
    assert [source_id(record) for record in ({"extra_info": {"index": 3}}, {"id": ""}, {"unique_id": "x"})] == [
        "3",
        None,
        "x",
    ]
