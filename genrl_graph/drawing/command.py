"""What `genrl-graph draw` draws: a graph file, or the graph of a run with what the run measured."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from genrl_graph.drawing.measured import measured
from genrl_graph.drawing.picture import Picture, picture
from genrl_graph.drawing.text import text
from genrl_graph.errors import ParamError
from genrl_graph.graph import Graph
from genrl_graph.runfolder import GRAPH, read_graph
from genrl_graph.schedule import compile_graph


def to_draw(
    graph: Path | None, overrides: Sequence[str], *, run: Path | None, round: int | None
) -> tuple[Path, list[str]]:
    """The graph file and the overrides that were meant: without a file, the graph of the run.

    Raises `ParamError` where nothing is named, `StoreError` for a folder that holds no run.
    """
    if round is not None and run is None:
        raise ParamError(f"--round {round}: of which run? name it with --run")
    if graph is not None and not (run is not None and "=" in graph.name):
        return graph, list(overrides)
    if run is None:
        raise ParamError("draw: nothing to draw; name a graph file, or a run with --run")
    read_graph(run)  # tells what is missing where this is no run
    first = [] if graph is None else [str(graph)]  # an override that stands where GRAPH would
    return run / GRAPH, [*first, *overrides]


def picture_of(graph: Graph, *, params: bool, run: Path | None, round: int | None) -> Picture:
    """The picture of a graph that passed the check, with what a run measured; raises as `measured` does."""
    numbers = None if run is None else measured(run, graph.nodes, round=round)
    return picture(compile_graph(graph), params=params, run=numbers)


def shown(drawn: Picture, out: TextIO) -> str:
    """The picture as text for a stream: as wide as the terminal and in colour, else 80 characters wide."""
    if not out.isatty():
        return text(drawn)
    return text(drawn, width=max(shutil.get_terminal_size().columns, 40), colour="NO_COLOR" not in os.environ)
