r"""Cleans questions of training sets: takes off instructions, finds near duplicates, says which cannot be answered."""

from __future__ import annotations

import re
import unicodedata

# The texts that public math sets for reinforcement learning wrap around their questions; the first two are DAPO-17k's.
_PREFIX = re.compile(
    r"\s*Solve the following math problem step by step\. The last line of your response should be of the form "
    r"Answer: \$?Answer \(without quotes\) where \$?Answer is the answer to the problem\.\s*",
    re.IGNORECASE,
)
_SUFFIX = re.compile(
    r"\s*Remember to put your answer on its own line after \"Answer:\""
    r"(?:, and you do not need to use a \\boxed command)?\.?\s*\Z",
    re.IGNORECASE,
)
# "Let's think step by step and output the final answer after": how other sets begin to ask for a form of answer.
_ASKING = (
    r"(?:[,;]?\s*(?:\b(?:and|then)\b)?\s*)"
    r"(?:(?:please |let's |let us )*\b(?:think|reason|work|solve)\b[^.?!\n]{0,40}?step[ -]by[ -]step"
    r"(?:[,;.]?\s*and|[,;.]|\s)\s*)?"
    r"(?:please |then |finally |and )*"
    r"\b(?:output|put|write|give|provide|state|place|present|show|return|report|mark|express)"
    r"\s+(?:only\s+)?(?:your|the)\s+(?:\w+\s+){0,2}?(?:answer|result|response|solution)\b"
)
_SUFFIX_BOX = re.compile(_ASKING + r"[^.?!\n]*?\\boxed\{[^{}]*\}[^\n]{0,20}\s*\Z", re.IGNORECASE)
_HASHES = re.compile(_ASKING + r"[^.?!\n]*?####[^.?!\n]*[.!]?", re.IGNORECASE)
_PICTURE = re.compile(r"!\[|<img\b|\\includegraphics\b", re.IGNORECASE)
_ASY = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL | re.IGNORECASE)
_NO_ANSWER = re.compile(
    r"(?:n/?a|none|null|nan|unknown|-+|\?+|see .*|proof\b.*|not (?:given|available))\.?", re.I | re.S
)
_FORMULA_OR_COMMAND = re.compile(r"\$[^$]*\$|\\[a-zA-Z]+")
_WORD = re.compile(r"[^\W\d_]{3,}")
# Prose and proofs have over 5 words outside formulas, or over 300 characters. In MATH-500 and OlympiadBench none of the
# 1,174 answers that can be graded has over 2 such words, and all but one of the 503 proofs have.
MAX_ANSWER_WORDS = 5
MAX_ANSWER_CHARACTERS = 300

_MATH_DELIMITER = re.compile(r"\\[()\[\]]|\$\$?")
_LATEX_SPACING = re.compile(r"\\(?:[,;:!> ]|quad\b|qquad\b|left\b|right\b|displaystyle\b)|~|\s+")
_FRACTION = re.compile(r"\\[dt]frac\b")
_PUNCTUATION = re.compile(r"(?<!\d)[.,;:?\"“”]|[.,;:?\"“”](?!\d)")
_END_SPACE = re.compile(r"[\\\s]+\Z")
_END_OF_FORMULA = re.compile(r"[.,;:]+\Z")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+")


def strip_wrapper(prompt: str) -> str:
    """The bare question, without the instructions on how to answer that stand before or after it.

    One that asks for the answer behind `####` goes wherever it stands.
    """
    match = _PREFIX.match(prompt)
    question = prompt[match.end() :] if match else prompt
    question = _HASHES.sub("", question) if "####" in question else question
    question = _SUFFIX.sub("", question)
    return (_SUFFIX_BOX.sub("", question) if r"\boxed" in question else question).strip()


def why_unanswerable(question: str, answer: str) -> str | None:
    """Why no response to the bare question could be graded; None if it can be."""
    if not _ASY.sub("", question).strip():
        return "empty question"
    if _PICTURE.search(question):
        return "question needs a picture"
    if not answer.strip("$ \n\t"):
        return "no answer"
    words = len(_WORD.findall(_FORMULA_OR_COMMAND.sub(" ", answer)))
    if words > MAX_ANSWER_WORDS or len(answer) > MAX_ANSWER_CHARACTERS:
        return "answer is prose"
    if _NO_ANSWER.fullmatch(answer.strip()) or not _braces_balance(answer):
        return "answer cannot be graded"
    return None


def _braces_balance(text: str) -> bool:
    depth = 0
    for token in re.findall(r"\\.|[{}]", text, re.DOTALL):
        depth += (token == "{") - (token == "}")
        if depth < 0:
            return False
    return depth == 0


def question_key(question: str) -> str:
    r"""A key that is equal for questions that differ only in how they are written.

    It ignores white space, LaTeX spacing, `\left`, `\right`, the kind of fraction and of math delimiter, and full-width
    characters. Outside formulas it also ignores case and punctuation. In formulas n is not N.
    """
    pieces = _MATH_DELIMITER.sub("$", _bare(question)).split("$")
    keys = [_formula_key(piece) if index % 2 else _text_key(piece) for index, piece in enumerate(pieces)]
    return "$".join(keys)


def _bare(text: str) -> str:
    """The text without space around it. A backslash at its end, which belongs to such a space, goes too."""
    return _END_SPACE.sub("", unicodedata.normalize("NFKC", text)).strip()


def _text_key(text: str) -> str:
    return " ".join(_PUNCTUATION.sub(" ", _LATEX_SPACING.sub(" ", text)).casefold().split())


def _formula_key(formula: str) -> str:
    return _END_OF_FORMULA.sub("", _FRACTION.sub(r"\\frac", _LATEX_SPACING.sub("", formula)))


def answer_key(answer: str) -> str:
    """A key that is equal for answers that differ only in spacing, dollar signs, a full stop, or thousands commas."""
    text = _FRACTION.sub(r"\\frac", _LATEX_SPACING.sub("", _bare(answer))).strip("$")
    text = text.removesuffix(".").strip("$")
    return text.replace(",", "") if _THOUSANDS.fullmatch(text) else text
