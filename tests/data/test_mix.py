"""Training prompts from several weighted sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from s2l_nemo.config.checks import check_config
from s2l_nemo.config.load import load_config
from s2l_nemo.config.mix import DataSource, training_sources
from s2l_nemo.config.schema import DataConfig, OnBadRow
from s2l_nemo.data.prompts import load_prompts, weighted
from s2l_nemo.data.rows import Row
from s2l_nemo.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "conf"


def jsonl(path: Path, *records: object) -> str:
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    first = jsonl(tmp_path / "a.jsonl", *({"prompt": f"a{number}", "answer": number} for number in range(4)))
    second = jsonl(tmp_path / "b.jsonl", *({"q": f"b{number}", "gold": f"so\n#### {number}"} for number in range(4)))
    mix: dict[str, Any] = {
        "a": {"path": first, "weight": 0.5},
        "b": {"path": second, "weight": 2, "prompt_key": "q", "answer_key": "gold"},
    }
    return DataConfig(mix=mix, valid_path=first)


def test_each_row_comes_as_often_as_its_weight_says(data: DataConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    prompts = load_prompts(data, tokenizer, 99, "train").prompts
    assert [prompt.text for prompt in prompts] == ["a1", "a3", "b0", "b0", "b1", "b1", "b2", "b2", "b3", "b3"]
    assert [prompt.answer for prompt in prompts] == ["1", "3", "0", "0", "1", "1", "2", "2", "3", "3"]
    assert [prompt.prompt_id for prompt in prompts] == list(range(10))
    assert load_prompts(data, tokenizer, 99, "train", 3).prompts == prompts[:3]
    held_out = load_prompts(data, tokenizer, 99, "valid").prompts
    assert [prompt.text for prompt in held_out] == ["a0", "a1", "a2", "a3"]


def test_bad_rows_of_a_mix_name_their_file(data: DataConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    data.mix["b"]["answer_key"] = "answer"
    with pytest.raises(UserError, match=r"b\.jsonl:1: no key 'answer'"):
        load_prompts(data, tokenizer, 99, "train")
    data.on_bad_row = OnBadRow.skip
    loaded = load_prompts(data, tokenizer, 99, "train")
    assert [prompt.text for prompt in loaded.prompts] == ["a1", "a3"]
    assert [bad.line for bad in loaded.skipped] == [1, 2, 3, 4]
    assert "b.jsonl: no key 'answer'" in loaded.skipped[0].reason
    data.mix = {"b": data.mix["b"]}
    with pytest.raises(UserError, match=r"no train prompts from .*b\.jsonl: all 4 rows are malformed"):
        load_prompts(data, tokenizer, 99, "train")


@given(st.integers(0, 40), st.integers(1, 400))
def test_a_weight_is_met_and_spread_evenly(count: int, percent: int) -> None:
    rows = [Row(number, str(number), "1", number + 1) for number in range(count)]
    exact = percent / 100
    taken = weighted(rows, exact)
    assert abs(len(taken) - exact * count) < 1
    assert taken == sorted(taken, key=lambda row: row.row)
    assert {taken.count(row) for row in rows} <= {int(exact), int(exact) + 1}
    for first in range(count):  # every stretch of the file has its share, up to one row
        stretch = [row for row in taken if first <= row.row < first + 10]
        assert abs(len(stretch) - exact * min(10, count - first)) < 1 + 1e-9


def load(*overrides: str) -> DataConfig:
    return load_config(list(overrides), CONF).data


def test_sources_of_a_configuration() -> None:
    assert training_sources(load()) == []
    assert training_sources(load("data.path=x.jsonl")) == [DataSource("x.jsonl", "prompt", "answer", None)]
    mixed = load("data.mix.a.path=x.jsonl", "data.mix.b.path=o/n:train", "data.mix.b.weight=0.25", "data.answer_key=g")
    assert training_sources(mixed) == [
        DataSource("x.jsonl", "prompt", "g", None),
        DataSource("o/n:train", "prompt", "g", None, 0.25),
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.mix.a.path=x.jsonl"], "data.mix=a without data.valid_path: give both"),
        (["data.path=x.jsonl"], "data.path=x.jsonl without data.valid_path: give both"),
        (["data.valid_path=x.jsonl"], "data.valid_path=x.jsonl without data.path: give both"),
        (["data.mix.a.path=x.jsonl", "data.path=y.jsonl"], "data.path=y.jsonl with data.mix=a: choose one of them"),
        (
            ["data.mix.a.path=x", "data.task=reasoning_gym"],
            "data.task=reasoning_gym with data.mix=a: choose one of them",
        ),
        (["data.mix.a.weight=2"], "data.mix.a has no path: set data.mix.a.path=FILE"),
        (["data.mix.a.path=x.jsonl", "data.mix.a.weight=0"], "data.mix.a.weight=0.0: must be greater than 0"),
        (["data.mix.a.path=x.jsonl", "data.mix.a.wieght=1"], "data.mix.a: unknown key wieght=1"),
        (["data.mix.a=x.jsonl"], "data.mix.a=x.jsonl: expected keys below it"),
        (["data.instruction=' '"], "data.instruction= : must be a text"),
        (
            ["data.chat_template_kwargs.add_generation_prompt=false"],
            "data.chat_template_kwargs={'add_generation_prompt': False}: must be variables that a chat template reads",
        ),
    ],
)
def test_mistakes_of_a_configuration(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        check_config(load_config(overrides, CONF))
    assert str(error.value).startswith(message)
