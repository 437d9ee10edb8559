"""Ordinary answers, through which a new worker takes its parser."""

from __future__ import annotations

from s2l_nemo.rewards.equivalence import equivalent

# The parser learns its grammar as it meets it: each new shape costs 10 to 50 ms.
_SHAPES = [
    (r"3\sqrt{13}-\frac{1+\sqrt{5}}{2}", r"2\sqrt[3]{4}"),
    (r"x^2+2x-(n-1)(n+2)^{3}", r"\frac{11+9a}{20}b"),
    (r"\frac{3\pi}{4}+2\pi^{2}", r"-\pi\cdot 2\times 3/4"),
    (r"x^8+x^7-x^6+5x^3-4x^2+3x+1", r"8n^2+4n-ab+2"),
    (r"2^{n-1}", r"n!-\binom{2n}{n}"),
    (r"\log_{10}2+\ln 3", r"\sin x+\cos^{2}x"),
    (r"\lfloor\frac{n}{2}\rfloor", r"|x|-\lceil y\rceil"),
    (r"6-5i", r"e^{2x}"),
    (r"(-\infty,\sqrt{3})", r"(x,\infty)"),
    (r"2x+3y=5", r"x_1-y_{2}=5"),
    (r"2x<6", r"5y\ge 3"),
]


def warm_up() -> None:
    """Takes the parser through the shapes of ordinary answers, once a worker. It takes half a second."""
    for gold, answer in _SHAPES:
        assert not equivalent(gold, answer)
