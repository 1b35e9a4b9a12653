"""Answers of maths tasks: extract them from a completion and compare them with a reference by math-verify.

Arguments and values are plain JSON, so a worker process can run these functions. math-verify is imported on first use.
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
    r"""Return the answer in a completion, stripped; None if there is none.

    The answer is the last `<answer>...</answer>`, else the last `\boxed{...}`, else the line after the last `####`;
    blank ones are skipped. With `pattern` it is only the last match: group 1, or the whole match without groups.
    """
    if pattern is not None:
        return _last(match[min(1, match.re.groups)] for match in re.finditer(pattern, completion))
    return (
        _last(match[1] for match in _TAGGED.finditer(completion))
        or _last(_boxed(completion))
        or _last(match[1] for match in _HASHED.finditer(completion))
    )


def extract_each(calls: list[dict[str, str]]) -> list[str | None]:
    """Return `extract_answer` for each call's keywords."""
    return [extract_answer(call["completion"], call["pattern"]) for call in calls]


def math_score(
    completion: str, answer: str, *, pattern: str | None = None, limit_s: int | None = 5
) -> dict[str, float]:
    """Return the terms `format` (1.0 if `extract_answer` finds an answer) and `correct` (1.0 if it equals `answer`).

    math-verify judges the extracted answer, or the whole completion if there is none. `correct` is NaN (not judged)
    for a blank reference, or if parsing or comparing reaches `limit_s`. math-verify enforces the limit with SIGALRM:
    outside the main thread pass None, or it raises ValueError.
    """
    extracted = extract_answer(completion, pattern)
    return {
        "format": 0.0 if extracted is None else 1.0,
        "correct": _correct(extracted, completion, answer, limit_s),
    }


def _correct(extracted: str | None, completion: str, answer: str, limit_s: int | None) -> float:
    reference = _normalised(extract_answer(answer, None) or answer)
    if not reference:
        return math.nan
    candidate = _normalised(completion if extracted is None else extract_answer(extracted, None) or extracted)
    if _as_prose(candidate) == _as_prose(reference):
        return 1.0
    if _is_prose(reference):
        return 0.0  # math-verify would multiply the letters, so anagrams would be equal
    return _math_verified(reference, candidate, limit_s, plain=extracted is None)


def _math_verified(reference: str, candidate: str, limit_s: int | None, *, plain: bool) -> float:
    from math_verify import verify

    started = time.monotonic()
    gold = _parsed(reference, limit_s, plain=False)
    target = _parsed(candidate, limit_s, plain=plain)
    if verify(gold, target, timeout_seconds=limit_s):
        return 1.0
    timed_out = limit_s is not None and time.monotonic() - started >= limit_s
    return math.nan if timed_out else 0.0


def _parsed(text: str, limit_s: int | None, *, plain: bool) -> list[Any]:
    """Parse a text with math-verify: as one formula unless it is prose; a quantity without its unit."""
    from math_verify import parse

    quantity = _QUANTITY.fullmatch(text)
    text = quantity[1] if quantity else text
    is_prose = _PERCENT.fullmatch(text) is not None or _has_words(text)
    parsed: list[Any] = parse(
        text if plain or is_prose else f"\\boxed{{{text}}}",
        parsing_timeout=limit_s,
    )
    return parsed


def _normalised(text: str) -> str:
    """Strip what may surround a value: wrappers, a currency sign, a full stop, thousands separators."""
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


def _as_prose(text: str) -> str:
    return " ".join(_TEXT_COMMAND.sub(r"\1", text).casefold().split())


def _has_words(text: str) -> bool:
    bare = _COMMAND.sub(" ", _TEXT_COMMAND.sub(" ", text))
    return any(word.lower() not in _WORDS_OF_MATHS for word in _WORD.findall(bare))


def _is_prose(text: str) -> bool:
    bare = _TEXT_COMMAND.sub(r"\1", text)
    return _has_words(bare) and not _COMMAND.search(bare) and not any(c.isdigit() for c in bare)


def _last(candidates: Iterable[str | None]) -> str | None:
    stripped = [candidate.strip() for candidate in candidates if candidate and candidate.strip()]
    return stripped[-1] if stripped else None


def _boxed(text: str) -> Iterator[str]:
    r"""Yield the content of every `\boxed{...}` with balanced braces, in order of the opening brace."""
    opened: list[int | None] = []  # start of a box's content, None for any other brace
    spans: list[tuple[int, int]] = []
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(None)
        elif brace[0] != "}":
            opened.append(brace.end())
        elif opened and (start := opened.pop()) is not None:
            spans.append((start, brace.start()))
    return (text[start:end] for start, end in sorted(spans))
