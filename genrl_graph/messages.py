"""Wording of errors and reports: hints, shortened and escaped values, counted nouns."""

import difflib
import re
import time
from collections.abc import Iterable
from functools import lru_cache

# control characters except newline and tab, marks that change the direction of text, half surrogate pairs
_HOSTILE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


MOST_NAME = 80
"""Most characters of a name for which a close one is looked for."""
MOST_COMPARISONS, COMPARISONS_A_SECOND = 50_000, 5_000
"""Names that are compared at once, about a second's work, and later: files may hold any number of misspelt names."""


class _Allowance:
    """Comparisons that are left; they come back with time."""

    def __init__(self) -> None:
        self._left, self._since = float(MOST_COMPARISONS), time.monotonic()

    def take(self, number: int) -> bool:
        """Return whether so many comparisons are left, and take them."""
        now = time.monotonic()
        self._left = min(self._left + (now - self._since) * COMPARISONS_A_SECOND, MOST_COMPARISONS)
        self._since = now
        taken = number <= self._left
        self._left -= number if taken else 0
        return taken


_allowance = _Allowance()


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is closest to a misspelt one, or None if none is close, or to compare takes long."""
    names = tuple(known)
    return _closest(name, names) if len(name) <= MOST_NAME and _allowance.take(len(names)) else None


@lru_cache(maxsize=1024)
def _closest(name: str, known: tuple[str, ...]) -> str | None:
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.6)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint such as " (did you mean 'critiques'?)", or "" if no known name is close."""
    close = closest(name, (other for other in known if other != name))
    return f" (did you mean {close!r}?)" if close else ""


def short(value: object) -> str:
    """Return the `repr` of a value for a message, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def escaped(text: str) -> str:
    """Escape all characters that could control the terminal or hide other text."""
    return _HOSTILE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


def one_line(text: str) -> str:
    """Escape all characters that are not printable, the ends of lines included."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def counted(number: int, noun: str, nouns: str = "") -> str:
    """Return a number with its noun: "1 node", "2 nodes"; `nouns` is an irregular plural."""
    return f"{number} {noun if number == 1 else nouns or noun + 's'}"


def first_line(error: Exception) -> str:
    """Return the first line of an Arrow error; the lines after it describe Arrow's internals."""
    return str(error).partition("\n")[0]


def renamed_input(old: str, new: str) -> str:
    """Return the warning for an input that a graph names by its old name."""
    return f"{old!r} is called {new!r} now, and the old name will stop loading; write {new!r}"
