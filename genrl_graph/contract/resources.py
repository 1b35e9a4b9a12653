"""The five resources that a node may ask the runner for: `rng`, `tasks`, `log`, `round`, `peer`."""

from collections.abc import Mapping, Sequence
from typing import Any

RESOURCES = ("rng", "tasks", "log", "round", "peer")


class Log:
    """Collects the reports of a node: metrics (for curves), facts (for the journal) and rows (for the store)."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.facts: dict[str, Any] = {}
        self.tables: dict[str, dict[str, Sequence[Any]]] = {}

    def metric(self, name: str, value: float) -> None:
        """Report one number per round for the curves of this node; a later call replaces the number."""
        self.metrics[name] = float(value)

    def fact(self, name: str, value: Any) -> None:
        """Record a JSON value that does not follow from seed and inputs, or that resuming needs."""
        self.facts[name] = value

    def rows(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Store columns of one length in the group `<node>/<name>`."""
        self.tables[name] = dict(columns)
