"""Display of edge types to people: the metrics that come first, and transcripts of rows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class DisplayMetrics:
    """The metrics that are shown first for generators of an edge type.

    `line` are the name patterns of every round, the outcome first; `evaluation` are added in evaluations. A `*` in a
    pattern stands for any opponent, kind or term. `unit` is the metric whose rate per second is shown, summed over
    peers ("" for tokens). `effort` maps metrics that describe the cost of a round to the words for them.
    """

    line: tuple[str, ...] = ()
    evaluation: tuple[str, ...] = ()
    unit: str = ""
    effort: Mapping[str, str] = field(default_factory=dict)

    def chosen(self, names: Iterable[str], *, evaluating: bool = False) -> list[str]:
        """Return the names that are shown, in the order of the patterns; those of one opponent stay together."""
        patterns = self.line + (self.evaluation if evaluating else ())
        known = list(names)
        places = {name: place(name, patterns) for name in known if any(fnmatchcase(name, p) for p in patterns)}
        return sorted(places, key=lambda name: (*places[name], known.index(name)))


def place(name: str, patterns: tuple[str, ...]) -> tuple[int, str, int]:
    """Return the sort key of a name: plain names by pattern, then `<opponent>/...` by opponent and pattern."""
    rank = next(rank for rank, pattern in enumerate(patterns) if fnmatchcase(name, pattern))
    group = name.rpartition("/")[0]
    return (1, group, rank) if group else (0, "", rank)


@dataclass(frozen=True, slots=True)
class Transcript:
    """The text form of rows that belong together: one completion, or the steps of one trajectory.

    `rows` are their positions in the frame, in order of time. `facts` give the length and the end, `gist` is a preview
    in one line, and `parts` are pairs of heading and text. `boards` are what a game shows before each step, one line a
    row of the board, empty where it shows no boards. `image` is a PNG that the rows hold, empty where they hold none.
    """

    rows: NDArray[np.int64]
    facts: str
    gist: str
    parts: tuple[tuple[str, str], ...]
    boards: tuple[tuple[str, ...], ...] = ()
    image: bytes = b""
