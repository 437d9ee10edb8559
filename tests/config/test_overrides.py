"""F21: values on the command line are what they look like, `~` is the home, and what is no pair says what to do."""

from __future__ import annotations

import os
import pwd
import shlex
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from s2l_nemo.config.diversity import DiversityConfig
from s2l_nemo.config.evaluation import EvaluateConfig
from s2l_nemo.config.explorers import explorers_of
from s2l_nemo.config.keys import all_keys
from s2l_nemo.config.load import load_config, load_values
from s2l_nemo.config.mix import training_sources
from s2l_nemo.config.probe import ProbeConfig
from s2l_nemo.config.reproduction import ReproduceConfig
from s2l_nemo.config.schema import Config
from s2l_nemo.config.store import ImportConfig, RunStoreConfig, SampleConfig
from s2l_nemo.errors import UserError
from s2l_nemo.fields import key
from s2l_nemo.planner.cost import PlanOptions
from s2l_nemo.planner.simulation.options import SimulateOptions
from tools.show_rollouts import ShowOptions

CONF = Path(__file__).resolve().parents[2] / "conf"
SCHEMAS = [
    Config, EvaluateConfig, DiversityConfig, SampleConfig, ImportConfig, RunStoreConfig, ProbeConfig, ReproduceConfig,
    PlanOptions, SimulateOptions, ShowOptions,
]  # fmt: skip
NO_PATHS = {
    "run.save_before", "engine.explorer_devices", "engine.learner_devices", "data.prompt_key", "data.answer_key",
    "data.system_key",
    "data.system_prompt", "data.instruction", "data.reasoning_gym.dataset", "rewards.fn", "validation.sets",
    "checkpoint.best", "logging.wandb_project", "steps", "benchmarks", "name", "benchmark", "shard", "source", "conf",
    "experiments", "train_keys", "evaluate_keys",
}  # fmt: skip


@dataclass
class Inner:
    file: str | None = key(None, "a file", path=True)


@dataclass
class Outer:
    text: str = key("x", "any text")
    maybe: str | None = key(None, "any text or none")
    folder: str = key("x", "a folder", path=True)
    folders: list[str] = key(list, "folders", path=True)
    names: list[str] = key(list, "names")
    numbers: list[int] = key(list, "numbers")
    count: int = key(1, "a number")
    free: dict[str, int] = key(dict, "anything")
    inner: Inner = field(default_factory=Inner)


def read(*arguments: str) -> Outer:
    return load_values(list(arguments), Outer, "")


def refusal(*arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        read(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("runs/über", "runs/über"), ("runs/日本", "runs/日本"), ("runs/x (2)/y", "runs/x (2)/y"), ("a=b", "a=b"),
        ("a b", "a b"), ("a,b", "a,b"), ("x/[a]", "x/[a]"), ("Put it into \\boxed{}.", "Put it into \\boxed{}."),
        ("x#1;y&z!", "x#1;y&z!"), ("it's", "it's"), ("x~", "x~"), ("~/x", "~/x"), ("007", "007"), ("1e5", "1e5"),
        ("1_000", "1_000"), ("true", "true"), ("range(1,3)", "range(1,3)"), ("'quoted'", "quoted"),
        ('"a, (b)"', "a, (b)"), ("'1e5'", "1e5"), (" a ", "a"), ("", ""), ("a${count}", "a1"),
        ("über_${count}", "über_1"),
    ],
)  # fmt: skip
def test_f21_a_text_needs_no_quotes(given: str, value: str) -> None:
    assert read(f"text={given}").text == value
    assert read(f"maybe={given}").maybe == value


def test_f21_null_is_no_text() -> None:
    assert read("maybe=null").maybe is None
    assert read("maybe='null'").maybe == "null"


@given(st.text(st.characters(exclude_categories=["C"], exclude_characters="$"), max_size=20).map(str.strip))
@example("a\\")
@example("\\'")
def test_f21_any_text_is_itself_or_what_its_quotes_hold_or_is_refused(text: str) -> None:
    value = None
    with suppress(UserError):  # one line, by its type
        value = read(f"text={text}").text
    for_grammar = text.startswith(("[", "{", "'", '"')) or text.lower() == "null" or text == "???"
    assert value == text or for_grammar or (value is not None and "\\" in text)


@pytest.mark.parametrize(
    ("given", "values"),
    [("[~/a,b c,ü]", ["/home/me/a", "b c", "ü"]), ("~/a", ["/home/me/a"]), ("[2026_01_02,007]", ["2026_01_02", "007"]),
     ('["a,b",\'~/c\']', ["a,b", "/home/me/c"]), ("[]", [])],
)  # fmt: skip
def test_f21_lists_of_texts(given: str, values: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert list(read(f"folders={given}").folders) == values


def test_f21_a_tilde_is_the_home_in_every_path_and_in_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for written in ("~/x", "'~/x'", '"~/x"'):
        assert read(f"folder={written}").folder == "/home/me/x"
    assert read("folder=~").folder == "/home/me"
    assert read("inner={file: '~/x'}").inner.file == "/home/me/x"
    assert read("folder=~/${count}").folder == "/home/me/1"
    assert read("folder=a/~/x").folder == "a/~/x"
    root = pwd.getpwuid(0)
    assert read(f"folder=~{root.pw_name}/x").folder == f"{root.pw_dir}/x"
    assert read("text=~/x", "names=[~/x]").text == "~/x"
    (tmp_path / "mine.yaml").write_text("folder: ~/x\n")
    assert load_values(["--config-name", "mine"], Outer, "", tmp_path).folder == "/home/me/x"


def test_f21_without_a_home_a_tilde_is_one_line() -> None:
    assert refusal("folder=~no-such-user/x") == (
        "folder=~no-such-user/x: ~no-such-user has no home folder: write the path out"
    )


def test_f21_names_below_free_names_are_paths_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    cfg = load_config(["explorers.a.path=~/über (1)", "data.mix.b.path=~/x.jsonl", "data.valid_path=~/v.jsonl"], CONF)
    assert explorers_of(cfg)[0].options.path == "/home/me/über (1)"
    assert training_sources(cfg.data)[0].path == "/home/me/x.jsonl"
    assert cfg.data.valid_path == "/home/me/v.jsonl"


@pytest.mark.parametrize("schema", SCHEMAS)
def test_f21_every_key_of_text_is_known_as_a_path_or_as_none(schema: type) -> None:
    keys = {name: known for name, known in all_keys(schema).items() if known.facts.choices is None}
    texts = {name for name, known in keys.items() if known.is_text or "list of text" in known.expected()}
    paths = {name for name, known in keys.items() if known.facts.path}
    assert paths <= texts
    assert texts - paths == texts & NO_PATHS


@pytest.mark.parametrize(
    ("arguments", "whole"),
    [
        (["text=my", "runs/x"], "text=my runs/x"),
        (["text=my", "old", "runs/x", "count=3"], "text=my old runs/x"),
        (["count=3", "text=my", "runs/lr=3"], "text=my runs/lr=3"),
        (["text=it's", "(2)"], "text=it's (2)"),
    ],
)
def test_f21_a_space_without_quotes_says_what_to_quote(arguments: list[str], whole: str) -> None:
    message = refusal(*arguments)
    stray = next(one for one in arguments if "=" not in one or "/" in one.partition("=")[0])
    start, _, advice = message.partition(": if it belongs to ")
    assert start == f"cannot read '{stray}' as key=value"
    assert shlex.split(advice.partition("quote the whole: ")[2]) == [whole]
    assert read(whole).text == whole.removeprefix("text=")


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("text =x", "with no space between"),
        ("text", "with no space between"),
        ("=x", "with no space between"),
        ("text=[a", "close its brackets and quotes"),
        ("text='a", "close its brackets and quotes"),
        ("count={a: 1", "close its brackets and quotes"),
        ("count=4(", "count=4(: expected integer"),
        ("count=1,2", "'count=1,2' has several values: give one value"),
        ("numbers=1,2", "'numbers=1,2' has several values: give a list, [a,b]"),
        (os.fsdecode(b"text=/a\xff"), "'text=/a\\udcff' holds bytes that are no text in UTF-8: rename what it names"),
        ("~text", "'~text' takes something away: give one value"),
        ("free.a=ü", "free.a=ü: expected"),
    ],
)
def test_f21_no_message_speaks_of_the_grammar(argument: str, said: str) -> None:
    message = refusal(argument)
    assert said in message
    assert not any(word in message for word in ("Lexer", "mismatched", "<EOF>", "Error parsing"))


def test_f21_what_is_advised_for_open_brackets_works() -> None:
    for text in ("[a", '"a', "{'a\" b"):
        advised = refusal(f"text={text}").partition("into quotes, ")[2]
        (argument,) = shlex.split(advised)
        assert OmegaConf.select(read(argument), "text") == text  # type: ignore[arg-type]
