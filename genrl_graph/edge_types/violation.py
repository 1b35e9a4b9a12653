"""What an edge type knows to be wrong in rows that came from another peer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from genrl_graph.edge_types.task import Task

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ReceiverContext:
    """What the receiver knows by itself.

    That is the protocol fingerprint, the tasks that the rows name, and the number of tokens by fingerprint of
    tokenizer.
    """

    protocol: str
    tasks: Mapping[str, Task]
    vocabularies: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule, the rows that break it, and the column whose value shows it."""

    rule: str
    column: str
    rows: Mask


def differing(given: Iterable[object], wanted: Iterable[object]) -> Mask:
    """Where two sequences of values differ."""
    return np.asarray([a != b for a, b in zip(given, wanted, strict=True)], dtype=bool)
