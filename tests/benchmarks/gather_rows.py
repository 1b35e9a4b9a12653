"""Incompressible rows of a given size for `bench_gather`, and the exchange that gathers them."""

from typing import ClassVar

import numpy as np
import pyarrow as pa

from genrl_graph import Frame, Graph, R, Select, Source, Task, Tensor
from genrl_graph.arrow.cast import Column
from genrl_graph.dag.schedule import Schedule, compile_graph
from genrl_graph.nodes.exchange.gather import Gather

ROW_KB = 256


class Blobs(Frame):
    """Bytes that mean nothing."""

    columns: ClassVar[dict[str, Column]] = {"data": Tensor(pa.uint8())}


class Blob(Source, name="bench_blob"):
    """A source that the graph needs, and nobody runs."""

    def run(self) -> Blobs:
        """No bytes."""
        return Blobs.empty()

    def resolve(self, task_id: str) -> Task:
        """There are no tasks."""
        raise NotImplementedError


class Read(Select, name="bench_read"):
    """A reader of the gathered rows."""

    def run(self, rows: R) -> R:
        """The same."""
        return rows


def _schedule() -> tuple[Schedule, Gather]:
    graph = Graph("bench_gather")
    gathered = graph.add("gathered", Gather(min_peers=2, timeout_s=300.0), rows=graph.add("blobs", Blob()))
    graph.add("read", Read(), rows=gathered)
    schedule = compile_graph(graph)
    exchange = schedule.nodes["gathered"]
    assert isinstance(exchange, Gather)
    return schedule, exchange


SCHEDULE, EXCHANGE = _schedule()


def rows_of_size(kilobytes: int, *, seed: int) -> Blobs:
    """Rows of at most `ROW_KB` kB."""
    count = max(1, kilobytes // ROW_KB)
    data = np.random.default_rng(seed).integers(0, 256, (count, kilobytes * 1024 // count), dtype=np.uint8)
    return Blobs.from_columns({"data": data})
