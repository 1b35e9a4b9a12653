"""Pools of worker processes, one per function: shared by all nodes, reused across rounds, ended with this process."""

import json
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import lru_cache

from genrl_graph.nodes.worker.worker import Worker

MAX_POOLS = 32


class Pool:
    """A pool of `size` workers for one function; a free worker takes the next call; each starts at its first call."""

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float,
        size: int = 1,
        memory_mb: int | None = None,
        factory: Mapping[str, object] | None = None,
    ) -> None:
        self.workers = [Worker(target, timeout_s=timeout_s, memory_mb=memory_mb, factory=factory) for _ in range(size)]

    def start(self) -> None:
        """Start one worker; raises WorkerError if it cannot load its function."""
        self.workers[0].start()

    def map_rows(self, rows: Sequence[Mapping[str, object]], *, until: float = math.inf) -> list[object]:
        """Call the function with each row as keywords; return the values in order, `Failure` for a call without one.

        Rows that are not done at the monotonic time `until` get `OutOfTime`; the start of the pool does not count.
        Raises WorkerError only if a process cannot start.
        """
        if until < math.inf:
            began = time.monotonic()
            self.start()
            until += time.monotonic() - began
        if len(self.workers) == 1 or len(rows) == 1:
            return self.workers[0].map_rows(rows, until=until)
        todo = deque(enumerate(rows))
        values: list[object] = [None] * len(rows)

        def serve(worker: Worker) -> None:
            while todo:
                try:
                    at, row = todo.popleft()
                except IndexError:  # another thread took the last one
                    return
                (values[at],) = worker.map_rows([row], until=until)

        with ThreadPoolExecutor(len(self.workers)) as threads:
            serving = [threads.submit(serve, worker) for worker in self.workers[: len(rows)]]
            try:
                for one in wait(serving, return_when=FIRST_EXCEPTION).done:
                    one.result()
            except BaseException:  # a process cannot start, or Ctrl-C: stop the other threads too
                todo.clear()
                for worker in self.workers:
                    worker.interrupt()
                raise
        return values


@lru_cache(maxsize=MAX_POOLS)
def shared_pool(
    target: str,
    timeout_s: float,
    *,
    size: int = 1,
    memory_mb: int | None = None,
    factory: str | None = None,
    changed: int = 0,
) -> Pool:
    """Return the cached pool of a target, because imports take seconds; the least recently used pool ends first.

    `factory` is the JSON of the factory's arguments. `changed` only distinguishes versions of the target's file.
    """
    del changed
    arguments = None if factory is None else json.loads(factory)
    return Pool(target, timeout_s=timeout_s, size=size, memory_mb=memory_mb, factory=arguments)
