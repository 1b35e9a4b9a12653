"""The five resources that a node may ask the runner for: `rng`, `tasks`, `log`, `round`, `peer`."""

from collections.abc import Mapping, Sequence
from typing import Any

RESOURCES = ("rng", "tasks", "log", "round", "peer")

OVER_BUDGET = "over_budget"
"""The fact that names, by author, the ids of the rows for which a step had no time."""


class Log:
    """Collects the reports of a node: metrics (for curves), facts (for the journal) and rows (for the store).

    `cut` are the ids of rows, by author, for which there is no time; None: the node measures the time of each author.
    `seconds` is the time that it spent on the rows of each other peer; it is reported, but not journaled. `excused` are
    the ids of own rows that only rows of other peers kept from being judged. `submissions` are for a coordinator.
    """

    def __init__(self, *, cut: Mapping[str, Sequence[str]] | None = None) -> None:
        self.metrics: dict[str, float] = {}
        self.facts: dict[str, Any] = {}
        self.tables: dict[str, dict[str, Sequence[Any]]] = {}
        self.cut = cut
        self.seconds: dict[str, float] = {}
        self.excused: set[str] = set()
        self.submissions: list[dict[str, Any]] = []

    def metric(self, name: str, value: float) -> None:
        """Report one number per round for the curves of this node; a later call replaces the number."""
        self.metrics[name] = float(value)

    def fact(self, name: str, value: Any) -> None:
        """Record a JSON value that does not follow from seed and inputs, or that resuming needs."""
        self.facts[name] = value

    def submit(self, call: str, **values: Any) -> None:
        """Submit JSON values to the coordinator of the run, if it has one; they are committed with the step."""
        self.submissions.append({"call": call, **values})

    def rows(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Store columns of one length in the group `<node>/<name>`."""
        self.tables[name] = dict(columns)
