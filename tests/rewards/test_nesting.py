r"""No nesting of brackets keeps a worker busy, and none that an answer has is refused for it."""

from __future__ import annotations

import pytest

from s2l_nemo.config.schema import AnswerKind
from s2l_nemo.rewards import algebra, equivalence
from s2l_nemo.rewards.algebra import UncomparableError
from s2l_nemo.rewards.equivalence import equivalent
from s2l_nemo.rewards.golds import unreadable_gold
from s2l_nemo.rewards.nesting import MAX_DEPTH, nested_too_deeply
from s2l_nemo.rewards.notation import canonical
from s2l_nemo.rewards.quick import decide

AROUND = [
    ("(", ")"), ("[", "]"), ("{", "}"), (r"\{", r"\}"), (r"\left(", r"\right)"), (r"\left[", r"\right]"),
    (r"\left\{", r"\right\}"), ("|", "|"), (r"\left|", r"\right|"), (r"\lfloor ", r"\rfloor "),
    (r"\lceil ", r"\rceil "), (r"\langle ", r"\rangle "), (r"\frac{", "}{2}"), (r"\frac{1}{", "}"),
    (r"\dfrac{1}{", "}"), (r"\sqrt{", "}"), (r"\sqrt[3]{", "}"), (r"\sqrt", ""),
    ("2^{", "}"), ("{", "}^{2}"), ("(", ")^{2}"), ("x_{", "}"),
    ("e^{", "}"), ("2^(", ")"), (r"\binom{", "}{2}"), (r"\sin(", ")"), (r"\sin ", ""), (r"\sin^{2}", ""),
    (r"\sin^2 ", ""), (r"\ln(", ")"), (r"\ln{", "}"), (r"\log_{2}(", ")"), (r"\log_{", "}2"), (r"\sum_{k=1}^{", "}k"),
    (r"\int_{0}^{", "}x"), (r"\begin{pmatrix}", r"\end{pmatrix}"), ("(1,", ")"), ("1+(", ")"), ("-(", ")"), ("f(", ")"),
    ("(", ")!"), ("1/(", ")"), ("a(", "+1)"), ("((", "))"), ("({[", "]})"), ("-", ""), ("", "'"), ("", "!"), ("", "%"),
    ("", r"^\circ"), (r"\overline{", "}"), (r"\vec{", "}"), (r"\mathbf{", "}"),
]  # fmt: skip
OPEN = [*(before for before, _ in AROUND if before), *(after for _, after in AROUND if after.strip("}2!%'"))]


@pytest.fixture
def no_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks the parser, or sympy for a set, fails."""

    def called(*_: object, **__: object) -> None:
        pytest.fail("the text reached the parser")

    monkeypatch.setattr(algebra, "latex2sympy", called)
    monkeypatch.setattr(equivalence, "same_region", called)


@pytest.mark.usefixtures("no_parser")
@pytest.mark.parametrize("depth", [40, 500])
@pytest.mark.parametrize("around", AROUND, ids=lambda pair: "5".join(pair))
def test_a_hostile_nesting_is_wrong_without_the_parser(around: tuple[str, str], depth: int) -> None:
    before, after = around
    answer = canonical(before * depth + "5" + after * depth)
    assert decide(canonical(r"\sqrt{7}"), answer) is False


@pytest.mark.usefixtures("no_parser")
@pytest.mark.parametrize("piece", OPEN)
def test_brackets_that_nothing_closes_are_wrong_without_the_parser(piece: str) -> None:
    for answer in (piece * 500 + "5", "5" + piece * 500, piece * 500):
        assert decide(canonical(r"\sqrt{7}"), canonical(answer)) is False


@pytest.mark.usefixtures("no_parser")
@pytest.mark.parametrize("around", [("(", ")"), (r"\frac{1}{1+", "}"), (r"\sqrt{2+", "}"), ("[1,", ")")])
def test_a_gold_that_is_nested_so_is_told_before_training_and_equals_its_own_text(around: tuple[str, str]) -> None:
    gold = canonical(around[0] * 40 + "x" + around[1] * 40)
    assert decide(gold, gold) is True
    with pytest.raises(UncomparableError, match="nested too deeply"):
        equivalent(gold, "5")
    assert unreadable_gold(gold, AnswerKind.math) == "nested too deeply to check"


@pytest.mark.parametrize(
    "answer",
    [
        r"\frac{1}{1+\frac{1}{2+\frac{1}{3+\frac{1}{4+\frac{1}{5}}}}}",
        r"\sqrt{2+\sqrt{2+\sqrt{2+\sqrt{2+\sqrt{2}}}}}",
        r"((((((x+1)^2+1)^2+1)^2+1)^2+1)^2+1)",
        r"\sin x\cos x\sin y\cos y\sin z\cos z",
        r"\sin^{2}x\cos^{2}x\sin^{2}y\cos^{2}y\sin^{2}z\cos^{2}z",
        r"\sin(x)\cos(x)\sin(y)\cos(y)\sin(z)\cos(z)",
        r"\log_{2}(x)\log_{3}(x)\log_{5}(x)\log_{7}(x)\log_{11}(x)\log_{13}(x)",
        r"\sin x+\sin 2x+\sin 3x+\sin 4x+\sin 5x+\sin 6x+\sin 7x",
        r"\ln(\ln(\ln(x)))",
        r"\{\emptyset,\{\emptyset\},\{\emptyset,\{\emptyset\}\}\}",
        r"\begin{pmatrix}1&0\\0&1\end{pmatrix}",
        "(1,(2,(3,(4,5))))",
        r"|x|+|y|+|z|\le 1",
        "1,2,3,4,5,6,7,8,9,10",
        r"\{(1,2),(2,3),(3,4),(4,5),(5,6),(6,7),(7,8),(8,9),(9,10),(10,11),(11,12),(12,13)\}",
        "5!!",
    ],
)
def test_what_answers_have_is_not_too_deep(answer: str) -> None:
    assert not nested_too_deeply(canonical(answer))


def test_the_deepest_that_is_read() -> None:
    for depth, deep in ((MAX_DEPTH, False), (MAX_DEPTH + 1, True)):
        for opening, closing in (("(", ")"), (r"\frac{1}{", "}"), (r"2\lfloor ", r"\rfloor ")):
            text = opening * depth + "x" + closing * depth
            assert nested_too_deeply(text) is deep
    nested = "(1+" * MAX_DEPTH + "x" + ")" * MAX_DEPTH
    assert equivalent(f"x+{MAX_DEPTH}", nested)


@pytest.mark.usefixtures("no_parser")
@pytest.mark.parametrize("text", ["[[[x]]]", r"\{\{5\}\}", r"2\{x\{y\}\}", "[a[b[c]]]"])
def test_brackets_that_are_no_parentheses_are_hardly_ever_in_each_other(text: str) -> None:
    with pytest.raises(algebra.UnreadableError):
        algebra.parse(text)
