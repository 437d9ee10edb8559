r"""One way of writing: `canonical` turns LaTeX, Unicode and plain text into the form that all other files here read.

Nothing is decided here. A separator stays a separator, and words stay words: `\text{}` is left around those that are no
mathematics. Every function is pure and takes time linear in its input, but for arguments without braces, which are read
in answers of ordinary length only.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from s2l_nemo.rewards import structure
from s2l_nemo.rewards.braces import brace_arguments
from s2l_nemo.rewards.symbols import to_ascii
from s2l_nemo.rewards.wording import plain, with_base

MAX_SYMBOLIC = 2000  # a longer answer is right only if it is the text of the gold answer, which is never that long


def words(text: str) -> frozenset[str]:
    """The words of a text, for tables."""
    return frozenset(text.split())


_PLAIN_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?")

_SPACES = r"\\[,;:! ]|~|\\q?quad(?![A-Za-z])"
_RELATION = r"[=<>]|\\(?:le|leq|leqslant|ge|geq|geqslant|lt|gt|ne|neq|in|approx)(?![A-Za-z])"
_HAS_RELATION = re.compile(_RELATION)
_WITHIN = re.compile(r"^[+*/^_=&)\]}]|(?:[+\-*/^_=(\[{&]|\\(?:cdot|times|text|frac|left))$")
_STARTS_WITH_RELATION = re.compile(rf"\s*&?\s*(?:{_RELATION})")
_LINES = re.compile(r"\\\\(?:\[[^\]]*\])?|\n")
_SYSTEM = re.compile(
    r"(?:\\left)?\s*(?:\\\{|\\lbrace|\.)?\s*\\begin\{(cases|aligned|align\*?|gathered|split|array)\}(?:\{[lcr|]*\})?"
    r"((?:(?!\\begin|\\end).)*)\\end\{\1\}\s*(?:\\right)?\.?",
    re.DOTALL,
)


class _Rule(NamedTuple):
    needles: tuple[str, ...]  # one of them is in every text that the pattern finds; no needles: always looked for
    pattern: re.Pattern[str]
    replacement: str


def _rules(*rules: tuple[str, str, str]) -> list[_Rule]:
    """Rules from needles (parted by spaces), pattern and replacement."""
    return [_Rule(tuple(needles.split()), re.compile(pattern), replacement) for needles, pattern, replacement in rules]


_DELIMITERS = _rules(
    ("**", r"^\*\*(.*)\*\*$", r"\1"),
    ("$", r"\$\s*,\s*\$", ", "),
    ("\\$", r"(?:(?<![A-Za-z])U\.?S\.?\s*)?\\\$", r"\\dollar "),
    ("$ \\", r"\$|(?<!\\)\\[()\[\]]", " "),
    (r"\left \right \middle \big \Big", r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![A-Za-z])\s*\.?", ""),
    (
        "color tiny small size arge LARGE uge",
        r"\\(?:(?:text)?color\s*\{\w+\}|(?:tiny|small|footnotesize|normalsize|[lL]arge|LARGE|[hH]uge)(?![A-Za-z]))",
        "",
    ),
    ("{:}", r"\{:\}", ":"),
    ("style limits", r"\\(?:(?:display|text|script)style|(?:no)?limits)(?![A-Za-z])", ""),
)
_THOUSANDS = re.compile(
    r"(?<![\d.])(?<!(?<!\\),)[1-9]\d{0,2}"
    r"(?:\s*(?:,\s*\\!|\{\s*,\s*(?:\\!)?\}|\\[,; ]|~| )\s*\d{3}(?!\d))+"
)
_AFTER_THOUSANDS = _rules(
    ("{", r"\s*\{,\}\s*", ","),
    ("quad", r"(?<=[^\s,;&])[\s,;]*(?:\\q?quad\s*)+(?=[+-]?\d|[(\[]|[a-z]\s*=|\\(?:frac|sqrt))", ", "),
    (r"\!", r"\\!", ""),
    ("", rf"(?:(?<!\\)(?:{_SPACES})|\s)+", " "),
)
_FONT = re.compile(
    r"\\(text|mbox|textrm|textbf|textit|textsf|textnormal|mathrm|rm|bf|mathbf|boldsymbol|bm|mathit|mathsf|operatorname)\*?"
    r"\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"
)
_OLD_FONT = re.compile(r"\\(rm|bf) *([A-Za-z0-9]+)")
_FUNCTIONS = words(
    """
    sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp gcd lcm max min det lim
    """
)
_FUNCTIONS_IN_TEXT = _FUNCTIONS - words("sec max min det lim exp")  # `5 \text{ min}` has a unit
_MATHRM_UNITS = frozenset("msghlLNJWVK")  # single upright letters that are units more often than names
_WORDS = re.compile(r"[A-Za-z][A-Za-z .'/-]*")
_CONNECTIVE = re.compile(r"(?<![A-Za-z])(?:and|or)(?![A-Za-z])")
_NAMES = _rules(
    ("", r"  +", " "),
    ("frac", r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    ("binom", r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
    ("choose", r"(?:\{|^)([^{}]*)\\choose(?![A-Za-z])([^{}]*)(?:\}|$)", r"\\binom{\1}{\2}"),
    ("over", r"(?:\{|^)([^{}]*)\\over(?![A-Za-z])([^{}]*)(?:\}|$)", r"\\frac{\1}{\2}"),
    (r"\le <=", r"(?:\\(?:leqslant|leqq|leq|le)(?![A-Za-z])|<=)\s*", r"\\le "),
    (r"\ge >=", r"(?:\\(?:geqslant|geqq|geq|ge)(?![A-Za-z])|>=)\s*", r"\\ge "),
    # `5!=120` is a factorial, `x!=3` is not
    (r"\ne \not !=", r"(?:\\(?:neq|ne)(?![A-Za-z])|\\not\s*=|(?<![\d)\]}])!=)\s*", r"\\ne "),
    (
        r"\approx sim \thick doteq ~=",
        r"(?:\\(?:approx|simeq|thickapprox|doteq)(?![A-Za-z])|(?<!\\)~=)\s*",
        r"\\approx ",
    ),
    (r"\lt", r"\\lt(?![A-Za-z])", "<"),
    (r"\gt", r"\\gt(?![A-Za-z])", ">"),
    (r"\lbrace", r"\\(?:lbrace)(?![A-Za-z])", r"\\{"),
    (r"\rbrace", r"\\(?:rbrace)(?![A-Za-z])", r"\\}"),
    (r"\mid vert", r"\\(?:mid|vert|lvert|rvert)(?![A-Za-z])", "|"),
    (r"\colon", r"\\colon(?![A-Za-z])", ":"),
    (r"\varnothing \empty", r"\\(?:varnothing|empty)(?![A-Za-z])", r"\\emptyset "),
    (r"\bigcup \bigcap", r"\\big(cup|cap)(?![A-Za-z_])\s*", r"\\\1 "),
    (r"\ast", r"\\ast(?![A-Za-z])", "*"),
    (r"\log", r"\\log ?_ ?(?:e(?![A-Za-z])|\{ ?e ?\})\s*", r"\\ln "),
    (r"\equiv", r"(?<=^[A-Za-z]\([A-Za-z]\))\s*\\equiv(?![A-Za-z])", "="),
    (r"\R \Bbb", r"\\(?:R(?![A-Za-z])|Bbb\s*\{?R\}?)", r"\\mathbb{R}"),
    (r"\mathbf{R}", r"^\\mathbf\{R\}$|(?<=\\in)\s*\\mathbf\{R\}", r"\\mathbb{R}"),
    (r"\mathbb", r"(?<=\\mathbb\{R\})\s*-\s*(?=\\\{)", r"\\setminus "),
    (
        r"\cdot",
        r"\\(sin|cos|tan|cot|sec|csc|ln|log) ?([A-Za-z]|\\(?:alpha|beta|gamma|theta|phi))(?= ?\\cdot(?![A-Za-z]))",
        r"\\\1(\2)",
    ),
    (r"\cdot", r"\s*\\cdot\s*(?=\\(?:sin|cos|tan|cot|sec|csc|ln|log)(?![A-Za-z]))", " "),  # not in an argument
    ("x X", r"(?<=\d) ?[xX] ?(?=10 ?\^)", r"\\times "),
    ("^", r"(?<=\d) ?\^ ?(?:o|\{ ?o ?\})(?![A-Za-z])", r"^\\circ "),
    ("st nd rd th", r"(?<=\d) ?\^ ?\{+ ?(?:\\text\{ ?)?(?:st|nd|rd|th)[ }]*$", r"\\text{th}"),
    (r"\backslash", r"\\backslash(?![A-Za-z])", r"\\setminus "),
    ("dots ... …", r"\\(?:dots|cdots|dotsc)(?![A-Za-z])|\.\.\.|…", r"\\ldots "),
    (r"\mathbb", r"\\mathbb\s*([A-Z])", r"\\mathbb{\1}"),
    (r"\land \wedge", r"\\(?:land|wedge)(?![A-Za-z])", ","),
    (r"\lor \vee", r"\\(?:lor|vee)(?![A-Za-z])", " or "),
    ("and", r"\s*,?\s*(?<![A-Za-z\\])and(?![A-Za-z])\s*,?\s*", ", "),
    ("or", r"\s*,?\s*(?<![A-Za-z\\])or(?![A-Za-z])\s*", r"\\lor "),
    (",", r"(?<=\d),\s+(?=\d{3}(?!\d))", ";"),  # `3, 125` is a list, `3,125` may be one
    ("**", r"\*\*", "^"),
    ("pi", r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
    ("inf Inf", r"(?<![\\A-Za-z])(?:[iI]nfinity|inf)(?![A-Za-z])|\\inf(?:ty|inity)(?![A-Za-z])", r"\\infty "),
    (
        "sqrt sin cos tan cot sec csc log ln",
        r"(?<![\\A-Za-z])(sqrt|sin|cos|tan|cot|sec|csc|log|ln)(?=[ ({\d^_\\])",
        r"\\\1",
    ),
    ("exp", r"(?<![\\A-Za-z])\\?exp\s*[({]([^(){}]*)[)}]", r"e^{\1}"),
    ("sqrt", r"\\sqrt(\[\d+\])?\s*\(([^()]*)\)", r"\\sqrt\1{\2}"),
    *[
        (name, rf"(?<=\d) *(?:\\text\{{ *)?{name}s?(?![A-Za-z])(?: *\}}(?!\^))? *", rf"\\times10^{{{zeros}}}")
        for name, zeros in (("thousand", 3), ("million", 6), ("billion", 9), ("trillion", 12))
    ],
)
_LAST = _rules(
    (r"\circ \degree", r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))\s*|\\degree(?![A-Za-z])\s*", r"^\\circ "),
    (r"\circ", r"\^\\circ (?:\\text\{ ?)?C(?![A-Za-z])\}?", r"\\text{celsius}"),
    (r"\circ", r"\^\\circ (?:\\text\{ ?)?F(?![A-Za-z])\}?", r"\\text{fahrenheit}"),
    (r"\circ", r"(?<![A-Za-z}])\{(\d+(?:\.\d+)?)\}(?=\^\\circ)", r"\1"),
    ("^ _", r"([\^_])\s*\{\s*(\w)\s*\}", r"\1\2"),
    ("_", r"_\s*\{\s*\\text\{([^{}]*)\}\s*\}", r"_{\1}"),
    # A space has a meaning between two words, between two numbers, and between a word and a number after it.
    ("", r" +(?![A-Za-z0-9])|(?<![A-Za-z0-9]) +|(?<=\d) +(?=[A-Za-z])", ""),
)
_DOTTED = re.compile(r"(\d*\.\d*)(\\dot\s*(?:\{\d\}|\d)(?:\d*\\dot\s*(?:\{\d\}|\d))?)")
_BASED = re.compile(r"\(?(-?)0*([0-9A-Z]*\d[0-9A-Z]*)\)?_(?:\{(\d+)\}|(\d))")
_WHOLE_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_LETTER = re.compile(r"\((?:\\text\{)?([A-Za-z])\}?\)|\\mathbf\{([A-Za-z])\}")
_UNDERLINED = re.compile(r"\\underline(\{(?:[^{}]|\{[^{}]*\})*\})")
_TEXT_DIGITS = re.compile(r"\\text\{([0-9A-Z]+)\}")
_QUOTED = re.compile(r"(?:\"(.*)\"|'(.*)'|``(.*)''|`(.*)['`])")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_MAX_BRACES = 4  # around the whole of an answer


def canonical(answer: str) -> str:
    r"""An answer in one way of writing. A second call changes nothing in an ordinary answer.

    It has fractions as `\frac{a}{b}`, ASCII digits and signs, braces around arguments, `\text{}` around words beside
    mathematics, and no math delimiters, sizes, fonts or needless spaces. `and` is a comma, `or` is `\lor`, a dollar
    sign that is money is `\dollar`. Lines that are equations are a list. A comma between digits stays, because only a
    comparison can tell thousands from a list; a comma before three digits that is surely a separator is a semicolon.
    """
    answer = answer.strip().rstrip("\\").strip()  # a backslash at the end was a space or a line end
    return _canonical(answer) if len(answer) <= 3 * MAX_SYMBOLIC else answer


@lru_cache(maxsize=8192)  # golds come again and again, and so do the answers of a group
def _canonical(answer: str) -> str:
    if _PLAIN_NUMBER.fullmatch(answer):
        return answer
    answer = _without_braces(answer if answer.isascii() else to_ascii(answer))
    answer = _rewritten(_joined_lines(answer), _DELIMITERS)
    answer = _THOUSANDS.sub(lambda match: re.sub(r"\D", "", match.group()), answer)
    answer = _rewritten(answer, _AFTER_THOUSANDS)
    if "\\" in answer:
        answer = _FONT.sub(_without_font, _FONT.sub(_without_font, _OLD_FONT.sub(r"\\\1{\2}", answer)))
    answer = _rewritten(answer, _NAMES)
    if len(answer) <= MAX_SYMBOLIC:
        answer = brace_arguments(answer)
    return _trimmed(_rewritten(answer, _LAST))


def _rewritten(text: str, rules: list[_Rule]) -> str:
    for needles, pattern, replacement in rules:
        if not needles or any(needle in text for needle in needles):
            text = pattern.sub(replacement, text)
    return text


def _joined_lines(text: str) -> str:
    """Lines that stand for themselves as a list, others as one line. A TeX row always stands for itself."""
    if "\\begin" in text and (system := _SYSTEM.fullmatch(text.strip().strip("$").strip())):
        name, body = system.groups()
        if name not in ("array", "cases") or _all_related(_lines(body)):
            text = body.replace("&", "")
    if "\\begin" in text or ("\n" not in text and r"\\" not in text):
        return text
    lines = _lines(text)
    if any(_STARTS_WITH_RELATION.match(line) for line in lines[1:]):  # a chain that goes on
        return " ".join(line.replace("&", "") for line in lines)
    if all(_stands_alone(line) for line in lines) or r"\\" in text:
        return ", ".join(line.rstrip(",;. ") for line in lines)
    return " ".join(lines)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in _LINES.split(text) if line.strip()]


def _stands_alone(line: str) -> bool:
    """Whether a line neither begins nor ends within an expression."""
    balanced = all(line.count(opening) == line.count(closing) for opening, closing in ("{}", "()", "[]"))
    return (balanced or bool(_HAS_RELATION.search(line))) and not _WITHIN.search(line)


def _all_related(lines: list[str]) -> bool:
    return all(_HAS_RELATION.search(line) for line in lines)


def _without_font(match: re.Match[str]) -> str:
    r"""Words as `\text{}`, a bold letter as `\mathbf{}`, anything else as it is."""
    font, content = match.group(1), match.group(2).strip()
    raised = match.string[: match.start()].rstrip()[-1:] in ("^", "_")
    if font in ("mathbf", "boldsymbol", "bm") and len(content) == 1 and content.isalpha():
        return rf"\mathbf{{{content}}}"
    if font in ("mathrm", "rm", "operatorname") and content in _FUNCTIONS:
        return rf"\{content} "
    if font.startswith("text") and content in ("e", "i"):
        return content
    if font.startswith("text") and content in _FUNCTIONS_IN_TEXT:
        return rf"\{content} "
    if font in ("mathrm", "rm", "mathit", "mathsf") and len(content) == 1 and content not in _MATHRM_UNITS:
        return content
    if _WORDS.fullmatch(content) and not _CONNECTIVE.search(content):
        return rf"{{\text{{{content}}}}}" if raised else rf"\text{{{content}}}"
    return f"{{{content}}}" if raised else f" {content} " if font.startswith(("text", "mbox")) else content


def _trimmed(text: str) -> str:
    """Without what stands around the whole of an answer: full stops, quotes, braces, `\\text{}`, (C)."""
    text = text.strip().rstrip(".,;").strip()
    if quoted := _QUOTED.fullmatch(text):
        text = next(group for group in quoted.groups() if group is not None).strip()
    for _ in range(2):
        if underlined := _UNDERLINED.fullmatch(text):
            text = underlined[1][1:-1].strip()
    text = _without_braces(text)
    if whole := _WHOLE_TEXT.fullmatch(text):
        text = whole.group(1).strip().removesuffix(".")
    text = _without_braces(text)
    if letter := _LETTER.fullmatch(text):
        text = letter[1] or letter[2]
    text = _DOTTED.sub(_repeating, text) if r"\dot" in text else text
    if "_" not in text:
        return plain(text)
    based = _BASED.fullmatch(with_base(_TEXT_DIGITS.sub(r"\1", structure.unwrapped(text))))
    return f"{based[1]}{based[2]}_{based[3] or based[4]}" if based else text


def _without_braces(text: str) -> str:
    """Without braces around the whole. `{1,2}` is a set that has lost its backslashes."""
    for _ in range(_MAX_BRACES):
        if not _is_one_group(text):
            break
        text = text[1:-1].strip()
        if len(structure.split(text, structure.COMMA)) > 1:
            text = rf"\{{{text}\}}"
    return text


def _is_one_group(text: str) -> bool:
    """Whether the brace that opens the text is closed by its last character and not before."""
    if not (text.startswith("{") and text.endswith("}")):
        return False
    depth = 0
    for match in _BRACES.finditer(text):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.end() == len(text)
    return False


def _repeating(match: re.Match[str]) -> str:
    """`0.1\\dot{6}` with its period under a line."""
    return rf"{match[1]}\overline{{{re.sub('[^0-9]', '', match[2])}}}"
