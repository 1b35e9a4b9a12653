"""The command line: `genrl-graph check | plan | draw | nodes | run | export`."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from genrl_graph import __version__
from genrl_graph.errors import GenrlGraphError, GraphError, ParamError

if TYPE_CHECKING:
    from genrl_graph.spec import Loaded


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0, the code of the error, or 128 + the signal that ended a run."""
    sys.exit(run_command(argv))


def run_command(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = _parse(argv)
    try:
        code: int = args.command(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except GenrlGraphError as error:
        for line in str(error).splitlines():
            print(f"genrl-graph: {line}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  # the interpreter flushes it once more at the end
        return 128 + signal.SIGPIPE
    return code


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; overrides may stand behind options, where argparse leaves them over."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if not hasattr(args, "overrides") or any(text.startswith("-") for text in rest):
        args = parser.parse_args(argv)
    else:
        args.overrides += rest
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="genrl-graph", description="Multi-agent, multi-stage RL where a game is a declared, typed graph."
    )
    parser.add_argument("--version", action="version", version=f"genrl-graph {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    check = commands.add_parser("check", help="find every problem of a graph, without loading a model")
    _graph_arguments(check)
    check.set_defaults(command=_check)

    plan = commands.add_parser("plan", help="print the schedule of a round: stages, steps, weights read")
    _graph_arguments(plan)
    plan.set_defaults(command=_plan)

    draw = commands.add_parser("draw", help="print the graph as a Mermaid flowchart")
    _graph_arguments(draw)
    draw.set_defaults(command=_draw)

    nodes = commands.add_parser("nodes", help="list the types that a graph may name, or show one")
    nodes.add_argument(
        "type",
        nargs="?",
        help="a type such as reward.math, or `run` for the options of a run; all types are listed without it",
    )
    _import_argument(nodes)
    nodes.set_defaults(command=_nodes)

    run = commands.add_parser("run", help="play a graph")
    _graph_arguments(run)
    run.add_argument("-o", "--out", type=Path, help="run folder (default: a new runs/<graph>-<n>)")
    run.add_argument("--dry", action="store_true", help="play one round with stand-ins for models and hubs, in seconds")
    run.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    run.set_defaults(command=_run)

    export = commands.add_parser("export", help="write a policy of a run as a Hugging Face folder")
    export.add_argument("folder", metavar="RUN", type=Path, help="run folder, such as runs/tiny")
    export.add_argument("policy", metavar="POLICY", help="name of the carry")
    export.add_argument(
        "out", metavar="OUT", type=Path, help="new folder: weights, tokenizer, chat template, model card"
    )
    export.add_argument("--round", type=int, help="the checkpoint after so many rounds (default: the last)")
    export.add_argument("--peer", help="whose policy (default: the first peer's)")
    export.add_argument("--adapter-only", action="store_true", help="write an adapter as peft reads it, not merged")
    export.add_argument("--push-to-hub", metavar="REPO", help="also upload to this repository of the Hugging Face hub")
    _import_argument(export)
    export.set_defaults(command=_export)
    return parser


def _graph_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("graph", type=Path, help="graph file (YAML)")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as run.rounds=3 nodes.answer.params.temperature=0.7"
    )
    _import_argument(parser)


def _import_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE|MODULE",
        help="Python file, or installed module, with nodes or reward functions that the graph names (it is run)",
    )


def _imports(args: argparse.Namespace) -> dict[str, str]:
    from genrl_graph import registry

    found = {}
    for name in args.imports:
        is_file = name.endswith(".py") or "/" in name
        found[name] = registry.import_file(Path(name)) if is_file else registry.import_module(name)
    return found


def _read(args: argparse.Namespace) -> "Loaded":
    from genrl_graph.spec import read

    for text in args.overrides:
        if "=" not in text and not text.startswith("~"):
            raise ParamError(f"{text!r}: an override is written key=value")
    return read(args.graph, args.overrides)


def _check(args: argparse.Namespace) -> int:
    from genrl_graph.plan import counted
    from genrl_graph.schedule import compile_graph

    _imports(args)
    loaded = _read(args)
    for line in loaded.lines(caret=True):
        print(line)
    graph = loaded.graph
    if loaded.problems:
        print(f"{args.graph}: {counted(len(loaded.problems), 'problem')}", file=sys.stderr)
        return GraphError.exit_code
    schedule = compile_graph(graph)
    parts = f"{counted(len(graph.nodes), 'node')}, {counted(len(graph.carries), 'carry', 'carries')}"
    print(f"{args.graph}: ok ({parts}, {counted(schedule.stages, 'stage')}, protocol {schedule.protocol[:12]})")
    return 0


def _plan(args: argparse.Namespace) -> int:
    from genrl_graph.plan import plan_text

    _imports(args)
    print(plan_text(_valid(args)), end="")
    return 0


def _draw(args: argparse.Namespace) -> int:
    from genrl_graph.draw import mermaid
    from genrl_graph.schedule import compile_graph

    _imports(args)
    print(mermaid(compile_graph(_valid(args).graph)), end="")
    return 0


def _nodes(args: argparse.Namespace) -> int:
    from genrl_graph.describe import describe_type, list_types

    _imports(args)
    print(describe_type(args.type) if args.type else list_types(), end="")
    return 0


def _run(args: argparse.Namespace) -> int:
    from genrl_graph.runners.dry import dry_play
    from genrl_graph.runners.play import play
    from genrl_graph.runners.signals import Interrupted

    imports = _imports(args)
    graph = _valid(args).graph
    try:
        (dry_play if args.dry else play)(graph, out=args.out, quiet=args.quiet, imports=imports)
    except Interrupted as interrupted:
        print(f"genrl-graph: {interrupted}", file=sys.stderr)
        return interrupted.exit_code
    return 0


def _export(args: argparse.Namespace) -> int:
    from genrl_graph.runners.export import export_policy

    _imports(args)
    out = export_policy(
        args.folder,
        args.policy,
        args.out,
        round=args.round,
        peer=args.peer,
        adapter_only=args.adapter_only,
        push_to_hub=args.push_to_hub,
    )
    print(out)
    return 0


def _valid(args: argparse.Namespace) -> "Loaded":
    loaded = _read(args)
    if loaded.problems:
        raise GraphError("\n".join(loaded.lines()))
    return loaded
