"""Accounts of what each other peer cost: bytes, rows, seconds, refusals and lateness."""

import threading

MOST_NAMED = 64  # peers with metrics of their own in a run; the others are summed
OTHERS = "others"

UNITS = ("bytes", "rows", "seconds", "refused", "late")
"""Bytes received and rows admitted from a peer, seconds spent on them, rows and messages refused, times late."""


class Accounts:
    """Costs of each peer since the last `take`; thread-safe, because rows are also judged in the background."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._costs: dict[str, dict[str, float]] = {}
        self._named: set[str] = set()

    def add(self, peer: str, **costs: float) -> None:
        """Add to the account of a peer; the names are those of `UNITS`."""
        with self._lock:
            account = self._costs.setdefault(peer, dict.fromkeys(UNITS, 0.0))
            for unit, cost in costs.items():
                account[unit] += cost

    def take(self) -> dict[str, float]:
        """Return the costs as metrics `peer/<name>/<unit>`, and clear them.

        Names without end would be metrics without end: the first peers that serve rows have their own.
        """
        with self._lock:
            costs, self._costs = self._costs, {}
        shown: dict[str, dict[str, float]] = {}
        for name, account in sorted(costs.items(), key=lambda entry: (-entry[1]["rows"], entry[0])):
            if len(self._named) < MOST_NAMED:
                self._named.add(name)
            place = shown.setdefault(name if name in self._named else OTHERS, dict.fromkeys(UNITS, 0.0))
            for unit, cost in account.items():
                place[unit] += cost
        return {f"peer/{name}/{unit}": cost for name, place in shown.items() for unit, cost in place.items()}
