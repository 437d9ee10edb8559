r"""What the model gets: question, instruction, system message, variables of the template."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from s2l_nemo.config.schema import DataConfig, Extract, PromptFormat
from s2l_nemo.data.chat import apply_template, count_unasked, unread_variables
from s2l_nemo.data.prompts import load_prompts
from s2l_nemo.errors import UserError
from tests.character_tokenizer import TEMPLATE

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]
BOX = r"Put your final answer within \boxed{}."
THINKING = TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}<think/>{% endif %}"


def texts(folder: Path, tokenizer: PreTrainedTokenizerFast, *records: object, **options: object) -> list[str]:
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    data = DataConfig(path=str(path), valid_path=str(path), **options)  # type: ignore[arg-type]
    prompts = load_prompts(data, tokenizer, 999, "train").prompts
    return [str(tokenizer.decode(prompt.token_ids)) for prompt in prompts]


def test_the_instruction_follows_the_question_once(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{"prompt": "1+1?", "answer": 2}, {"prompt": f"1+2?\n\n{BOX}", "answer": 3}]
    asked = [f"1+1?\n\n{BOX}", f"1+2?\n\n{BOX}"]
    assert texts(tmp_path, tokenizer, *rows, instruction=BOX) == [f"u>{text}|a>" for text in asked]
    assert texts(tmp_path, tokenizer, *rows, instruction=BOX, format=PromptFormat.base) == asked
    data = DataConfig(instruction=BOX)
    (prompt,) = load_prompts(data, tokenizer, 999, "train", 1).prompts
    assert str(tokenizer.decode(prompt.token_ids)) == f"u>{prompt.text}\n\n{BOX}|a>"
    assert BOX not in prompt.text


def test_a_row_may_have_a_system_message_of_its_own(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    own = [{"role": "system", "content": "Own."}, {"role": "user", "content": "1+1?"}]
    rows = [{"prompt": own, "answer": 2, "s": None}, {"prompt": "1+2?", "answer": 3, "s": "Field."}]
    assert texts(tmp_path, tokenizer, *rows) == ["s>Own.|u>1+1?|a>", "u>1+2?|a>"]
    assert texts(tmp_path, tokenizer, *rows, system_key="s") == ["s>Own.|u>1+1?|a>", "s>Field.|u>1+2?|a>"]
    assert texts(tmp_path, tokenizer, *rows, system_prompt="All.") == ["s>Own.|u>1+1?|a>", "s>All.|u>1+2?|a>"]
    with pytest.raises(UserError, match=r"line 1 of the prompts has a system message, which needs data\.format=chat"):
        texts(tmp_path, tokenizer, *rows, format=PromptFormat.base)
    with pytest.raises(UserError, match=r"no key 't', .*set data\.system_key"):
        texts(tmp_path, tokenizer, *rows, system_key="t")
    with pytest.raises(UserError, match="the system message in 's' must be a string, not 3"):
        texts(tmp_path, tokenizer, {"prompt": "a", "answer": "1", "s": 3}, system_key="s")


def test_choices_belong_to_the_question(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    choices = {"label": ["1", "2"], "text": ["here", "there"]}
    row = {"question": "Where?", "choices": choices, "answerKey": "2"}
    (text,) = texts(tmp_path, tokenizer, row, prompt_key="question", answer_key="answerKey", instruction="Say it.")
    assert text == "u>Where?\n\nA. here\nB. there\n\nSay it.|a>"


def test_variables_of_the_template(tmp_path: Path, make_tokenizer: MakeTokenizer) -> None:
    tokenizer, row = make_tokenizer(THINKING), {"prompt": "1+1?", "answer": 2}
    assert texts(tmp_path, tokenizer, row) == ["u>1+1?|a>"]
    off = {"enable_thinking": False}
    assert texts(tmp_path, tokenizer, row, chat_template_kwargs=off) == ["u>1+1?|a><think/>"]
    assert texts(tmp_path, tokenizer, row, chat_template_kwargs={"enable_thinking": None}) == ["u>1+1?|a>"]
    assert unread_variables(tokenizer, DataConfig(chat_template_kwargs=off)) == []
    typo = DataConfig(chat_template_kwargs={"enable_thinkin": False, "thinking": None})
    assert unread_variables(tokenizer, typo) == ["enable_thinkin"]
    with pytest.raises(
        UserError, match=r"chat_template_kwargs\.enable_thinking needs data\.format=chat: set it to null"
    ):
        texts(tmp_path, tokenizer, row, chat_template_kwargs=off, format=PromptFormat.base)


def test_f10_a_template_may_refuse(tmp_path: Path, make_tokenizer: MakeTokenizer) -> None:
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE
    with pytest.raises(UserError, match=r"chat template refuses the prompts: no system role; see data\.system_prompt"):
        texts(tmp_path, make_tokenizer(template), {"prompt": "a", "answer": "1"}, system_prompt="Be brief.")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__ }}{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ lipsum.__globals__['os'].system('true') }}",
        "{% include '/etc/passwd' %}",
        "{{ messages.append(1) }}",
        "{{ 1 / 0 }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% for",
    ],
)
def test_a_template_reaches_nothing_outside_of_its_sandbox(make_tokenizer: MakeTokenizer, template: str) -> None:
    with pytest.raises(UserError, match="chat template refuses the prompts"):
        apply_template(make_tokenizer(template), [[{"role": "user", "content": "1+1?"}]], {})


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        (r"Put your final answer within \boxed{}.", {Extract.boxed}),
        (r"answer in $\fbox{}$", {Extract.boxed}),
        ("Write the answer in a box.", {Extract.boxed}),
        ("Give the Boxed answer.", {Extract.boxed}),
        ("How many balls are left in the box?", set()),
        ("Ann opens a box of 12.", set()),
        (r"What is \boxedx?", set()),
        ('Put it on its own line after "Answer:".', {Extract.answer_line}),
        ("Put it after ####.", {Extract.hashes}),
        ("Put it into <answer></answer>, or \\boxed{}.", {Extract.tag, Extract.boxed}),
        ("1+1?", set()),
    ],
)
def test_what_a_prompt_asks_for(text: str, asked: set[Extract]) -> None:
    unasked = count_unasked([text])
    assert {place for place, count in unasked.items() if count == 0} == asked | ({Extract.anywhere} if asked else set())
    assert count_unasked([text, text]) == {place: 2 * count for place, count in unasked.items()}


def test_prompts_that_do_not_ask_are_counted_as_the_model_gets_them(
    tmp_path: Path, make_tokenizer: MakeTokenizer
) -> None:
    path = tmp_path / "p.jsonl"
    rows = [{"prompt": "1+1?", "answer": 2}, {"prompt": f"1+2? {BOX}", "answer": 3}, {"prompt": "x" * 99, "answer": 1}]
    path.write_text("\n".join(json.dumps(row) for row in rows))

    def without_box(template: str = TEMPLATE, **options: object) -> int:
        data = DataConfig(path=str(path), valid_path=str(path), **options)  # type: ignore[arg-type]
        return load_prompts(data, make_tokenizer(template), 90, "train").unasked[Extract.boxed]

    assert without_box() == 1
    assert without_box(instruction=BOX) == without_box(system_prompt=BOX) == without_box(BOX + TEMPLATE) == 0


def test_f10_an_empty_template_is_one_line(tmp_path: Path, make_tokenizer: MakeTokenizer) -> None:
    for template in ("", "{# nothing #}"):
        with pytest.raises(UserError, match="chat template"):
            texts(tmp_path, make_tokenizer(template), {"prompt": "a", "answer": "1"})


def test_f26_a_template_that_leaves_out_the_system_message_is_refused(
    tmp_path: Path, make_tokenizer: MakeTokenizer
) -> None:
    deaf = make_tokenizer("{% for m in messages if m['role'] == 'user' %}u>{{ m['content'] }}|{% endfor %}a>")
    row = {"prompt": "a", "answer": "1"}
    assert texts(tmp_path, deaf, row) == ["u>a|a>"]
    for rows, options in (([row], {"system_prompt": "All."}), ([row, {**row, "s": "Own."}], {"system_key": "s"})):
        with pytest.raises(UserError, match=r"leaves out the system message .* put its text into data\.instruction"):
            texts(tmp_path, deaf, *({"s": None, **one} for one in rows), **options)
