"""Violations that an edge type finds in rows from another peer, and the context for the checks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from genrl_graph.edge_types.task import Task

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ReceiverContext:
    """Facts that the receiver knows without trusting the sender.

    They are the protocol fingerprint, the tasks of the rows by id, and vocabulary sizes by tokenizer fingerprint.
    """

    protocol: str
    tasks: Mapping[str, Task]
    vocabularies: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule, a mask of the rows that break it, and the column whose value breaks it."""

    rule: str
    column: str
    rows: Mask


def differing(values: Iterable[object], expected: Iterable[object]) -> Mask:
    """Return a mask of the positions at which two equally long sequences differ."""
    return np.asarray([a != b for a, b in zip(values, expected, strict=True)], dtype=bool)
