r"""What may stand on the left of `=` so that the answer is the value on its right: `x`, `f(2)`, `AB`, `\angle A`.

An equation between variables (`x+y=1`, `y^2=x`) is an answer of its own and has no value.
"""

from __future__ import annotations

import re

from s2l_nemo.rewards import structure
from s2l_nemo.rewards.notation import words
from s2l_nemo.rewards.structure import VARIABLE

_NEGATED = re.compile(r"not|never|except|n't|wrong|\\ne", re.IGNORECASE)
_WORDS = re.compile(r"\\text\{[^{}]*\} ?(?:(?:\\[a-z]+ ?)?[A-Z]{1,4}|[a-z])?")
_BARE_WORDS = words(  # other letters side by side are a product
    """
    area total length sum answer perimeter volume probability height width distance speed time cost price profit number
    value maximum minimum average mean median mode circumference radius diameter slope ratio product difference
    """
)
_SEGMENT = re.compile(
    r"(?:(?:m|\\text\{m\}) ?(?=\\angle))?(?:\\(?:angle|triangle|overline|widehat|overrightarrow|vec|hat|bar|mathbf) ?)?"
    r"\{?[A-Z]{1,4}\}?(?:_\w|_\{\\?\w+\})?'*"
)
_APPLIED = re.compile(  # `f(x+1)` and `a(2)`, not the product `x(x+1)`
    r"(?:\\(?:varphi|phi|psi|Phi|Psi|Gamma|zeta|sigma|tau|mu|pi|gcd|lcm)|[fghpqA-Z]|[a-z](?=[^(]*\((?:\d+|t|[A-Z]\w*(?:,[A-Z]\w*)*)\)$))"
    r"(?:_\w|_\{\\?\w+\})?'*(?:\^\{-1\}|\^\{?\(\w+\)\}?)?\("
)
_ABSOLUTE = re.compile(r"\[[A-Z]{3,}\]|\|(?:\\(?:vec|overrightarrow|overline|mathbf) ?\{?\w+\}?|\{?[A-Z]\w*\}?|z)\|")
_COMPUTED = re.compile(r"\\(?:sum|prod|lim|int|max|min|sup|inf|gcd|lcm|det|binom)(?![A-Za-z])")
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc|log|ln|arg|deg)(?:_\w|_\{\w+\})? ?\{?(?:\\[a-z]+|\w{1,3})\}?")
_OF_ANGLE = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc) ?\{?(?:\\(?:angle ?[A-Z]{1,3}|[a-z]+)|[A-Z]{1,3})\}?")
_FRACTION = re.compile(r"\\frac\{([^{}]*(?:\{[^{}]*\})?)\}\{([^{}]*(?:\{[^{}]*\})?)\}")
_SUM = re.compile(r"(?<=[^({])[+-]")
_NAME_OF_DERIVATIVE = re.compile(r"d\w?")
_PLACE = re.compile(r"[A-Z]\w?")


def names_quantity(side: str, *, loose: bool = False) -> bool:
    """Whether the left side of an equation is a name for what stands on its right.

    `loose` is for an answer that is compared with a bare value: there sums and quotients of names (`a+b`) are names,
    because a question may ask for them.
    """
    side = structure.unwrapped(side.strip())
    if not side or _NEGATED.search(side):
        return False
    components = structure.ordered(side)
    if components is not None:
        return all(VARIABLE.fullmatch(part) for part in components[1])
    function = _FUNCTION if loose else _OF_ANGLE
    if any(pattern.fullmatch(side) for pattern in (VARIABLE, _WORDS, _SEGMENT, _ABSOLUTE, function)):
        return True
    if side.lower() in _BARE_WORDS:
        return True
    if _COMPUTED.match(side):
        return True
    if (applied := _APPLIED.match(side)) and structure.closes_at_end(side[applied.end() - 1 :]):
        return True
    parts = _quotient(side)
    if parts is not None:
        wanted = (_SEGMENT, _NAME_OF_DERIVATIVE) if not loose else (_SEGMENT, _NAME_OF_DERIVATIVE, VARIABLE)
        return all(any(pattern.fullmatch(part) for pattern in wanted) for part in parts)
    if not loose:
        return False
    terms = structure.split(side, _SUM)
    return len(terms) > 1 and all(names_quantity(term) for term in terms)


def _quotient(side: str) -> list[str] | None:
    r"""The names in `\frac{NO}{BO}`, `NO/BO` or `V_1:V_2`; None for anything else."""
    if fraction := _FRACTION.fullmatch(side):
        return [part.strip() for part in fraction.groups()]
    parts = re.split("[/:]", side)
    return [part.strip() for part in parts] if len(parts) > 1 else None


def same_function(gold: str, answer: str) -> tuple[str, str] | None:
    """The arguments of `f(x)` and `f(t)`: the same function of one variable with two names. None for anything else."""
    left, right = (re.fullmatch(r"(\\?\w+)\(([A-Za-z])\)", side) for side in (gold, answer))
    if left is None or right is None or left[1] != right[1] or left[2] == right[2]:
        return None
    return left[2], right[2]


def renamed(text: str, old: str, new: str) -> str | None:
    """The text with another name for a variable; None if the new name is taken."""
    tokens = re.compile(r"\\[A-Za-z]+|[A-Za-z]")
    if new in tokens.findall(text):
        return None
    return tokens.sub(lambda match: new if match.group() == old else match.group(), text)


_GREEK = words(
    r"""
    \alpha \beta \gamma \delta \epsilon \varepsilon \zeta \eta \theta \vartheta \kappa \lambda \mu \nu \xi \rho \sigma
    \tau \phi \varphi \chi \psi \omega \Gamma \Delta \Theta \Lambda \Xi \Sigma \Phi \Psi \Omega \hbar \ell
    """
)
_LETTER = re.compile(r"\\(?:begin|end|text|mathbf|vec|hat)\{\w*\}|\\[A-Za-z]+|[A-Za-z]")
_BINDS = re.compile(r"\\(?:sum|prod|int|lim)(?![A-Za-z])")


def variables(text: str) -> frozenset[str]:
    """The letters of a text that are variables, as far as the text tells; e and i are numbers."""
    return frozenset(
        token for token in _LETTER.findall(text) if token in _GREEK or (len(token) == 1 and token not in "ei")
    )


def adds_variables(gold: str, answer: str) -> bool:
    r"""Whether an answer is about variables that the gold answer does not have, as in `5+0x` for 5.

    Its value may not depend on them. Nobody writes so but to hide something. Bound variables do not count.
    """
    return not _BINDS.search(answer) and not variables(answer) <= variables(gold)
