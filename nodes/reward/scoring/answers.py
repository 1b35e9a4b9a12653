"""Answers of maths tasks: found in a completion, and judged against a reference by math-verify.

Plain functions of JSON values, so that a worker process can run them; math-verify is imported at the first use.
"""

import math
import re
import time
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_BRACE = re.compile(r"\\boxed\s*\{|(?<!\\)[{}]")  # an escaped brace is a character
_HASHED = re.compile(r"(?<!#)####(?!#)\s*([^\n]+)")

_WRAPS = (("$$", "$$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("$", "$"), ("`", "`"))
_MINUS = str.maketrans({"−": "-", "\u00a0": " ", "\u202f": " "})
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|\\,|\\!|,\\!)(?=\d{3})")
_CURRENCY = re.compile(r"^([-+]?)\s*\\?[$€£¥]\s*(?=[-+.\d])")
_SCIENTIFIC = re.compile(r"[-+]?\d+(?:\.\d+)?[eE][-+]?\d{1,2}")
_SPACED = re.compile(r"[-+]?\d{1,3}(?: \d{3})+(?:\.\d+)?")
_UNIT = r"[^\W\d_]{2,}(?:\^?\{?[23]\}?|[²³])?"
_QUANTITY = re.compile(rf"([-+]?[\d,.]*\d)\s+(?!pi\b){_UNIT}(?:\s*/\s*[^\W\d_]+|(?:\s+{_UNIT})+)?")
_PERCENT = re.compile(r"[-+]?[\d,.]*\d\s*%")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"\b(?:[^\W\d_]{3,}|is|no)\b", re.IGNORECASE)
_WORDS_OF_MATHS = frozenset(
    ["sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "sqrt", "and", "mod", "max", "min"],
)


def extract_answer(completion: str, pattern: str | None) -> str | None:
    r"""The answer that a completion gives, stripped; None if it gives none.

    The last `<answer>...</answer>`, else the last `\boxed{...}`, else the line after the last `####`; blank ones
    do not count. With `pattern`, its last match only: group 1, or all of it where the pattern has no group.
    """
    if pattern is not None:
        return _last(match[min(1, match.re.groups)] for match in re.finditer(pattern, completion))
    return (
        _last(match[1] for match in _TAGGED.finditer(completion))
        or _last(_boxed(completion))
        or _last(match[1] for match in _HASHED.finditer(completion))
    )


def extract_each(calls: list[dict[str, str]]) -> list[str | None]:
    """`extract_answer` of each, by its keywords."""
    return [extract_answer(call["completion"], call["pattern"]) for call in calls]


def math_score(
    completion: str, answer: str, *, pattern: str | None = None, limit_s: int | None = 5
) -> dict[str, float]:
    """The terms `format` (1.0 if `extract_answer` finds an answer) and `correct` (1.0 if it equals `answer`).

    math-verify judges what was extracted, or the whole completion if nothing was. `correct` is NaN, could not be
    judged, for a blank reference and where parsing or comparing reached `limit_s`. The limit is kept by SIGALRM:
    outside the main thread pass None, else math-verify raises ValueError.
    """
    found = extract_answer(completion, pattern)
    return {
        "format": 0.0 if found is None else 1.0,
        "correct": _correct(found, completion, answer, limit_s),
    }


def _correct(found: str | None, completion: str, answer: str, limit_s: int | None) -> float:
    reference = _normal(extract_answer(answer, None) or answer)
    if not reference:
        return math.nan
    given = _normal(completion if found is None else extract_answer(found, None) or found)
    if _text(given) == _text(reference):
        return 1.0
    if _is_text(reference):
        return 0.0  # as maths, letters would be multiplied and anagrams equal
    return _judged(reference, given, limit_s, plain=found is None)


def _judged(reference: str, given: str, limit_s: int | None, *, plain: bool) -> float:
    from math_verify import verify

    started = time.monotonic()
    gold = _parsed(reference, limit_s, plain=False)
    target = _parsed(given, limit_s, plain=plain)
    if verify(gold, target, timeout_seconds=limit_s):
        return 1.0
    was_cut = limit_s is not None and time.monotonic() - started >= limit_s
    return math.nan if was_cut else 0.0


def _parsed(text: str, limit_s: int | None, *, plain: bool) -> list[Any]:
    """What math-verify reads in a text: one formula, unless it is prose; the number where it has a unit."""
    from math_verify import parse

    quantity = _QUANTITY.fullmatch(text)
    text = quantity[1] if quantity else text
    is_prose = _PERCENT.fullmatch(text) is not None or _words(text)
    parsed: list[Any] = parse(
        text if plain or is_prose else f"\\boxed{{{text}}}",
        parsing_timeout=limit_s,
    )
    return parsed


def _normal(text: str) -> str:
    """The text without what surrounds a value: wrappers, a currency sign, a full stop, marks of thousands."""
    text = text.translate(_MINUS).strip()
    while (inner := _unwrapped(text)) != text:
        text = inner
    text = _THOUSANDS.sub("", text).replace("\\%", "%")
    if text.count("$") <= 1:
        text = _CURRENCY.sub(r"\1", text)
    if _SPACED.fullmatch(text):
        return text.replace(" ", "")
    if _SCIENTIFIC.fullmatch(text):
        return format(Decimal(text), "f")
    return text


def _unwrapped(text: str) -> str:
    text = text.removesuffix(".").strip()
    for left, right in _WRAPS:
        inner = text[len(left) : -len(right)]
        if inner and text == left + inner + right and left not in inner and right not in inner:
            return inner.strip()
    return text


def _text(text: str) -> str:
    return " ".join(_TEXT_COMMAND.sub(r"\1", text).casefold().split())


def _words(text: str) -> bool:
    bare = _COMMAND.sub(" ", _TEXT_COMMAND.sub(" ", text))
    return any(word.lower() not in _WORDS_OF_MATHS for word in _WORD.findall(bare))


def _is_text(text: str) -> bool:
    bare = _TEXT_COMMAND.sub(r"\1", text)
    return _words(bare) and not _COMMAND.search(bare) and not any(c.isdigit() for c in bare)


def _last(candidates: Iterable[str | None]) -> str | None:
    stripped = [candidate.strip() for candidate in candidates if candidate and candidate.strip()]
    return stripped[-1] if stripped else None


def _boxed(text: str) -> Iterator[str]:
    r"""Contents of every `\boxed{...}` whose braces balance, in order of their opening."""
    opened: list[int | None] = []  # where a box begins, None for another brace
    spans: list[tuple[int, int]] = []
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(None)
        elif brace[0] != "}":
            opened.append(brace.end())
        elif opened and (start := opened.pop()) is not None:
            spans.append((start, brace.start()))
    return (text[start:end] for start, end in sorted(spans))
