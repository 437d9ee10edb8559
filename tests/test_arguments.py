"""Options of tools: what is wrong is one line that names it."""

from __future__ import annotations

import os

import pytest

from s2l_nemo.arguments import Parser


def parser() -> Parser:
    made = Parser("Does nothing.")
    made.add_argument("--input", required=True)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--dtype", choices=("bf16", "fp32"))
    made.add_argument("rest", nargs="*")
    return made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--inptu", "x"], "unknown option --inptu: did you mean --input?"),
        (["--inp", "x"], "unknown option --inp: did you mean --input?"),
        (["--input", "x", "--zzzzzz=1"], "unknown option --zzzzzz;"),
        (["--input", "x", "--seed", "many"], "argument --seed: invalid int value: 'many'"),
        (["--input", "x", "--dtype", "fb16"], "'fb16'"),
        ([], "--input"),
        (["--input"], "--input"),
        (["--input", os.fsdecode(b"/a\xff")], r"'/a\udcff' holds bytes that are no text in UTF-8"),
    ],
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as end:
        parser().parse_args(arguments)
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_what_is_right_is_taken() -> None:
    options = parser().parse_args(["--input=a b", "--seed", "-3", "one", "--", "--two"])
    assert (options.input, options.seed, options.rest) == ("a b", -3, ["one", "--two"])
