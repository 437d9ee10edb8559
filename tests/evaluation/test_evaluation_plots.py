from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pytest
from matplotlib.figure import Figure

from s2l_nemo.evaluation import plots
from s2l_nemo.evaluation.diversity_table import DiversityRow
from s2l_nemo.evaluation.results import BenchmarkResult
from s2l_nemo.measures.statistics import Interval
from tests.figures import legend_texts, points


def result(name: str, benchmark: str, means: dict[int, float]) -> BenchmarkResult:
    """30 problems with pass@k of these means."""
    curve = {k: Interval(mean, mean - 0.1, mean + 0.05) for k, mean in means.items()}
    return BenchmarkResult(
        name=name, benchmark=benchmark, mode=None, max_tokens=None, samples=max(means), most_samples=max(means),
        without_predictions=0, seed=1, pass_at_1=curve[1], pass_at_k=curve, majority=curve[1], mean_tokens=None,
        truncated_fraction=None, no_answer_fraction=0.0, grader_errors=0, correct_PK=[[1]] * 30, ids=list(range(30)),
    )  # fmt: skip


def row(name: str, mean: float) -> DiversityRow:
    band = Interval(mean, mean - 0.02, mean + 0.03)
    return DiversityRow(name, "aime24", problems=30, samples=64, self_bleu=band, edit=band, unique=band)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, path: Path, *, format: str) -> None:
        figures.append(figure)
        save(figure, path, format=format)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def size(path: Path) -> tuple[int, int]:
    image = matplotlib.image.imread(path)
    assert image.std() > 0.05  # not blank
    return image.shape[1], image.shape[0]


@pytest.mark.parametrize("benchmarks", [1, 3, 4, 6])
def test_one_panel_a_benchmark(tmp_path: Path, drawn: list[Figure], benchmarks: int) -> None:
    names = [*plots.TITLES, "own_$set$"][:benchmarks]
    results = [result(model, name, {1: 0.3, 2: 0.5}) for model in ("small", "_large") for name in names]
    plots.plot_pass_at_k(results, tmp_path / "pass.png")
    size(tmp_path / "pass.png")
    (figure,) = drawn
    panels = [axes for axes in figure.axes if axes.lines]
    expected = [plots.TITLES.get(name, r"own_\$set\$") for name in names]
    assert [axes.get_title(loc="left") for axes in panels] == expected
    legends = [*figure.legends, *(found for axes in figure.axes if (found := axes.get_legend()) is not None)]
    assert [legend_texts(found) for found in legends] == [["small", " _large"]]


def test_curves_are_percent_over_k_with_bands(tmp_path: Path, drawn: list[Figure]) -> None:
    # k in any order; 12 samples, whose last k is no power of two.
    plots.plot_pass_at_k([result("m", "aime24", {12: 0.8, 1: 0.3, 8: 0.7, 2: 0.5})], tmp_path / "p.png")
    (axes,) = drawn[0].axes
    low, high, mean = axes.lines
    assert [x for x, _ in points(mean)] == [1, 2, 8, 12]
    assert [y for _, y in points(mean)] == pytest.approx([30, 50, 70, 80])
    assert [y for _, y in points(low)] == pytest.approx([20, 40, 60, 70])
    assert [y for _, y in points(high)] == pytest.approx([35, 55, 75, 85])
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "8"]


def test_a_model_looks_the_same_in_all_panels(tmp_path: Path, drawn: list[Figure]) -> None:
    results = [result("a", "aime24", {1: 0.2}), result("b", "aime24", {1: 0.3}), result("b", "aime25", {1: 0.4})]
    plots.plot_pass_at_k(results, tmp_path / "p.png")
    first, second = (axes for axes in drawn[0].axes if axes.lines)
    assert first.lines[-1].get_color() == second.lines[-1].get_color() == plots.COLORS[1]


def test_looks_differ_beyond_the_colours() -> None:
    looks = plots.looks([f"model {index}" for index in range(20)])
    assert len({(look["color"], look["linestyle"]) for look in looks.values()}) == 20


def test_diversity_figure_shows_every_value(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.plot_diversity([row("1.7B", 0.314), row("8B", 0.336)], tmp_path / "d.png")
    _, height = size(tmp_path / "d.png")
    plots.plot_diversity([row(f"{index}B", 0.3) for index in range(8)], tmp_path / "d.png")
    assert size(tmp_path / "d.png")[1] > height  # a row more is a row higher
    for axes, (title, _) in zip(drawn[0].axes, plots.DIVERSITY.values(), strict=True):
        assert axes.get_title(loc="left") == title
        assert {"0.314", "0.336"} <= {text.get_text() for text in axes.texts}
        span = next(points(line) for line in axes.lines if len(points(line)) == 2)
        assert [x for x, _ in span] == pytest.approx([0.294, 0.344])
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == ["1.7B", "8B"]
