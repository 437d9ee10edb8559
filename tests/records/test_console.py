from __future__ import annotations

import io

import pytest

from s2l_nemo.records.console import StepConsole, _number, _small
from tests.records.conftest import MetricsOf


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(
    metrics_of: MetricsOf, steps: int = 5, total: int = 5, stream: io.StringIO | None = None, **options: int
) -> str:
    stream = stream or io.StringIO()
    with StepConsole(total, stream=stream, **options) as console:
        console.header("S2L-PO", {"learner": "models/" + "long/" * 60, "ranks": 2})
        for step in range(1, steps + 1):
            console.step(step, metrics_of(step))
    return stream.getvalue()


@pytest.mark.parametrize("total", [5, 100, 1000])
def test_plain_lines_fit_120_columns_and_have_no_control_characters(
    metrics_of: MetricsOf, total: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # a user's shell may set it; a log file wants none of it
    text = printed(metrics_of, total=total)
    assert max(map(len, text.splitlines())) <= 120
    assert all(character == "\n" or character.isprintable() for character in text)
    assert text.count(f"/{total} ") == 5


@pytest.mark.parametrize(("width", "phases"), [(120, True), (100, True), (80, False)])
def test_a_step_is_one_line_in_its_columns(metrics_of: MetricsOf, width: int, phases: bool) -> None:
    lines = printed(metrics_of, width=width).splitlines()
    titles = next(line for line in lines if "alpha" in line)
    step = next(line for line in lines if "2/5" in line)
    assert ("roll" in titles) == phases
    assert len(step) == len(titles) <= width
    for title, value in (("Gw/Gs", "9/7"), ("expl.", "0.200"), ("0-var", "25%"), ("sec", "12.3"), ("len", "40")):
        end = titles.index(title) + len(title)
        assert step[:end].endswith(value)


def test_null_is_a_dash(metrics_of: MetricsOf) -> None:
    lines = printed(metrics_of, width=120).splitlines()
    titles = next(line for line in lines if "alpha" in line)
    end = titles.index("learn") + len("learn")
    assert next(line for line in lines if "1/5" in line)[:end].endswith(" -")


def test_titles_come_again(metrics_of: MetricsOf) -> None:
    assert printed(metrics_of, steps=51, total=51).count("alpha") == 3


def test_a_terminal_gets_a_bar_with_the_time_left(metrics_of: MetricsOf) -> None:
    text = printed(metrics_of, stream=Terminal(), steps=3)
    assert "3/5" in text
    assert "ETA" in text
    assert "\x1b[" in text


def test_numbers_keep_their_width() -> None:
    assert [_number(x) for x in (0.4123, 12.345, 99.999, 123.45, 1e7)] == ["0.412", "12.35", "100.0", "123.5", "1e+07"]
    assert [_small(x) for x in (0, -0.01234, 1.23e-4, -2e-7, 12.3)] == ["0", "-0.0123", "1.2e-4", "-2.0e-7", "1.2e+1"]
