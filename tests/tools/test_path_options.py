"""Every option of every tool that takes a path takes `~`; a new option cannot be forgotten."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from s2l_nemo.arguments import Parser, a_path, name_or_path
from s2l_nemo.config.keys import all_keys
from tools import show_rollouts

ROOT = Path(__file__).resolve().parent.parent.parent
COMMANDS = sorted(file for folder in ("tools", "recipes") for file in (ROOT / folder).glob("*.py"))
TEXTS = {"--prompt-key", "--answer-key", "--instruction"}  # whose values are words


class Parsed(Exception):
    """The parser of a command, before it reads anything."""


def options_of(file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[argparse.Action]:
    """The options of a command that are no flags, numbers or choices."""

    def stop(parser: argparse.ArgumentParser, *_: object) -> None:
        raise Parsed(parser)

    module = importlib.import_module(f"{file.parent.name}.{file.stem}")
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
    monkeypatch.setattr(Parser, "parse_known_args", stop)
    with pytest.raises(Parsed) as parsed:
        module.main([])
    (parser,) = parsed.value.args
    for action in parser._actions:
        if action.nargs != 0 and action.choices is None and action.type not in (int, float):
            yield action


PARSING = [file for file in COMMANDS if "Parser" in file.read_text(encoding="utf-8")]


def test_the_others_take_keys() -> None:
    """Whose paths are keys with `path=True`, expanded by `config.load`, but for one argument."""
    for file in COMMANDS:
        if file not in PARSING:
            text = file.read_text(encoding="utf-8")
            assert "load_values(" in text or "load_config(" in text, file
            assert (len(re.findall(r"\bargv\[", text)) > 1) is (file.name == "show_rollouts.py"), file


@pytest.mark.parametrize("file", PARSING, ids=lambda file: file.name)
def test_every_path_takes_the_home_folder(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named = {(action.option_strings or [action.dest])[-1]: action for action in options_of(file, monkeypatch)}
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, action in named.items():
        if action.type in (a_path, name_or_path):
            value = action.type("~/runs (2) é/a b")
            assert str(value) == f"{tmp_path}/runs (2) é/a b"
        else:
            known = name in TEXTS or (callable(action.type) and action.type not in (str, Path))
            assert known, f"{file.name} {name}: type=a_path or type=name_or_path, or a line of TEXTS"


def test_the_options_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [action.dest for action in options_of(ROOT / "tools/prepare_data.py", monkeypatch)]
    assert {"source", "output", "exclude", "prompt_key", "valid"} <= set(found)
    assert "force" not in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("~nobody-here/x", "argument --output: ~nobody-here/x: ~nobody-here has no home folder: write the path out"),
        ("", "argument --output: is empty: give a path"),
    ],
)
@pytest.mark.parametrize("kind", [a_path, name_or_path])
def test_what_is_no_path_is_one_line(capsys: pytest.CaptureFixture[str], kind: type, text: str, message: str) -> None:
    parser = Parser("Does nothing.")
    parser.add_argument("--output", type=kind)
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--output", text])
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: {message}; --help lists what there is\n"


def test_a_path_in_front_of_keys(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HOME", "/nowhere/at all")
    assert show_rollouts.main(["~/run"]) == 2
    assert "/nowhere/at all/run holds no rollouts" in capsys.readouterr().err
    assert show_rollouts.main(["~nobody-here/run"]) == 2
    assert capsys.readouterr().err.startswith("error: ~nobody-here/run: ~nobody-here has no home folder")
    assert all_keys(show_rollouts.ShowOptions)["html"].facts.path
