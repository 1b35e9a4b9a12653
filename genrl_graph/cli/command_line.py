"""The command line of `genrl-graph`: check, plan, compare and play graphs, and inspect runs."""

import argparse
import errno
import gc
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from genrl_graph.cli.chain import add_chain_command
from genrl_graph.cli.docs import add_docs_command
from genrl_graph.cli.graph import add_graph_commands
from genrl_graph.cli.inspection import add_inspection_commands
from genrl_graph.cli.launch import add_launch_command
from genrl_graph.cli.run import add_export_command, add_run_commands
from genrl_graph.cli.store import add_store_command
from genrl_graph.cli.swarm import add_swarm_commands, spread_addresses
from genrl_graph.cli.sweep import add_sweep_commands
from genrl_graph.cli.view import add_view_command
from genrl_graph.errors import GenrlGraphError
from genrl_graph.messages import escaped
from genrl_graph.runners.tracking.memory import settle_memory
from genrl_graph.store.durable import failed

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE})
"""Reasons for which the system refuses any file operation, be it the right one."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0, the code of the error, or 128 + the signal that ended a run."""
    settle_memory()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # set by `genrl_graph/__init__.py`, for the imports
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code = run_command(argv)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is left to tidy up
    gc.freeze()  # skip a last collection over a million objects of torch and transformers, which takes 1.5 s
    sys.exit(code)


def run_command(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        args = _parse(argv)
        code: int = args.command(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except GenrlGraphError as error:
        for line in str(error).splitlines():
            print(f"genrl-graph: {escaped(line)}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader, such as `head`, closed the pipe
        _drop_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        _drop_output()
        refused = failed(Path(error.filename or "standard output, or a temporary file"), "write", error)
        print(f"genrl-graph: {refused}", file=sys.stderr)
        return refused.exit_code
    return code


def _drop_output() -> None:
    """Give the interpreter, which flushes standard output once more at the end, one that takes everything."""
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments, including overrides after options, which argparse alone would not assign."""
    parser, argv = command_parser(), spread_addresses(sys.argv[1:] if argv is None else argv)
    args, rest = parser.parse_known_args(argv)
    if not hasattr(args, "overrides") or any(text.startswith("-") for text in rest):
        args = parser.parse_args(argv)
    else:
        args.overrides += rest
    return args


def command_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands and their options."""
    parser = argparse.ArgumentParser(
        prog="genrl-graph", description="Multi-agent, multi-stage RL where a game is a declared, typed graph."
    )
    parser.add_argument("--version", action=_Version, help="print the versions of this package and its dependencies")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_graph_commands(commands)
    add_run_commands(commands)
    add_launch_command(commands)
    add_sweep_commands(commands)
    add_inspection_commands(commands)
    add_view_command(commands)
    add_swarm_commands(commands)
    add_export_command(commands)
    add_store_command(commands)
    add_chain_command(commands)
    add_docs_command(commands)
    return parser


class _Version(argparse.Action):
    """The `--version` option: prints the versions and exits. Versions are looked up only on request."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *arguments: object) -> NoReturn:
        from genrl_graph.version import version_line

        print(version_line())
        parser.exit()
