"""The `view` command: a live page of runs, or the page frozen into one file."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from genrl_graph.cli.arguments import add_import_argument, run_imports
from genrl_graph.errors import ParamError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

LAST_PORT = 65535


def add_view_command(commands: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare `view`."""
    view = commands.add_parser(
        "view", help="show runs on a live page of this machine: picture, curves, rollouts, peers"
    )
    named = "run folder, sweep, folder of runs, or LABEL=PATTERN with a label for all runs that it names"
    view.add_argument("runs", nargs="+", metavar="RUN", help=named)
    view.add_argument("--port", type=_port, default=0, metavar="N", help="port on 127.0.0.1 (default: a free one)")
    view.add_argument("--open", action="store_true", help="open the page in the browser of this machine")
    view.add_argument("--export", type=Path, metavar="FILE.html", help="write the page with what it shows, and end")
    add_import_argument(view)
    view.set_defaults(command=_view)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= LAST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, a whole number from 1 to {LAST_PORT}")
    return int(text)


def _view(args: argparse.Namespace) -> int:
    from genrl_graph.view.watched import Watched

    run_imports(args)
    watched = Watched.of(args.runs)
    if args.export is not None:
        from genrl_graph.view.export import export

        export(watched, args.export)
        print(args.export)
        return 0
    try:
        from genrl_graph.view.server import serve
    except ModuleNotFoundError as error:
        what = f"view: {error.name} is not installed; run: pip install 'genrl-graph[view]'"
        raise ParamError(f"{what}, or write the page to a file with --export") from error
    serve(watched, port=args.port, imports=args.imports, ready=_opened if args.open else _told)
    return 0


def _told(address: str) -> None:
    print(f"{address}\nfor this machine only; Ctrl-C ends it", flush=True)


def _opened(address: str) -> None:
    import webbrowser

    _told(address)
    if not webbrowser.open(address):
        print("genrl-graph: no browser was found here; open the address in one", file=sys.stderr)
