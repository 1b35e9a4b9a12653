"""What people are shown of rows of a type: the numbers that come first, and what happened in words."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class DisplayMetrics:
    """Which metrics of the generators of a type are shown first; `*` in a name is any opponent, kind or term.

    `line` are those of every round, the outcome before all others; `evaluation` come with them where a policy is
    tested. `unit` is the metric that counts what is made one after another, `effort` what a round of it costs, with
    the words for it.
    """

    line: tuple[str, ...] = ()
    evaluation: tuple[str, ...] = ()
    unit: str = ""
    effort: Mapping[str, str] = field(default_factory=dict)

    def chosen(self, names: Iterable[str], *, evaluating: bool = False) -> list[str]:
        """Those of these names that are shown, in the order of the patterns; what is told of one opponent together."""
        patterns = self.line + (self.evaluation if evaluating else ())
        known = list(names)
        places = {name: place(name, patterns) for name in known if any(fnmatchcase(name, p) for p in patterns)}
        return sorted(places, key=lambda name: (*places[name], known.index(name)))


def place(name: str, patterns: tuple[str, ...]) -> tuple[int, str, int]:
    """Where a name stands: plain names as they are listed, then `<opponent>/...` by opponent."""
    at = next(at for at, pattern in enumerate(patterns) if fnmatchcase(name, pattern))
    group = name.rpartition("/")[0]
    return (1, group, at) if group else (0, "", at)


@dataclass(frozen=True, slots=True)
class Transcript:
    """What some rows tell together: one row a completion, the steps of one seat an episode.

    `rows` are their places in the order of what happened; `facts` say how long it was and how it ended, `gist` is
    its start in a line, `parts` what happened, each under its heading.
    """

    rows: NDArray[np.int64]
    facts: str
    gist: str
    parts: tuple[tuple[str, str], ...]
