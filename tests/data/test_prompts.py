from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from s2l_nemo.config.schema import ArithmeticConfig, DataConfig, OnBadRow, PromptFormat, ReasoningGymConfig, Task
from s2l_nemo.data.prompts import load_prompts
from s2l_nemo.errors import UserError

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]


def jsonl(tmp_path: Path, *records: object) -> DataConfig:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return DataConfig(path=str(path), valid_path=str(path))


def test_the_chat_template_wraps_the_prompt_and_keeps_text_and_answer(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    data = jsonl(tmp_path, {"prompt": "1+1?", "answer": 2})
    data.system_prompt = "Be brief."
    (prompt,) = load_prompts(data, tokenizer, 100, "train").prompts
    assert (prompt.prompt_id, prompt.text, prompt.answer) == (0, "1+1?", "2")
    assert tokenizer.decode(prompt.token_ids) == "s>Be brief.|u>1+1?|a>"


def test_a_base_model_gets_the_raw_text(tmp_path: Path, make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(chat_template=None)
    data = jsonl(tmp_path, {"prompt": "1+1?", "answer": "2"})
    (prompt,) = load_prompts(data, tokenizer, 100, "train").prompts
    assert tokenizer.decode(prompt.token_ids) == "1+1?"
    data.system_prompt = "Be brief."
    with pytest.raises(UserError, match=r"data\.system_prompt needs a tokenizer with a chat template"):
        load_prompts(data, tokenizer, 100, "train")


def test_longer_prompts_are_filtered_and_counted_and_rows_keep_their_number(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    records = [{"prompt": "x" * length, "answer": "1"} for length in (4, 5, 6, 4)]
    loaded = load_prompts(jsonl(tmp_path, *records), tokenizer, 5 + len("u>|a>"), "train")
    assert [prompt.prompt_id for prompt in loaded.prompts] == [0, 1, 3]
    assert loaded.filtered == 1
    assert len(load_prompts(jsonl(tmp_path, *records), tokenizer, 99, "train", 2).prompts) == 2


def test_no_prompt_left_is_an_error(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    data = jsonl(tmp_path, {"prompt": "x" * 9, "answer": "1"}, {"prompt": "x" * 9, "answer": "1"})
    with pytest.raises(UserError, match=r"all 2 are longer than rollout\.max_prompt_length=8"):
        load_prompts(data, tokenizer, 8, "valid")
    with pytest.raises(UserError, match="it has none"):
        load_prompts(jsonl(tmp_path), tokenizer, 8, "train")


@pytest.mark.parametrize(
    ("second_line", "reason"),
    [
        (b'{"prompt": "a"}', "no key 'answer'"),
        (b'{"question": "a", "answer": "1"}', "no key 'prompt', there are ['answer', 'question']"),
        (b'{"prompt": 3, "answer": "1"}', "'prompt' must be a non-empty string, not 3"),
        (b'{"prompt": " ", "answer": "1"}', "'prompt' must be a non-empty string"),
        (b'{"prompt": "a", "answer": null}', "'answer' must be a string or an integer, not None"),
        (b'{"prompt": "a", "answer": true}', "'answer' must be a string or an integer, not True"),
        (b'{"prompt": "a", "answer": "1"', "not valid JSON"),
        (b'["a", "1"]', "a JSON list instead of an object"),
        (b'{"prompt": "\xe9", "answer": "1"}', "not UTF-8 at byte 12"),
    ],
)
def test_a_malformed_line_is_named_with_file_and_number(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, second_line: bytes, reason: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"prompt": "a", "answer": "1"}\n' + second_line + b"\n")
    with pytest.raises(UserError) as error:
        load_prompts(DataConfig(path=str(path), valid_path=str(path)), tokenizer, 99, "train")
    assert str(error.value).startswith(f"{path}:2: {reason}")


def test_malformed_rows_can_be_left_out_and_are_counted(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n{"prompt": "b", "answer": "1"}\n{\n{"prompt": "cccc", "answer": "1"}\n')
    data = DataConfig(path=str(path), valid_path=str(path), on_bad_row=OnBadRow.skip, format=PromptFormat.base)
    loaded = load_prompts(data, tokenizer, 3, "train")
    assert [prompt.prompt_id for prompt in loaded.prompts] == [1]
    assert (loaded.filtered, [bad.line for bad in loaded.skipped]) == (1, [1, 3])
    path.write_bytes(b'{"prompt": "a"}\n')
    with pytest.raises(UserError, match=r"no valid prompts .*all 1 rows are malformed, the first at line 1: no key"):
        load_prompts(data, tokenizer, 3, "valid")


def test_cached_prompts_equal_fresh_ones(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    data = jsonl(tmp_path, {"prompt": "1+1?", "answer": 2}, {"prompt": "2+2?", "answer": 4})
    fresh = load_prompts(data, tokenizer, 99, "train")
    data.cache_dir = str(tmp_path / "cache")
    assert load_prompts(data, tokenizer, 99, "train") == load_prompts(data, tokenizer, 99, "train") == fresh
    assert len(list((tmp_path / "cache").iterdir())) == 1
    data = jsonl(tmp_path, {"prompt": "1+1?", "answer": 2}, {"prompt": "3+2?", "answer": 4})
    data.cache_dir = str(tmp_path / "cache")
    assert load_prompts(data, tokenizer, 99, "train").prompts[1].token_ids != fresh.prompts[1].token_ids


def test_blank_lines_are_skipped_and_keys_can_be_named(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('\n{"q": "a", "gold": "1"}\n\n')
    data = DataConfig(path=str(path), valid_path=str(path), prompt_key="q", answer_key="gold")
    assert [(p.prompt_id, p.text, p.answer) for p in load_prompts(data, tokenizer, 99, "train").prompts] == [
        (1, "a", "1")
    ]


def test_missing_files_and_paths_are_named(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    data = DataConfig(path=str(tmp_path / "absent.jsonl"))
    with pytest.raises(UserError, match=r"cannot read prompts from .*absent\.jsonl: No such file"):
        load_prompts(data, tokenizer, 99, "train")
    with pytest.raises(UserError, match=r"set both data\.path and data\.valid_path"):
        load_prompts(data, tokenizer, 99, "valid")


def test_arithmetic_splits_are_disjoint_and_ids_continue(tokenizer: PreTrainedTokenizerFast) -> None:
    data = DataConfig(arithmetic=ArithmeticConfig(train_prompts=300))
    train = load_prompts(data, tokenizer, 99, "train").prompts
    valid = load_prompts(data, tokenizer, 99, "valid", 50).prompts
    assert [p.prompt_id for p in train + valid] == list(range(350))
    assert len({p.text for p in train + valid}) == 350
    first, second = (int(word.strip("?")) for word in train[0].text.split() if word[0].isdigit())
    assert train[0].answer == str(first + second)
    assert load_prompts(data, tokenizer, 99, "train", 7).prompts == train[:7]
    assert load_prompts(data, tokenizer, 99, "valid", 7).prompts == valid[:7]


@pytest.mark.usefixtures("fake_reasoning_gym")
def test_reasoning_gym_tasks_are_prompts_like_others(tokenizer: PreTrainedTokenizerFast) -> None:
    gym = ReasoningGymConfig(dataset="say", train_prompts=3, seed=5)
    data = DataConfig(task=Task.reasoning_gym, reasoning_gym=gym)
    prompts = load_prompts(data, tokenizer, 99, "valid", 2).prompts
    assert [(p.prompt_id, p.text, p.answer) for p in prompts] == [(3, "Say 8", "8"), (4, "Say 9", "9")]
