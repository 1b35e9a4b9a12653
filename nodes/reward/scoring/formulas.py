"""Compare formulas with math-verify, within bounds on what they would compute.

A time limit cannot interrupt one operation on huge integers, so towers of powers, large factorials and the
like are refused before they are read.
"""

import logging
import re
from typing import Any

MAX_LENGTH = 1000
MAX_EXPONENT = 10_000
MAX_FACTORIAL = 2_000
_PLAIN = re.compile(r"[-+]?\d+")
_NUMERIC = re.compile(r"[-+*/^!().{}\d\s]+")
_LARGE = re.compile(r"\d{1000,}")
_SCIENTIFIC = re.compile(r"\d[eE][-+]?(\d+)")
_BINOMIAL = re.compile(r"\\[dt]?binom\s*\{?\s*(\d+)(\s*\^)?")
_BIG_OPERATOR = re.compile(r"\\(?:sum|prod|int|lim)(?![A-Za-z])")
_AS_LATEX = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\*\*", "^"),
        (r"\*", r"\\cdot "),
        (r"\^\s*(-?\d{2,}|-\d)", r"^{\1}"),  # LaTeX would raise to the first digit only
        (r"\^\s*\(([^()]*)\)", r"^{\1}"),
        (r"<=|=<", r"\\le "),
        (r">=", r"\\ge "),
        (r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![\\A-Za-z])(pi|sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|theta|alpha|beta)(?![A-Za-z])", r"\\\1 "),
        (r"(?<![\\A-Za-z])(?:infinity|infty|inf)(?![A-Za-z])", r"\\infty "),
    )
)


for _name in ("parser", "grader"):  # each warns once that it was given no time limit; `math_score` has one
    logging.getLogger(f"math_verify.{_name}").addFilter(lambda record: "Timeout is disabled" not in record.getMessage())


class TooLarge(Exception):
    """A formula whose value would be too large to compute."""


def equal_formulas(reference: str, candidate: str) -> bool:
    """Return True if math-verify finds two plain formulas equal; constants are compared relatively.

    Raises `TooLarge` if the reference is beyond the bounds; a candidate beyond the bounds is not equal.
    """
    if is_too_large(reference):
        raise TooLarge(reference)
    if is_too_large(candidate):
        return False
    from math_verify import verify

    gold, target = _parsed(reference), _parsed(candidate)
    if (are_close := _close_decimals(gold, target)) is not None:
        return are_close
    return bool(verify(gold, target, timeout_seconds=None))


def is_too_large(text: str) -> bool:
    """Return True for a text that is too long to read, or whose powers or factorials are too large to compute."""
    if len(text) > MAX_LENGTH or _LARGE.search(text) or any(len(e) > 3 for e in _SCIENTIFIC.findall(text)):
        return True
    if any(power or int(number) > MAX_FACTORIAL for number, power in _BINOMIAL.findall(text)):
        return True
    text = re.sub(r"\s+", "", text.replace("**", "^"))
    return _has_large_power(text) or _has_large_factorial(text)


def _has_large_power(text: str) -> bool:
    limit = 1000 if _BIG_OPERATOR.search(text) else MAX_EXPONENT
    for at in (match.end() for match in re.finditer(r"\^", text)):
        exponent = _group(text, at)
        if not _NUMERIC.fullmatch(exponent):
            continue
        plain = exponent.strip("{}()")
        is_small = _PLAIN.fullmatch(plain) is not None and abs(int(plain)) <= limit
        if not is_small and _small_value(exponent) is None:
            return True
    return False


def _group(text: str, at: int) -> str:
    """Return the exponent at a position: a group in brackets or one token, with the powers that follow it."""
    closing = {"{": "}", "(": ")"}.get(text[at : at + 1])
    if closing is None:
        token = re.compile(r"[-+]?\d+(?:\.\d+)?|\\[A-Za-z]+|.?").match(text, at)
        end = token.end() if token else at
    else:
        depth, end = 0, at
        while end < len(text):
            depth += {text[at]: 1, closing: -1}.get(text[end], 0)
            end += 1
            if depth == 0:
                break
    if text[end : end + 1] == "^":
        return text[at:end] + "^" + _group(text, end + 1)
    return text[at:end] + ("!" if text[end : end + 1] == "!" else "")


def _small_value(text: str) -> float | None:
    """Return a rough value of a numeric exponent if it is small for certain: one product, quotient or small power."""
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]
    if "!" in text or not numbers or text.count("^") > 1:
        return None
    if "^" in text:
        base, exponent = max(numbers), max(numbers)
        return None if exponent > 8 or base**exponent > MAX_EXPONENT else base**exponent
    value = 1.0
    for number in numbers:
        value *= max(number, 1.0)
    return value if value <= MAX_EXPONENT else None


def _has_large_factorial(text: str) -> bool:
    for match in re.finditer(r"!+", text):
        before = text[: match.start()]
        if len(match[0]) > 2:
            return True
        if number := re.search(r"\d+$", before):
            if len(number[0]) > 4 or int(number[0]) > MAX_FACTORIAL:
                return True
        elif before.endswith((")", "}")) and re.search(r"[\^!]|\d{4,}", before):
            return True
    return False


def _parsed(text: str) -> list[Any]:
    """Parse a text as one formula."""
    from math_verify import parse

    for pattern, replacement in _AS_LATEX:
        text = pattern.sub(replacement, text)
    parsed: list[Any] = parse(f"\\boxed{{{text}}}", parsing_timeout=None)
    return parsed


def _close_decimals(gold: list[Any], target: list[Any]) -> bool | None:
    """Return whether two constants are relatively close, if one is a decimal; None for any others.

    math-verify rounds decimals to six places, so that all small numbers would be equal.
    """
    import sympy  # type: ignore[import-untyped]

    values: list[Any] = [parsed[0] if parsed else None for parsed in (gold, target)]
    if not all(isinstance(value, sympy.Expr) and _is_finite_constant(value) for value in values):
        return None
    decimals = sum(value.has(sympy.Float) for value in values)
    if not decimals:
        return None
    try:
        left, right = (complex(value.evalf(20)) for value in values)
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return None
    return abs(left - right) <= (1e-6 if decimals == 1 else 1e-9) * max(abs(left), abs(right))


def _is_finite_constant(value: Any) -> bool:
    import sympy

    return not value.free_symbols and not value.has(sympy.oo, sympy.zoo, sympy.nan, sympy.UnevaluatedExpr)
