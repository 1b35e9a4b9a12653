"""The five resources that a node may ask the runner for: `rng`, `tasks`, `log`, `round`, `peer`."""

from collections.abc import Mapping, Sequence
from typing import Any

RESOURCES = ("rng", "tasks", "log", "round", "peer")


class Log:
    """Collects what a node reports: metrics (for curves), facts (for the journal) and rows (for the store)."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.facts: dict[str, Any] = {}
        self.tables: dict[str, dict[str, Sequence[Any]]] = {}

    def metric(self, name: str, value: float) -> None:
        """A number for the curves of this node, one a round."""
        self.metrics[name] = float(value)

    def fact(self, name: str, value: Any) -> None:
        """Something JSON that is not a function of seed and inputs, or that resume must find again."""
        self.facts[name] = value

    def rows(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Equally long columns, stored in the group `<node>/<name>`."""
        self.tables[name] = dict(columns)
