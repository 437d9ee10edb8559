r"""Units: what may stand behind a number without changing it, and nothing else may.

- A unit on one side only is dropped. Units on both sides must be the same: cm and centimeters are, cm and m are not.
- Degrees are a unit, and so are currencies and counted nouns (`12 \text{ ways}`). A single bare letter is a variable.
- Of a gold answer, words that are in no table count as its unit too, because nobody gains by them there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from s2l_nemo.rewards.notation import words

_ALIASES = {
    "centimeter": "cm", "centimetre": "cm", "meter": "m", "metre": "m", "mtr": "m", "kilometer": "km",
    "kilometre": "km",
    "millimeter": "mm", "millimetre": "mm", "in": "inch", "ft": "foot", "mi": "mile", "yd": "yard",
    "sec": "second", "s": "second", "min": "minute", "hr": "hour", "h": "hour", "wk": "week", "yr": "year",
    "g": "gram", "gm": "gram", "kilogram": "kg", "kilo": "kg", "milligram": "mg", "lb": "pound", "oz": "ounce",
    "liter": "litre", "l": "litre", "milliliter": "ml", "millilitre": "ml", "gal": "gallon", "cc": "ml",
    "percent": "%", "percentage": "%", "pct": "%", "deg": "degree", "rad": "radian",
    "kph": "km*hour^-1", "kmh": "km*hour^-1", "kmph": "km*hour^-1", "mph": "mile*hour^-1",
    "rpm": "minute^-1*revolution", "kilowatt": "kilowatt",
    "m.p.h": "mile*hour^-1", "mpg": "gallon^-1*mile", "kwh": "hour*kilowatt",
    "rouble": "ruble", "decimetre": "dm", "decimeter": "dm",
    "dollar": "dollar", "usd": "dollar", "buck": "dollar", "euro": "euro", "eur": "euro", "pence": "penny",
    "j": "joule", "n": "newton", "w": "watt", "v": "volt", "k": "kelvin", "kj": "kilojoule", "kw": "kilowatt",
    "hz": "hertz", "mol": "mole", "pa": "pascal", "a.m": "am", "p.m": "pm", "rs": "rupee", "rmb": "yuan",
    "st": "th", "nd": "th", "rd": "th", "people": "person", "children": "child", "men": "man", "women": "woman",
    "feet": "foot", "dice": "die", "mice": "mouse", "vertices": "vertex", "matrices": "matrix", "indices": "index",
    "axes": "axis", "fish": "fish", "sheep": "sheep", "geese": "goose", "shelves": "shelf", "loaves": "loaf",
    "series": "series", "gas": "gas", "celsius": "celsius", "fahrenheit": "fahrenheit",
}  # fmt: skip
_NOUNS = words(
    """
    cm m km mm dm mg kg ml inch foot mile yard second minute hour day week month year decade century gram pound ounce
    ton tonne litre gallon quart pint cup acre hectare degree radian revolution celsius fahrenheit kelvin joule
    newton watt volt ohm hertz mole pascal calorie cent penny nickel dime quarter-dollar dollar euro pounds yen
    yuan rupee peso ruble unit am pm noon o'clock th person child man woman boy girl student pupil teacher player worker
    employee member passenger customer guest friend voter adult kid voter participant family couple team group
    class committee apple orange banana egg cookie candy pie pizza cake slice piece loaf bottle box bag basket
    crate pack package packet ticket stamp card coin bill marble ball block book page word letter digit pencil pen
    crayon toy doll balloon sticker flower tree plant leaf seed rose tulip animal dog cat cow horse pig sheep goat
    chicken duck goose rabbit fish bird frog ant bee monkey car truck bus bike bicycle train plane boat house room
    chair table shirt pair dress shoe sock hat button bead brick tile tree shelf game point goal run win loss
    match round turn step move jump lap trip flight mile way method arrangement permutation combination outcome
    possibility choice option selection subset set element case number integer prime factor divisor multiple term
    solution root zero value triple pair tuple quadruple sequence function polynomial pattern path route handshake
    line segment side edge face vertex angle triangle square rectangle circle quadrilateral pentagon hexagon
    polygon cube diagonal intersection region area row column grid cell dot stick time degree question problem
    answer-sheet test exam vote item object thing die bit byte song film movie store shop mark gift present dish
    meal drink glass jar can barrel carton sheet stone rock shell diamond star light lamp key door window rotation
    tooth mouse matrix index axis roll spin trial toss flip head tail night morning session lesson
    sandwich muffin cupcake donut doughnut brownie burger chocolate sweet snack grape cherry strawberry blueberry peach
    pear lemon lime melon carrot potato tomato onion cucumber pepper nut lion tiger elephant bear wolf deer turtle
    butterfly bug spider puppy kitten animal insect soldier farmer sailor doctor nurse engineer artist singer dancer
    runner swimmer athlete driver lady gentleman neighbor classmate desk seat bench bed window wall floor story
    building bridge street city town village country state planet photo picture painting poster magazine newspaper
    chapter paragraph sentence message email bucket bowl plate cup spoon fork knife pot pan mug stack pile bundle batch
    wheel leg eye arm hand finger ear wing race match contest event visit call shot hit strike goal brush ribbon
    necklace bracelet kite doll puzzle instrument machine computer phone robot battery bulb nail screw pole post rope
    """
)
_ADJECTIVES = words(
    """
    different distinct possible total whole ordered unordered valid positive integer real full us u.s unique such
    non-negative nonnegative complex rational even odd perfect consecutive trailing lattice right isosceles equilateral
    scalene congruent adult school red blue green yellow black white orange purple pink brown new old small large
    one-digit two-digit three-digit four-digit five-digit six-digit palindromic
    """
)
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_AFTER = {"squared": 2, "cubed": 3}
# Words that change what stands before them. No gold has them as its unit.
_NO_UNIT = words(
    """
    or and not no nor but hundred thousand million billion trillion dozen half halves third quarter tenth less
    more minus plus times over under than about percent negative wrong if when where for from to with is are mod
    """
)
# Words that are units even without \text. Shorter ones are a product of variables, but in `60 km/h`.
_BARE_SHORT = words("cm mm km kg mg ml ft lb oz hr lbs am pm AM PM")
_ORDINAL = words("st nd rd th")

_POWER = r"(?:\^(?:\d|\{-?\d+\}))?"
_ATOM = rf"(?:\\text\{{[^{{}}]*\}}|(?<![A-Za-z\\])[A-Za-z][A-Za-z.]*){_POWER}"
_TAIL = re.compile(rf"(?:\^\\circ ?)?{_ATOM}(?:(?:/|\\cdot ?|\\times ?|\*| )?{_ATOM})*$")
_IN_BRACKETS = re.compile(rf"\(({_ATOM}(?:(?:/|\\cdot ?| )?{_ATOM})*)\)$")
_QUOTIENT = re.compile(rf"\\frac\{{((?:\\text\{{[^{{}}]*\}}{_POWER})+)\}}\{{((?:\\text\{{[^{{}}]*\}}{_POWER})+)\}}$")
_SYMBOL = re.compile(r"\^\\circ ?$|\\?%$|\\(?:dollar|euro|pounds|yen|rupee) ?$")
_CURRENCY = re.compile(r"([+-]?)(?:\\(dollar|euro|pounds|yen|rupee) ?|(Rs)(?:\. ?| ?(?=\d))|\\text\{(Rs)\.?\})")
_TOKEN = re.compile(r"[A-Za-z'][A-Za-z.'-]*|\^\{?-?\d+\}?|/")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_WORDS = re.compile(r"[A-Za-z][A-Za-z .'/-]*")

Unit = str | None


def split_unit(text: str, *, trusted: bool = False, also: Unit = None) -> tuple[str, Unit]:
    """The value and the unit of a canonical answer; (text, None) if no unit stands at its end.

    The unit is a name, as `cm^2` or `hour^-1*mile`. `trusted` is for gold answers, see above. `also` is a unit that
    counts although no table has it: that of the gold answer.
    """
    currency = _CURRENCY.match(text)
    if currency is not None:
        text = currency[1] + text[currency.end() :]
    value, unit = _at_end(text, trusted, also)
    if currency is None:
        return value, unit
    name = currency[2] or "rupee"
    return value, name if unit in (None, name) else f"{name}*{unit}"


def _at_end(text: str, trusted: bool, also: Unit) -> tuple[str, Unit]:
    if symbol := _SYMBOL.search(text):
        value = text[: symbol.start()].rstrip()
        if not value or (symbol.group().startswith("^") and _TRIGONOMETRY.search(value)):
            return text, None
        return value, {"%": "%", "c": "degree"}.get(symbol.group().strip()[-1], symbol.group().strip(" \\"))
    bracketed = _IN_BRACKETS.search(text) if text.endswith(")") else None
    if bracketed is not None:
        unit = _unit(bracketed[1], False, also)
        value = text[: bracketed.start()].rstrip()
        return (text, None) if unit is None or not value else (value, unit)
    text = _QUOTIENT.sub(r"\1/\2", text)
    tail = _TAIL.search(text) if text[-1:].isalnum() or text[-1:] in ("}", ".") else None
    if tail is None:
        return text, None
    value = text[: tail.start()].rstrip()
    if not value or value.endswith(("%", "=", ",", ";", "(", "-", "+", "^", "_", "{", "<", ">", "|")):
        return text, None
    unit = _unit(tail.group(), trusted, also)
    return (text, None) if unit is None else (value, unit)


def _unit(tail: str, trusted: bool, also: Unit) -> Unit:
    """The unit that a tail of words means; None if it is none."""
    bare = r"\text" not in tail
    if bare and "/" not in tail and not _may_stand_bare(tail) and (trusted or tail not in _ORDINAL):
        return None
    plain = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", tail).replace(r"\cdot", " ").replace(r"\times", " ")
    found = _combined(plain.replace(r"^\circ", "degree "))
    if found is not None:
        return found
    name = " ".join(plain.lower().split()).removesuffix(".")
    if name.removesuffix("s") == also and also is not None:
        return also
    if trusted and not bare and _WORDS.fullmatch(name) and not _NO_UNIT & set(re.split("[ /-]", name)):
        return name.removesuffix("s")
    return None


def _may_stand_bare(tail: str) -> bool:
    return all(len(word) >= 3 or word in _BARE_SHORT for word in re.findall(r"[A-Za-z.]+", tail)[:1])


def _combined(tail: str) -> Unit:
    """A product of table units: `miles per hour`, `square cm`, `m / s ^{2}`. None if a word is in no table."""
    powers: dict[str, int] = {}
    sign, factor, last = 1, 1, ""
    for token in _tokens(tail):
        if token in ("/", "per"):
            sign, last = -1, ""
        elif token[0] == "^" or token in _AFTER:
            if not last:
                return None
            exponent = _AFTER.get(token) or int(token.strip("^{}"))
            powers[last] += sign * (exponent - 1)
        elif token.lower() in _POWERS:
            factor = _POWERS[token.lower()]
        else:
            name = _singular(token)
            if name is None or (factor != 1 and name == "root"):
                return None
            for one, _, power in (part.partition("^") for part in name.split("*")):
                powers[one] = powers.get(one, 0) + sign * factor * int(power or 1)
                last = one
            factor = 1
    if factor != 1:  # a square of nothing
        return None
    parts = [name if power == 1 else f"{name}^{power}" for name, power in sorted(powers.items()) if power]
    return None if "th" in parts[:-1] + parts[1:] else "*".join(parts) or None  # `12th root` is no 12


def _tokens(tail: str) -> Iterator[str]:
    """Words, powers and slashes, without adjectives that have a noun behind them."""
    text = re.sub(r"\b(sq|cu)\.", r"\1 ", tail.replace("per cent", "percent"))
    text = re.sub(r"\b(years?|months?|weeks?|days?) old\b", r"\1", text)
    tokens = _TOKEN.findall(re.sub(r"degrees? C(?![a-z])", "degree celsius", text))
    for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
        if following == "" or token.lower() not in _ADJECTIVES - _NOUNS:
            yield token


def _singular(word: str) -> str | None:
    """The table's name of a word; None if the table has none."""
    if len(word) == 1 and word not in "mshglLNJWVK":
        return None
    word = word.lower().strip(".")
    endings = (("", ""), ("s", ""), ("es", ""), ("ies", "y"))
    for old, new in endings:
        stem = word.removesuffix(old) + new if word.endswith(old) else None
        if stem and (stem in _ALIASES or stem in _NOUNS):
            return _ALIASES.get(stem, stem)
    return None
