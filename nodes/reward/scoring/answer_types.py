"""Decide by the reference what kind of answer a task wants.

A date, a score or an address judged as arithmetic would equal any other with the same value: 3-1 is not 4-2.
"""

import re
from collections.abc import Mapping
from typing import Literal

from genrl_graph.nodes.reward.scoring.numbers import is_padded, read_number
from genrl_graph.nodes.reward.scoring.plain_text import without_text_commands

AnswerType = Literal["auto", "number", "formula", "choice", "date", "code", "text"]

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_WEEKDAY = r"(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\.?,?\s+)?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_ISO = re.compile(r"(?P<year>\d{4})(?P<sep>[-/.])(?P<m>\d{1,2})(?P=sep)(?P<day>\d{1,2})")
_NUMERIC = re.compile(r"(?P<first>\d{1,2})(?P<sep>[-/.])(?P<second>\d{1,2})(?P=sep)(?P<year>\d{4})")
_WRITTEN = (
    re.compile(rf"{_WEEKDAY}{_MONTH}\s+{_DAY}(?:,?\s+(?P<year>\d{{4}}))?", re.IGNORECASE),
    re.compile(rf"{_WEEKDAY}(?:the\s+)?{_DAY}(?:\s+of)?\s+{_MONTH}(?:,?\s+(?P<year>\d{{4}}))?", re.IGNORECASE),
    re.compile(rf"{_MONTH},?\s+(?:of\s+)?(?P<year>\d{{4}})(?P<day>)", re.IGNORECASE),
)
_CHOICE = re.compile(r"[A-J]|\([A-Ja-j]\)|[A-J][.):]")
_CODES = tuple(
    re.compile(pattern)
    for pattern in (
        r"[vV]?\d+(?:\.\d+){2,}(?:[-+.]?\w+)*",  # addresses and versions
        r"[vV]\d+(?:\.\d+)*",
        r"\+?\d+(?:\s*-\s*\d+)+",  # scores, ranges, telephone numbers
        r"\d+(?:\s*:\s*\d+)+(?:\s*[aApP]\.?\s?[mM]\.?)?",  # times and ratios
        r"\d{1,2}\s*[aApP]\.?\s?[mM]\.?",
        r"0[xX][0-9a-fA-F]+",
        r"(?=\w*[A-Z])(?=\w*\d)[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*",
        r"(?:[0-9a-fA-F]{2}:){2,}[0-9a-fA-F]{2}",
        r"\S+@\S+\.\w+|https?://\S+",
    )
)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_LETTERS = re.compile(r"[^\W\d_]{2,}")
_SIGNS = re.compile(r"[\\^_=+*/<>|(){}\[\]]")
WORDS_OF_MATHS = frozenset(
    (
        *("sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "sqrt", "pi", "mod", "max", "min", "gcd"),
        *("lcm", "det", "and", "or"),
    )
)

Date = Mapping[str, str]
"""Year, month and day as digits without leading zeros; what a date does not say is missing."""


def type_of(reference: str) -> AnswerType:
    """Return the kind of a plain reference answer."""
    text = without_text_commands(reference)
    if read_date(text) is not None:
        return "date"
    if _CHOICE.fullmatch(text):
        return "choice"
    if not is_padded(text) and read_number(text) is not None:
        return "number"
    if is_padded(text) or is_code(text):
        return "code"
    return "text" if _is_text(text) else "formula"


def is_code(text: str) -> bool:
    """Return True for an address, version, score, time, or other sign sequence that is no arithmetic."""
    return len(text) <= 200 and any(code.fullmatch(text) for code in _CODES)


def read_date(text: str) -> Date | None:
    """Return the parts of a date; None for other text. `3/4/2024` keeps its order, because both readings exist."""
    text = text.strip()
    if len(text) > 60:
        return None
    if match := _ISO.fullmatch(text):
        return _date(match["year"], match["m"], match["day"])
    if match := _NUMERIC.fullmatch(text):
        first, second = int(match["first"]), int(match["second"])
        if first > 12 or second > 12:  # only one reading
            day, month_number = (first, second) if first > 12 else (second, first)
            return _date(match["year"], str(month_number), str(day))
        return {"numeric": f"{first}/{second}/{match['year']}"}
    for pattern in _WRITTEN:
        if match := pattern.fullmatch(text):
            month = str(_MONTHS.index(match["month"][:3].lower()) + 1)
            return _date(match["year"] or "", month, match["day"])
    return None


def _date(year: str, month: str, day: str) -> Date | None:
    if not 1 <= int(month) <= 12 or not 1 <= int(day or 1) <= 31:
        return None
    return {name: str(int(value)) for name, value in (("year", year), ("month", month), ("day", day)) if value}


def _is_text(text: str) -> bool:
    """Return True for words: letters in runs, and no sign of maths beside them."""
    bare = _COMMAND.sub(" ", text)
    words = [word for word in _LETTERS.findall(bare) if word.casefold() not in WORDS_OF_MATHS]
    return bool(words) and not _SIGNS.search(text) and not is_list(text)


def is_list(text: str) -> bool:
    """Return True if the text enumerates values, at least two of them numbers or single letters."""
    parts = [part.strip() for part in re.split(r",|;|\band\b|\bor\b", text)]
    return len(parts) > 1 and all(len(part) == 1 or read_number(part) is not None for part in parts if part)
