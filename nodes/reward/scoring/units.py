"""Units behind a number: what they are called, and whether two say the same."""

import re

CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee"}
_SCALES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_ALIASES = {
    "kilometer": "km",
    "kilometre": "km",
    "meter": "m",
    "metre": "m",
    "centimeter": "cm",
    "centimetre": "cm",
    "millimeter": "mm",
    "millimetre": "mm",
    "kilogram": "kg",
    "kilo": "kg",
    "gram": "g",
    "second": "s",
    "sec": "s",
    "minute": "min",
    "hour": "h",
    "hr": "h",
    "liter": "L",
    "litre": "L",
    "l": "L",
    "deg": "degree",
    "usd": "dollar",
    "buck": "dollar",
    "feet": "ft",
    "foot": "ft",
    "mile": "mi",
}
_SYMBOLS = frozenset(
    (
        *("km", "m", "cm", "mm", "nm", "mi", "ft", "in", "kg", "g", "mg", "lb", "oz", "s", "ms", "min", "h"),
        *("L", "ml", "mL", "N", "J", "W", "V", "A", "K", "C", "F", "Hz", "Pa", "mol", "kWh", "kW", "mph"),
    )
)
_NOT_UNITS = frozenset(
    (
        *("or", "and", "to", "is", "are", "was", "the", "if", "when", "not", "no", "but", "than", "then", "of", "for"),
        *("with", "so", "because", "plus", "minus", "times", "over", "mod", "pi", "sin", "cos", "tan", "log", "ln"),
        *("exp", "sqrt"),
    )
)
_UNIT_WORD = r"[^\W\d_]+(?:\s*\^\s*\{?-?\d\}?)?"
_UNIT = re.compile(rf"{_UNIT_WORD}(?:\s*/\s*{_UNIT_WORD}|(?:\s+|-){_UNIT_WORD}){{0,4}}")


def read_unit(text: str) -> tuple[str, int] | None:
    """Return the unit and the scale that the text behind a number says; None if it is no unit."""
    is_attached = not text[0].isspace()
    words = text.strip()
    if not _UNIT.fullmatch(words):
        return None
    first, _, others = words.partition(" ")
    if first.casefold().removesuffix("s") in _SCALES:
        rest = read_unit(f" {others}") if others else ("", 1)
        return None if rest is None else (rest[0], rest[1] * _SCALES[first.casefold().removesuffix("s")])
    names = re.findall(r"[^\W\d_]+", words)
    if any(name.casefold() in _NOT_UNITS for name in names):
        return None
    is_symbol = names[0] in _SYMBOLS
    if (is_attached and not (is_symbol and len(names[0]) > 1)) or (len(names[0]) == 1 and not is_symbol):
        return None
    return " ".join(_singular(name) for name in names) + "".join(re.findall(r"\^\s*\{?(-?\d)", words)), 1


def same_unit(left: str, right: str) -> bool:
    """Return True if units are equal, one is missing, or one says the other more exactly (`red apples`)."""
    if not left or not right or left == right:
        return True
    words, others = set(left.split()), set(right.split())
    known = _SYMBOLS | {"degree", *CURRENCIES.values()}
    return not (words | others) & known and (words <= others or others <= words)


def _singular(word: str) -> str:
    if word in _SYMBOLS and word not in ("l",):
        return word
    lower = word.casefold()
    stem = lower[:-1] if len(lower) > 2 and lower.endswith("s") else lower
    return _ALIASES.get(lower) or _ALIASES.get(stem) or stem
