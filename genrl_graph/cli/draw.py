"""The `draw` command: draw a graph file, or the graph of a run with its measurements."""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from genrl_graph.cli.arguments import add_graph_arguments, run_imports, valid_graph
from genrl_graph.dag.graph import Graph
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.drawing.measured import measured
from genrl_graph.drawing.picture import Picture, picture
from genrl_graph.drawing.text import text
from genrl_graph.errors import ParamError
from genrl_graph.store.durable import write_out
from genrl_graph.store.run_folder import GRAPH, read_graph
from genrl_graph.store.run_store import refuse_unsafe

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_draw_command(commands: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare `draw`."""
    draw = commands.add_parser("draw", help="show the graph: text, Mermaid, DOT, SVG, PNG or a page to explore")
    add_graph_arguments(draw, optional=True)
    draw.add_argument("-o", "--out", type=Path, metavar="FILE", help="write a file; its ending names the format")
    draw.add_argument("--format", help="text (the default without -o), mermaid, dot, svg, png or html")
    draw.add_argument("--params", action="store_true", help="show the params that differ from their defaults")
    draw.add_argument("--run", type=Path, metavar="RUN", help="show what this run measured; GRAPH may then be left out")
    draw.add_argument("--round", type=int, metavar="K", help="of this round of the run (default: the mean over all)")
    draw.set_defaults(command=_draw)


def graph_to_draw(
    graph: Path | None, overrides: Sequence[str], *, run: Path | None, round: int | None
) -> tuple[Path, list[str]]:
    """Return the graph file and overrides to draw; without a graph file, those of the run.

    Raises `ParamError` if neither a graph nor a run is named, `StoreError` for a folder that holds no run.
    """
    if round is not None and run is None:
        raise ParamError(f"--round {round}: of which run? name it with --run")
    if graph is not None and not (run is not None and "=" in graph.name):
        return graph, list(overrides)
    if run is None:
        raise ParamError("draw: nothing to draw; name a graph file, or a run with --run")
    read_graph(run)  # raises `StoreError`, which names what the folder lacks
    first = [] if graph is None else [str(graph)]  # argparse took the first override for GRAPH
    return run / GRAPH, [*first, *overrides]


def picture_of(graph: Graph, *, params: bool, run: Path | None, round: int | None) -> Picture:
    """Return the picture of a valid graph, with a run's measurements if named; raise as `measured` does."""
    numbers = None if run is None else measured(run, graph.nodes, round=round)
    return picture(compile_graph(graph), params=params, run=numbers)


def shown(drawn: Picture, out: TextIO) -> str:
    """Return the picture as text: coloured and as wide as the terminal, or plain and 80 wide if not a terminal."""
    if not out.isatty():
        return text(drawn)
    return text(drawn, width=max(shutil.get_terminal_size().columns, 40), colour="NO_COLOR" not in os.environ)


def _draw(args: argparse.Namespace) -> int:
    from genrl_graph.drawing.render import format_of, render

    run_imports(args)
    format = format_of(args.out, args.format)
    args.graph, args.overrides = graph_to_draw(args.graph, args.overrides, run=args.run, round=args.round)
    if args.run is not None:
        refuse_unsafe(args.run)
    drawn = picture_of(valid_graph(args).graph, params=args.params, run=args.run, round=args.round)
    if args.out is not None:
        write_out(args.out, render(drawn, format))
    elif format == "text":
        sys.stdout.write(shown(drawn, sys.stdout))
    else:
        sys.stdout.buffer.write(render(drawn, format))
    return 0
