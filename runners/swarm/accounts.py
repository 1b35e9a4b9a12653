"""Accounts of what each other peer cost: bytes, rows, seconds, refusals and lateness."""

import threading
from collections import Counter

MOST_NAMED = 64  # peers with metrics of their own in a run; the others are summed
MOST_IDLE = 32  # of them, those that had served no rows when they were named
ROUNDS_TO_NAME = 3  # in which a peer that serves no rows costs something before it is named
MOST_SEEN = 4096
OTHERS = "others"

UNITS = ("bytes", "rows", "seconds", "refused", "late")
"""Bytes received and rows admitted from a peer, seconds spent on them, rows and messages refused, times late."""


class Accounts:
    """Costs of each peer since the last `take`; thread-safe, because rows are also judged in the background."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._costs: dict[str, dict[str, float]] = {}
        self._named: set[str] = set()
        self._idle: Counter[str] = Counter()  # rounds with costs and without rows

    def add(self, peer: str, **costs: float) -> None:
        """Add to the account of a peer; the names are those of `UNITS`."""
        with self._lock:
            account = self._costs.setdefault(peer, dict.fromkeys(UNITS, 0.0))
            for unit, cost in costs.items():
                account[unit] += cost

    def take(self) -> dict[str, float]:
        """Return the costs since the last call as metrics `peer/<name>/<unit>`, and clear them.

        Names without end would be metrics without end: a peer is named once it has served rows, or has cost something
        in several rounds, while there are names left. A flood of invented peers takes none.
        """
        with self._lock:
            costs, self._costs = self._costs, {}
        shown: dict[str, dict[str, float]] = {}
        for name, account in sorted(costs.items(), key=lambda entry: (-entry[1]["rows"], entry[0])):
            place = shown.setdefault(name if self._is_named(name, account) else OTHERS, dict.fromkeys(UNITS, 0.0))
            for unit, cost in account.items():
                place[unit] += cost
        return {f"peer/{name}/{unit}": cost for name, place in shown.items() for unit, cost in place.items()}

    def _is_named(self, name: str, account: dict[str, float]) -> bool:
        if name in self._named:
            return True
        if not account["rows"]:
            if name in self._idle or len(self._idle) < MOST_SEEN:
                self._idle[name] += 1
            idle = sum(each in self._idle for each in self._named)
            if self._idle[name] < ROUNDS_TO_NAME or idle >= MOST_IDLE:
                return False
        if len(self._named) < MOST_NAMED:
            self._named.add(name)
        return name in self._named
