r"""Which text may be one expression at all. The parser reads more than mathematicians write, and guesses what is meant.

A second number beside the first (`5 (1)`, `\sqrt{2}\,1`, `9_{7}`), a command that is no mathematics, words, relations
and remarks make a text unreadable, so that nothing can hide in them.
"""

from __future__ import annotations

import re

from s2l_nemo.rewards.notation import words

_COMMANDS = words(
    r"""
    frac sqrt binom pi infty cdot times div ast pm mp lfloor rfloor lceil rceil lvert rvert vert log ln exp lg sin
    cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh arsinh arcosh artanh sum prod int
    lim begin end overline bar mathbf vec hat overrightarrow mathcal max min gcd lcm det mod bmod prime partial
    nabla hbar ell angle circ alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda
    mu nu xi rho varrho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon
    Phi Psi Omega triangle top Re Im arg
    """
)
_COMMAND = re.compile(r"\\([A-Za-z]+|.)", re.DOTALL)
_SIGNS = ("%", "{", "}", "|", "\\")
_INNER = re.compile(r"[\^_](?:\w|\{(?:[^{}]|\{[^{}]*\})*\})|\\begin\{.*\\end\{\w+\}", re.DOTALL)
_REFUSED = re.compile(
    r"[?;:<>=&#@\"`]|\d +[\d.]|\d_|"
    r"(?:[\d})]|\\pi ?)'|\\circ ?(?:[_!'\d(\[]|\\\{)|"  # a number has no derivative
    r"\^\^|"  # what is raised twice
    r"[})]\d+(?![\d^])|\\pi ?\d+(?![\d^])|[\d})](?:\\\{|\[)|"  # a second number beside the first
    r"(?:[\d})]|\\(?:pi|circ) ?)\([+-]?(?:[\d.^%{} ]|\\(?:circ|frac|sqrt|pi|%))+\)|"
    r"^0[+-]|^\[[^\[\]]*\]$"  # 0 that adds nothing
)
_NESTED = re.compile(r"\[[^\]]*\[|\\\{(?:(?!\\\}).)*\\\{")  # brackets that are no parentheses, in each other
_FRACTION = re.compile(r"\\frac\{([+-]?\d+)\}\{([+-]?\d+)\}")
_COEFFICIENT = re.compile(r"^[+-]?\\frac\{(\d+)\}\{\1\} ?(?=\\pi|\\sqrt|[A-Za-z])")  # as some golds have it
_MIXED_NUMBER = re.compile(r"(?<![\d.])(\d+) ?\\frac\{([+-]?\d+)\}\{([+-]?\d+)\}")


def may_be_expression(text: str) -> bool:
    """Whether a canonical text may be one number, expression or matrix."""
    if not text or any(name not in _COMMANDS and name not in _SIGNS for name in _COMMAND.findall(_below(text))):
        return False
    if _NESTED.search(text) or _REFUSED.search(_INNER.sub(_mark, text)):
        return False
    # 0 and 1 as fractions in a larger expression only hide: `\\frac{1}{2} \\frac{3}{3}` is two answers.
    if any(int(top) in (0, int(bottom)) for top, bottom in _FRACTION.findall(_COEFFICIENT.sub("", text))):
        return False
    mixed = (map(int, match) for match in _MIXED_NUMBER.findall(text))
    return all(whole > 0 and 0 < top < bottom for whole, top, bottom in mixed)


def _below(text: str) -> str:
    r"""Without what stands below: `\sum_{k=1}`, `x_{\max}`, `\lim_{x\to 0}`, `R_{\odot}`."""
    return re.sub(r"_\{[^{}]*\}", "", text)


def _mark(match: re.Match[str]) -> str:
    r"""A mark for what is raised and another for what stands below a number, nothing for what else is inside."""
    before = match.string[: match.start()].rstrip()
    below_number = match.group().startswith("_") and (before[-1:].isdigit() or before.endswith(r"\circ"))
    return "?" if below_number else "^" if match.group().startswith("^") else ""
