"""The page as a file, and in a browser: it needs nothing else, every text is a text, every picture has its data."""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import pytest

from s2l_nemo.records.transcript import read_groups
from s2l_nemo.reproduction.report.groups import examples, only_explorer
from s2l_nemo.reproduction.report.page import write_report
from s2l_nemo.reproduction.report.runs import read_study
from s2l_nemo.reproduction.report.sections import sections
from tests.browser import Browser, Seen, browsing
from tests.reproduction.report.scripted import HOSTILE, claim, write_claims, write_groups, write_run, write_study
from tools import report as command

VOID = {"meta", "link", "br", "hr", "img", "input", "path", "use", "rect"}
CHROMIUM = shutil.which("chromium")


class Parsed(HTMLParser):
    """Tags with their attributes, the text outside of them, and whatever is opened and not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_study(tmp_path_factory.mktemp("report") / "<b>toy & more")
    run = write_run(root / "odd <img src=x onerror=alert(2)> $x_1$" / "seed_1", rewards=[0.5])
    write_groups(run, 1, {"&lt;b&gt;": 1.0})
    write_report(root)
    return root


@pytest.fixture(scope="module")
def text(root: Path) -> str:
    return (root / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Parsed:
    return Parsed(text)


def test_every_element_is_closed_and_nothing_runs(page: Parsed) -> None:
    assert page.open == []
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "img", "iframe", "object", "embed", "form", "base", "b"}
    handlers = [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert handlers == []


def test_hostile_texts_are_shown_as_they_are(page: Parsed, text: str) -> None:
    assert "<img" not in text
    for shown in (
        f"by the explorer {HOSTILE}",
        f"What is {HOSTILE}?",
        f"S2L-PO wins {HOSTILE}",
        f"A rule {HOSTILE}",
        f"One seed {HOSTILE}",
    ):
        assert shown in page.text
    assert f"echo {HOSTILE}" in page.text
    assert "&lt;b&gt;" in page.text
    assert "odd <img src=x onerror=alert(2)> $x_1$" in page.text


def test_nothing_is_loaded_from_elsewhere(page: Parsed, text: str) -> None:
    assert not re.findall(r"(?:https?|ftp):|@import|//\w+\.", text)
    assert page.values("src") == []
    assert {target for target in re.findall(r"url\(([^)]*)\)", text) if not target.startswith("#")} == set()


def test_links_lead_somewhere(page: Parsed, root: Path, text: str) -> None:
    ids = page.values("id")
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    inside = [one for one in page.values("href") if one.startswith("#")]
    inside += [f"#{name}" for name in re.findall(r"url\(#([^)]*)\)", text)]
    assert len(inside) > 50
    assert {one[1:] for one in inside} - {*ids} == set()
    outside = [one for one in page.values("href") if not one.startswith("#") and one != "data:,"]
    assert outside
    assert [one for one in outside if not (root / one).is_file()] == []


def test_every_picture_has_a_png_and_a_table_with_the_same_figures(page: Parsed, root: Path) -> None:
    pictures = [attributes["id"] for tag, attributes in page.tags if tag == "figure"]
    assert {f"{name}.png" for name in pictures} == {path.name for path in (root / "report").glob("*.png")}
    assert {f"{name}.csv" for name in pictures} == {path.name for path in (root / "report").glob("*.csv")}
    assert len([1 for tag, _ in page.tags if tag == "svg"]) == len(pictures) > 15
    for name in pictures:
        assert matplotlib.image.imread(root / f"report/{name}.png").std() > 0.02  # not blank
    with (root / "report/reward_over_tokens.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {
        "experiment": "s2l", "finished": "yes", "step": "2", "generated tokens": "20.0", "mean of seeds": "0.4",
        "band": "lowest and highest seed", "from": "0.4", "to": "0.4", "seed 1": "0.4", "seed 2": "0.4",
    }  # fmt: skip


def test_each_caption_tells_seeds_problems_and_command(page: Parsed) -> None:
    words = page.text
    assert "s2l: mean of seeds 1, 2, band from the lowest to the highest, which is no interval" in words
    assert (
        "s2l: mean of seeds 1, 2, band: 95 % interval for other seeds and other problems; grpo: seed 1 alone" in words
    )
    assert (
        "explorer: one model, band: 95 % bootstrap interval over problems, which says nothing of other seeds" in words
    )


def test_a_difference_without_spread_has_no_bracket_and_one_seed_is_named(page: Parsed) -> None:
    row = page.text[page.text.index("grpo → s2l") : page.text.index("In percent; differences")]
    assert "+50.0 (no interval)" in " ".join(row.split())
    assert "(one seed: nothing is said of others)" in row
    assert "(only one of the two has seed 2, left out)" in row


def test_the_page_tells_problems_and_command(page: Parsed) -> None:
    assert "grpo, seed 2, unfinished: dotted, to step 2, in no mean" in page.text
    assert "2 problems x 2 samples" in page.text
    assert "8 prompts x 4 samples a step" in page.text
    assert "grpo, seed 1, done: train grpo 1 && echo" in page.text
    assert "learner, seed 0, failed: train learner 0" in page.text.split("Jobs of the plan without a run")[1]
    assert page.text.count("Drawn by") == len([1 for tag, _ in page.tags if tag == "figure"])


def test_what_is_not_finished_and_not_drawn_is_said(page: Parsed) -> None:
    assert (
        "4 of 5 runs that have a folder are finished. Of 5 jobs of the plan: 3 done, 1 running, 1 failed." in page.text
    )
    assert "What follows may change until all are finished." in page.text
    assert "unfinished, step 2 of 3" in page.text
    missing = re.findall(r"Not drawn, because no run has the figures: (.*)", page.text)
    assert "Entropy of the learner" in "; ".join(missing).split("; ")


def test_toy_problems_are_not_compared_with_the_paper(page: Parsed) -> None:
    assert "none of these figures can be compared with its tables below" in page.text
    assert "the paper prints +1.7, its own values give +1.6" in page.text


def test_colors_follow_the_page(text: str) -> None:
    svg = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "var(--c0)" in svg
    assert "var(--ink)" in svg
    fixed = set(re.findall(r"#[0-9a-f]{6}\b", svg))
    assert fixed == set()
    used = set(re.findall(r"var\((--\w+)\)", text))
    style = text[: text.index("</style>")]
    for scheme in (style[: style.index("@media")], style[style.index("dark)") :], style[style.index("@media print") :]):
        assert used - set(re.findall(r"(--\w+):", scheme)) == set()


def test_long_texts_are_cut_and_say_so(page: Parsed) -> None:
    assert "[2,000 more characters are left out here]" in page.text


def test_a_folder_whose_name_is_no_text_and_half_characters_are_shown(tmp_path: Path) -> None:
    write_run(tmp_path / os.fsdecode(b"gr\xffpo") / "seed_1", rewards=[0.5], validations={0: [[0]], 1: [[1]]})
    write_claims(tmp_path, claim(text="S2L-PO \ud800 wins"))
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "gr?po" in text
    assert "S2L-PO ? wins" in text


def test_the_same_run_gives_the_same_files_and_old_pictures_go(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny", rewards=[0.5])
    (run / "metrics.jsonl").write_text('{"step": 1, "kl": 0.5}\n')
    first = {path.name: path.read_bytes() for path in (write_report(run), *(run / "report").iterdir())}
    (run / "report/old.png").write_bytes(b"")
    second = {path.name: path.read_bytes() for path in (write_report(run), *(run / "report").iterdir())}
    assert first == second
    assert sorted(first) == ["kl.csv", "kl.png", "report.html"]


def test_only_the_explorer(root: Path) -> None:
    (group,) = read_groups(root / "s2l/seed_1/rollouts/step_000001.parquet", None)
    assert only_explorer(group)
    assert not only_explorer(group[:1])  # the learner has not sampled
    assert not only_explorer(group[1:])


def test_the_groups_of_the_rule(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny", rewards=[0.5])
    write_groups(run, 1, {"explorer alone": 0.0})
    write_groups(run, 2, {"explorer": 0.0, "learner": 1.0})
    write_groups(run, 3, {"explorer": 1.0, "learner": 0.0})
    write_groups(run, 4, {"explorer in the end": 1.0})
    found = examples(read_study(run))
    assert [Path(one.file).stem for one in found] == ["step_000001", "step_000002", "step_000004"]
    assert "explorer 0/1, learner 1/1 right" in found[1].heading
    write_groups(run, 2, {"explorer": 1.0, "learner": 0.0})
    assert "(the explorer alone is right)" in examples(read_study(run))[1].heading


def test_a_single_run_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "tiny", rewards=[], planned=2)
    assert command.main([str(run)]) == 0
    assert "tiny/report.html" in capsys.readouterr().out
    shown = Parsed((run / "report.html").read_text(encoding="utf-8"))
    assert "There is no claims.json: nothing has been judged." in shown.text
    assert "not begun" in shown.text
    assert {one.title for section in sections(read_study(run)) for one in section.charts} == set()


def test_the_command_explains_itself_and_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, code in (([], 2), (["--help"], 0)):
        with pytest.raises(SystemExit) as ended:
            command.main(arguments)
        assert ended.value.code == code
    assert capsys.readouterr().err == "error: the following arguments are required: ROOT; --help lists what there is\n"
    assert command.main([str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert (
        captured.err
        == f"error: {tmp_path} holds no run: give a folder of EXPERIMENT/seed_N, or that of one run (run.dir)\n"
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(str(CHROMIUM), tmp_path_factory.mktemp("profile")) as one:
        yield one


PICTURES = "[...document.querySelectorAll('figure svg')].map(one => one.getBoundingClientRect().height)"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
@pytest.mark.parametrize("width", [390, 1400])
def test_in_a_browser_all_is_there_and_nothing_is_wider_than_the_screen(
    root: Path, text: str, browser: Browser, width: int
) -> None:
    for dark in (False, True):
        assert browser.open((root / "report.html").as_uri(), width, dark=dark) == Seen()  # no request at all, no word
        assert browser.evaluate("document.title") == "S2L-PO, reproduction: <b>toy & more"
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        heights = browser.evaluate(PICTURES)
        assert len(heights) == text.count("<figure")
        assert min(heights) > 100


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_the_browser_tells_of_every_request_and_fault(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<img src=missing.png><link rel=stylesheet href=https://example.com/a.css><script>console.log(7); no()</script>"
    )
    seen = browser.open(page.as_uri(), 390)
    assert set(seen.requests) == {(tmp_path / "missing.png").as_uri(), "https://example.com/a.css"}
    told = "".join(seen.faults)
    for fault in ("ERR_FILE_NOT_FOUND", "ERR_INTERNET_DISCONNECTED", '"value": 7', "no is not defined"):
        assert fault in told
