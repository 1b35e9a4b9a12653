"""The failures that a run tolerates: failed rows, and steps that are retried after a network or disk error."""

import time
from collections.abc import Callable

from genrl_graph.contract.node import Advantage, Generator, Node, Reward, Select, Source
from genrl_graph.errors import TooManyFailed
from genrl_graph.runners.loop.failures import FailedRows

REPEATABLE: tuple[type[Node], ...] = (Source, Generator, Select, Reward, Advantage)
"""Kinds whose steps can be retried because they change no carry. Exchanges have their own time limit."""

PERMANENT_ERRORS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)

LONGEST_WAIT_S = 60.0


class Budget:
    """Counts failed rows and retries of all peers of this process, and ends the run beyond its limits.

    `max_failed_share` limits the own rows of a peer that may fail at a node in a round, `max_failed_rows` those of all
    rounds; None is no limit. Before each retry the budget passes the reason to `tell` and waits `wait_s`
    seconds, doubled with each attempt up to `LONGEST_WAIT_S`.
    """

    def __init__(
        self,
        *,
        max_failed_share: float = 1.0,
        max_failed_rows: int | None = None,
        max_retries: int = 0,
        wait_s: float = 1.0,
        sleep: Callable[[float], None] = time.sleep,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.failed_rows = self.retries = 0
        self._max_failed_share, self._max_failed_rows = max_failed_share, max_failed_rows
        self._max_retries = max_retries
        self._wait_s, self._sleep, self._tell = wait_s, sleep, tell

    def spend_rows(self, rows: int, *, where: str) -> None:
        """Count rows that failed or could not be judged; raises `TooManyFailed` above `max_failed_rows`."""
        self.failed_rows += rows
        if rows and self._max_failed_rows is not None and self.failed_rows > self._max_failed_rows:
            limit = f"run.max_failed_rows is {self._max_failed_rows}"
            raise TooManyFailed(f"{where}: {self.failed_rows} rows of this run failed, but {limit}; see their reasons")

    def limit_share(self, failed: FailedRows, *, where: str) -> None:
        """Raise `TooManyFailed` if more than `max_failed_share` of a peer's own rows failed at a node in a round."""
        if failed.count > self._max_failed_share * failed.total:
            limit = f"run.max_failed_share is {self._max_failed_share:g}"
            advice = "mend that, or raise it and resume"
            raise TooManyFailed(f"{where}: {failed}, the first because: {failed.reason} ({limit}; {advice})")

    def metrics(self) -> dict[str, float]:
        """Return the counts so far, by metric name."""
        return {"budget/failed_rows": float(self.failed_rows), "budget/retries": float(self.retries)}

    def retry(self, node: Node, error: Exception, *, attempt: int) -> bool:
        """Return whether to retry the step that raised, after waiting; `attempt` counts its earlier retries."""
        if not isinstance(node, REPEATABLE) or not is_transient(error) or self.retries >= self._max_retries:
            return False
        self.retries += 1
        wait_s = min(self._wait_s * 2**attempt, LONGEST_WAIT_S)
        remaining = self._max_retries - self.retries
        self._tell(f"{error}; again in {wait_s:g} s ({remaining} more retries in this run)")
        self._sleep(wait_s)
        return True


def is_transient(error: BaseException | None) -> bool:
    """Return whether an error or a cause of it is of a network, server or disk, and none of `PERMANENT_ERRORS`."""
    while error is not None:
        if isinstance(error, OSError) and not isinstance(error, PERMANENT_ERRORS):
            return True
        error = error.__cause__
    return False
