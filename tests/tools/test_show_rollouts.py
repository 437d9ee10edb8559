"""What a person sees of a group, on the console and as a page."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from s2l_nemo.records.dump import rollout_table, write_rollouts
from s2l_nemo.types import Completion, Group, Prompt
from tests.arrays import ids, lps
from tools import show_rollouts

TEXTS = {1: "4 + 4 is <b>8</b>, \\boxed{8}", 2: "[red]seven[/red]", 3: "I do not"}


def completion(prompt: int, sample: int, source: int, reward: float, text: int, **more: object) -> Completion:
    made = Completion(
        prompt, sample, source, ids([text]), lps([-0.5]), "stop", 0, reward=reward, answer="8" if reward else None
    )
    for name, value in more.items():
        object.__setattr__(made, name, value)
    return made


@pytest.fixture
def run(tmp_path: Path) -> Path:
    groups = [
        Group(
            Prompt(7, "4 + 4 & <more>?", "8", (5,)),
            (
                completion(7, 0, 2, 1.0, 1),
                completion(7, 1, 1, 0.0, 2, finish_reason="length", kept=False),
                completion(7, 2, 0, 0.0, 3, grader_error="killed"),
            ),
        ),
        Group(Prompt(9, "1 + 1?", "2", (6,)), tuple(completion(9, sample, 0, 0.0, 3) for sample in range(3))),
    ]
    names = ["learner", "cold", "hot"]
    for step in (3, 4):
        tables = [
            rollout_table(step, group, [1.5, -0.5, 0.0], lambda tokens: TEXTS[tokens[0]], names) for group in groups
        ]
        write_rollouts(tmp_path / "run" / "rollouts" / f"step_{step:06d}.parquet", tables)
    return tmp_path / "run"


def test_a_group_on_the_console(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_rollouts.main([str(run), "step=3", "prompt=7"]) == 0
    shown = capsys.readouterr().out
    assert "step 3, prompt 7, answer '8': hot 1/1, cold 0/1, learner 0/1 right" in shown
    assert "4 + 4 & <more>?" in shown
    assert "hot | reward 1 | advantage +1.500 | answer '8' | 1 tokens" in shown
    assert "no answer found | 1 tokens, cut at the limit | left out by the filter" in shown
    assert "learner | reward 0 | advantage +0.000 | no answer found | 1 tokens | the check failed: killed" in shown
    assert "[red]seven[/red]" in shown  # a response is no markup
    assert "1 + 1?" not in shown


def test_the_last_step_and_the_first_groups(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_rollouts.main([str(run), "count=1"]) == 0
    shown = capsys.readouterr().out
    assert "step 4, prompt 7" in shown
    assert "prompt 9" not in shown


class Texts(HTMLParser):
    """All text and tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.tags = "", [""]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_holds_the_same_and_no_markup_of_a_response(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "groups.html"
    assert show_rollouts.main([str(run), "step=3", f"html={page}"]) == 0
    texts = Texts()
    texts.feed(page.read_text())
    assert "b" not in texts.tags
    assert "script" not in texts.tags
    assert texts.tags.count("article") == 6
    for text in (*TEXTS.values(), "4 + 4 & <more>?", "hot | reward 1 | advantage +1.500 | answer '8' | 1 tokens"):
        assert text in texts.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["step=9"], "step_000009.parquet is missing: that step left no rollouts (logging.rollouts_every)"),
        (["step=3", "prompt=8"], "prompt=8 is not in"),
        (["promt=7"], "unknown key promt=7: the nearest known key is prompt"),
        (["step=0"], "step=0: must be at least 1"),
        (["step=5"], "step_000005.parquet is not a file of rollouts: "),
    ],
)
def test_mistakes(run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    (run / "rollouts" / "step_000005.parquet").write_text("no parquet")
    assert show_rollouts.main([str(run), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_folder_without_rollouts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_rollouts.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} holds no rollouts: give the folder of a run (run.dir)\n"
