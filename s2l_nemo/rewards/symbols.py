# ruff: noqa: RUF001  (look-alike characters are what this file is about)
"""Unicode as ASCII and LaTeX: full-width digits, mathematical signs, raised and lowered digits, Chinese units."""

from __future__ import annotations

import re
import unicodedata

_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+")
_SUBSCRIPT = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_VULGAR = re.compile("(\\d?)([¼-¾⅐-⅞])")
_ROOT = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?)")  # a root without braces is of the whole number
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
_SYMBOLS = {
    "−": "-", "–": "-", "‐": "-", "π": r"\pi ", "∞": r"\infty ", "°": r"^\circ ", "×": r"\times ", "·": r"\cdot ",
    "⋅": r"\cdot ", "∙": r"\cdot ",
    "÷": "/", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≦": r"\le ", "≧": r"\ge ", "≠": r"\ne ",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∉": r"\notin ", "±": r"\pm ", "≡": r"\equiv ",
    "∓": r"\mp ", "√": r"\sqrt ", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]", "θ": r"\theta ",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "λ": r"\lambda ", "μ": r"\mu ", "σ": r"\sigma ",
    "φ": r"\phi ", "ω": r"\omega ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ",
    "⁄": "/", "∕": "/", "∅": r"\emptyset ", "≈": r"\approx ", "∠": r"\angle ", "△": r"\triangle ",
    "∖": r"\setminus ",
    "或": " or ", "和": " and ", "与": " and ", "、": ", ", "。": ".", "“": '"', "”": '"', "‘": "'", "’": "'",
    "٫": ".", "٬": ",", "٪": "%",
    "⟨": r"\langle ", "⟩": r"\rangle ",
}  # fmt: skip
_KEPT = {  # characters that NFKC would turn into a bare letter or digit
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}",
    "€": r"\euro ", "£": r"\pounds ", "¥": r"\yen ", "￥": r"\yen ", "₹": r"\rupee ", "¢": r"\text{ cents}",
    "℃": r"^\circ \text{C}", "℉": r"^\circ \text{F}", "º": r"^\circ ", "˚": r"^\circ ",
    **{chr(0x2460 + n): rf"\textcircled{{{n + 1}}}" for n in range(20)},
}  # fmt: skip
_CHINESE = {
    "厘米": "cm", "毫米": "mm", "千米": "km", "公里": "km", "米": "meters", "千克": "kg", "公斤": "kg", "克": "grams",
    "吨": "tons", "毫升": "ml", "升": "litres", "小时": "hours", "分钟": "minutes", "秒": "seconds", "天": "days",
    "周": "weeks", "年": "years", "岁": "years", "元": "yuan", "人": "people", "名": "people", "位": "people",
    "个": "items", "件": "items", "种": "ways", "次": "times", "本": "books", "张": "sheets", "页": "pages",
    "组": "groups", "对": "pairs", "辆": "cars", "棵": "trees", "度": "degrees",
}  # fmt: skip
_CHINESE_NAMES = "|".join(sorted(_CHINESE, key=len, reverse=True))
_UNIT = re.compile(rf"(?<=[\d}}])(\s*(?:\\(?:text|mathrm|mbox)\{{\s*)?)(平方|立方)?({_CHINESE_NAMES})")
_POWERS = {"平方": "square ", "立方": "cubic ", None: ""}


def to_ascii(text: str) -> str:
    """Turns full-width digits and their like into ASCII and mathematical signs into LaTeX. Other letters stay."""
    text = "".join(_plain(character) for character in text if unicodedata.category(character) != "Cf")
    text = _SUPERSCRIPT.sub(lambda match: f"^{{{unicodedata.normalize('NFKC', match.group())}}}", text)
    text = _SUBSCRIPT.sub(lambda match: f"_{{{unicodedata.normalize('NFKC', match.group())}}}", text)
    text = _VULGAR.sub(_vulgar_fraction, text)
    text = _ROOT.sub(lambda match: f"{_ROOTS[match[1]]}{{{match[2]}}}", unicodedata.normalize("NFKC", text))
    text = _UNIT.sub(lambda match: match[1] + _POWERS[match[2]] + _CHINESE[match[3]], text)
    text = "".join(_SYMBOLS.get(character, character) for character in text)
    return text.replace(r"\sqrt (", r"\sqrt(")


def _plain(character: str) -> str:
    """A digit of any script as an ASCII digit; what must not become a bare letter as LaTeX."""
    if character in _KEPT:
        return _KEPT[character]
    return str(unicodedata.decimal(character)) if unicodedata.category(character) == "Nd" else character


def _vulgar_fraction(match: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", match.group(2)).partition("⁄")
    return rf"{match.group(1)}\frac{{{top}}}{{{bottom}}}"
