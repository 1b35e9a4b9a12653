"""The wording of errors and reports: hints, short values, counted nouns."""

import difflib
from collections.abc import Iterable
from functools import lru_cache


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, or None."""
    return _closest(name, tuple(known))


@lru_cache(maxsize=1024)
def _closest(name: str, known: tuple[str, ...]) -> str | None:
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.6)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint such as " (did you mean 'critiques'?)", or nothing."""
    close = closest(name, known)
    return f" (did you mean {close!r}?)" if close else ""


def short(value: object) -> str:
    """The value as messages show it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def counted(number: int, noun: str, nouns: str = "") -> str:
    """A number and its noun: "1 node", "2 nodes"."""
    return f"{number} {noun if number == 1 else nouns or noun + 's'}"


def first_line(error: Exception) -> str:
    """The message of an error of Arrow without the lines about its inside."""
    return str(error).partition("\n")[0]


def renamed_input(old: str, new: str) -> str:
    """Return what is said of an input that is given under its old name."""
    return f"{old!r} is called {new!r} now, and the old name will stop loading; write {new!r}"
