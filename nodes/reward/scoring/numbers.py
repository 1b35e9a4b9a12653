"""Read numbers with their unit exactly, and compare them."""

import re
from dataclasses import dataclass
from fractions import Fraction

from genrl_graph.nodes.reward.scoring.units import CURRENCIES, read_unit, same_unit

MAX_LENGTH = 200
MAX_EXPONENT = 400  # above any number of a task; exact powers of ten beyond it would cost memory

_GROUPED = r"\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3}|\d{1,3}(?: \d{3})+|\d{1,3}(?:'\d{3})+"
_DECIMAL = rf"(?:(?:{_GROUPED}|\d+)(?:\.\d*)?|\.\d+)"
_EUROPEAN = r"\d{1,3}(?:\.\d{3})+,\d+"
_POWER = r"\\(?:times|cdot)\s*10\s*\^\s*\{?\s*[-+]?\d+\s*\}?|\*\s*10\s*(?:\^|\*\*)\s*[({]?\s*[-+]?\d+\s*[)}]?"
_FRACTION = r"\\frac\s*(?:\{\s*-?\d+\s*\}|\d)\s*(?:\{\s*\d+\s*\}|\d)|\d+\s*/\s*\d+"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*(?P<currency>[$€£¥₹]?)\s*(?P<inner>[-+]?)\s*"
    rf"(?:(?P<european>{_EUROPEAN})"
    rf"|(?P<whole>\d+)(?:\s+|(?=\\)|\s*\+\s*(?=\\))(?P<part>{_FRACTION})"
    rf"|(?P<fraction>{_FRACTION})"
    rf"|10\s*(?:\^|\*\*)\s*(?:\{{\s*(?P<ten>[-+]?\d+)\s*\}}|(?P<ten_digit>\d))"
    rf"|(?P<decimal>{_DECIMAL})(?:[eE](?P<e>[-+]?\d+)|\s*(?P<power>{_POWER}))?)"
    r"(?P<rest>.*)",
    re.DOTALL,
)
_EXPONENT = re.compile(r"[-+]?\d+")
_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit; `is_decimal` if it was written with a point or an exponent, so it may be rounded."""

    value: Fraction
    is_decimal: bool = False
    is_percent: bool = False
    unit: str = ""


def read_number(text: str) -> Quantity | None:
    """Return the number that a plain answer is, with its unit; None if it is something else."""
    if (word := text.strip().casefold()) in _WORDS:
        return Quantity(Fraction(_WORDS.index(word)))
    if len(text) > MAX_LENGTH or (match := _NUMBER.fullmatch(text.strip())) is None:
        return None
    value = _value(match)
    rest = match["rest"]
    if value is None or (match["sign"] and match["inner"]):
        return None
    unit, is_percent, scale = "", False, 1
    if rest.strip() in ("%", "percent", "per cent"):
        is_percent = True
    elif rest.strip():
        scaled = read_unit(rest)
        if scaled is None:
            return None
        unit, scale = scaled
    unit = unit or CURRENCIES.get(match["currency"], "")
    sign = -1 if "-" in (match["sign"], match["inner"]) else 1
    is_decimal = "." in (match["decimal"] or "") or bool(match["e"] or match["european"])
    return Quantity(sign * value * scale, is_decimal, is_percent, unit)


def is_padded(text: str) -> bool:
    """Return True for digits with leading zeros, such as a code or a PIN."""
    return re.fullmatch(r"[-+]?0\d+(?:\.\d+)?", text) is not None


def equal_numbers(reference: Quantity, candidate: Quantity) -> bool:
    """Return True if two quantities are equal: exactly, or up to the last digits of a rounded fraction.

    A percent sign may be left out or applied; a unit may be left out, but not be another one.
    """
    if not same_unit(reference.unit, candidate.unit):
        return False
    expected = {reference.value, reference.value / 100} if reference.is_percent else {reference.value}
    values = {candidate.value, candidate.value / 100} if candidate.is_percent else {candidate.value}
    if reference.is_percent and candidate.is_percent:
        expected, values = {reference.value}, {candidate.value}
    rounded = reference.is_decimal != candidate.is_decimal
    return any(close(left, right, rounded=rounded) for left in expected for right in values)


def close(left: Fraction, right: Fraction, *, rounded: bool) -> bool:
    """Return True if two numbers are equal; with `rounded`, if one is the other rounded to six or more digits.

    Only a fraction without a finite decimal form can have been rounded: 1/3 is 0.333333, but 1/2 is not 0.5000001.
    """
    if left == right:
        return True
    if not rounded or (_is_finite_decimal(left) and _is_finite_decimal(right)):
        return False
    return abs(left - right) <= max(abs(left), abs(right)) / 10**6


def _is_finite_decimal(value: Fraction) -> bool:
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def _value(match: "re.Match[str]") -> Fraction | None:
    if match["european"]:
        return Fraction(match["european"].replace(".", "").replace(",", "."))
    if match["part"] or match["fraction"]:
        fraction = _fraction(match["part"] or match["fraction"])
        return None if fraction is None else fraction + int(match["whole"] or 0)
    if match["decimal"] is None:
        return _ten_to(match["ten"] or match["ten_digit"])
    digits = re.sub(r"[, ']", "", match["decimal"])
    if match["power"]:
        exponent = _EXPONENT.findall(match["power"])[-1]
        power = _ten_to(exponent)
    else:
        power = _ten_to(match["e"] or "0")
    return None if power is None else Fraction(digits) * power


def _ten_to(exponent: str) -> Fraction | None:
    return Fraction(10) ** int(exponent) if len(exponent) <= 5 and abs(int(exponent)) <= MAX_EXPONENT else None


def _fraction(text: str) -> Fraction | None:
    if "/" in text:
        above, below = map(int, text.split("/"))
    else:
        parts = re.findall(r"-?\d+", text)
        if len(parts) == 1:  # \frac12
            parts = list(parts[0])
        above, below = int(parts[0]), int(parts[1])
    return Fraction(above, below) if below else None
