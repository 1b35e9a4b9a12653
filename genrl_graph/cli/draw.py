"""The `draw` command: draw a graph file, or the graph of a run with its measurements."""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from genrl_graph.cli.arguments import add_graph_arguments, read_graph_argument, run_imports
from genrl_graph.drawing.measured import measured
from genrl_graph.drawing.picture import Look, Picture
from genrl_graph.drawing.text import text
from genrl_graph.errors import GraphError, ParamError
from genrl_graph.store.durable import write_out
from genrl_graph.store.peer_folders import graph_folder, refuse_unsafe
from genrl_graph.store.run_folder import GRAPH

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_draw_command(commands: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare `draw`."""
    draw = commands.add_parser("draw", help="show the graph: text, Mermaid, DOT, SVG, PNG, PDF or a page to explore")
    add_graph_arguments(draw, optional=True)
    draw.add_argument("-o", "--out", type=Path, metavar="FILE", help="write a file; its ending names the format")
    draw.add_argument("--format", help="text (the default without -o), mermaid, dot, svg, png, pdf or html")
    draw.add_argument("--params", action="store_true", help="show the params that differ from their defaults")
    draw.add_argument("--run", type=Path, metavar="RUN", help="show what this run measured; GRAPH may then be left out")
    draw.add_argument("--round", type=int, metavar="K", help="of this round of the run (default: the mean over all)")
    draw.add_argument("--no-title", dest="title", action="store_false", help="leave out the title")
    draw.add_argument("--no-legend", dest="legend", action="store_false", help="leave out the legend")
    draw.add_argument("--transparent", action="store_true", help="draw on no ground (svg, png, pdf, dot)")
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
    first = [] if graph is None else [str(graph)]  # argparse took the first override for GRAPH
    return graph_folder(run) / GRAPH, [*first, *overrides]


def shown(drawn: Picture, out: TextIO) -> str:
    """Return the picture as text: coloured and as wide as the terminal, or plain and 80 wide if not a terminal."""
    if not out.isatty():
        return text(drawn)
    return text(drawn, width=max(shutil.get_terminal_size().columns, 40), colour="NO_COLOR" not in os.environ)


def _draw(args: argparse.Namespace) -> int:
    from genrl_graph.drawing.render import format_of, picture_of, render

    run_imports(args)
    format = format_of(args.out, args.format)
    args.graph, args.overrides = graph_to_draw(args.graph, args.overrides, run=args.run, round=args.round)
    if args.run is not None:
        refuse_unsafe(args.run)
    loaded = read_graph_argument(args)
    look = Look(title=args.title, legend=args.legend, transparent=args.transparent)
    numbers = None if args.run is None else measured(args.run, loaded.graph.nodes, round=args.round)
    drawn = picture_of(loaded.graph, loaded.problems, params=args.params, run=numbers, look=look)
    for line in loaded.lines() if format != "text" or args.out is not None else ():
        print(f"genrl-graph: {line}", file=sys.stderr)
    if args.out is not None:
        write_out(args.out, render(drawn, format))
        if loaded.problems:
            print(f"genrl-graph: {args.out}: drawn all the same, what is wrong in red", file=sys.stderr)
    elif format == "text":
        sys.stdout.write(shown(drawn, sys.stdout))
    else:
        sys.stdout.buffer.write(render(drawn, format))
    return GraphError.exit_code if loaded.problems else 0
