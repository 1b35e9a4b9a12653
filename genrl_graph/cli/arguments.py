"""Command line arguments shared by several commands: the graph, its overrides and imports."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from genrl_graph.errors import GraphError, ParamError

if TYPE_CHECKING:
    from genrl_graph.graph_file.read import Loaded


def add_graph_arguments(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Add the graph file, its overrides and `--import`."""
    graph = "graph file (YAML), or the name of a shipped graph, such as tiny"
    parser.add_argument("graph", type=Path, nargs="?" if optional else None, help=graph)
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as run.rounds=3 nodes.answer.params.temperature=0.7"
    )
    add_import_argument(parser)


def add_import_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--import`."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE|MODULE",
        help="Python file, or installed module, with nodes or reward functions that the graph names (it is run)",
    )


def run_imports(args: argparse.Namespace) -> dict[str, str]:
    """Run the files and modules that `--import` names; return the hash or version of each."""
    from genrl_graph.contract.registry import import_all

    return import_all(args.imports)


def read_graph_argument(args: argparse.Namespace) -> "Loaded":
    """Read the graph that the arguments name, with its problems."""
    from genrl_graph.graph_file.read import read
    from genrl_graph.store.run_folder import GRAPH, ROLLOUTS

    for text in args.overrides:
        if "=" not in text and not text.startswith("~"):
            raise ParamError(f"{text!r}: an override is written key=value")
    loaded = read(args.graph, args.overrides)
    # Nobody edits the graph of a run folder: its old names need no note.
    of_a_run = args.graph.name == GRAPH and (args.graph.parent / ROLLOUTS).is_dir()
    for note in loaded.notes() if not (of_a_run or loaded.problems) else ():
        print(f"genrl-graph: {note}", file=sys.stderr)
    return loaded


def valid_graph(args: argparse.Namespace) -> "Loaded":
    """Read the graph that the arguments name; raise `GraphError` with all its problems."""
    loaded = read_graph_argument(args)
    if loaded.problems:
        raise GraphError("\n".join(loaded.lines()))
    return loaded
