"""What may go wrong in a run before it ends: rows that fail (data), and steps tried again (the world outside)."""

import time
from collections.abc import Callable

from genrl_graph.contract.node import Advantage, Generator, Node, Reward, Select, Source
from genrl_graph.errors import NodeFailed

REPEATABLE: tuple[type[Node], ...] = (Source, Generator, Select, Reward, Advantage)
"""Kinds whose steps can be run twice: they change nothing. An exchange has a patience of its own."""

LASTING = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)

LONGEST_WAIT_S = 60.0


class Budget:
    """Counts both kinds apart, for all peers of this process.

    `max_failed_rows` None is no limit. Before a step is tried again, `tell` hears why, and the run waits `wait_s`
    seconds, doubled each time.
    """

    def __init__(
        self,
        *,
        max_failed_rows: int | None = None,
        max_retries: int = 0,
        wait_s: float = 1.0,
        sleep: Callable[[float], None] = time.sleep,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.failed_rows = self.retries = 0
        self._max_failed_rows, self._max_retries = max_failed_rows, max_retries
        self._wait_s, self._sleep, self._tell = wait_s, sleep, tell

    def spend_rows(self, rows: int, *, where: str) -> None:
        """Count rows that failed or could not be judged; raises `NodeFailed` where the run had too many."""
        self.failed_rows += rows
        if rows and self._max_failed_rows is not None and self.failed_rows > self._max_failed_rows:
            limit = f"run.max_failed_rows is {self._max_failed_rows}"
            raise NodeFailed(f"{where}: {self.failed_rows} rows of this run failed, but {limit}; see their reasons")

    def metrics(self) -> dict[str, float]:
        """What was spent so far, by name of metric."""
        return {"budget/failed_rows": float(self.failed_rows), "budget/retries": float(self.retries)}

    def retry(self, node: Node, error: Exception, *, attempt: int) -> bool:
        """Whether the step that raised is to be tried again; then waits."""
        if not isinstance(node, REPEATABLE) or not of_the_world(error) or self.retries >= self._max_retries:
            return False
        self.retries += 1
        wait_s = min(self._wait_s * 2**attempt, LONGEST_WAIT_S)
        left = self._max_retries - self.retries
        self._tell(f"{error}; again in {wait_s:g} s ({left} more retries in this run)")
        self._sleep(wait_s)
        return True


def of_the_world(error: BaseException | None) -> bool:
    """Whether a network, a server or a disk failed in a way that passes; what is missing or forbidden stays so."""
    while error is not None:
        if isinstance(error, OSError) and not isinstance(error, LASTING):
            return True
        error = error.__cause__
    return False
