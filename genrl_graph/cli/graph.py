"""Commands about a graph: check, plan, draw, diff, graphs, schema, nodes."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from genrl_graph.cli.arguments import (
    add_graph_arguments,
    add_import_argument,
    read_graph_argument,
    run_imports,
    valid_graph,
)
from genrl_graph.cli.draw import add_draw_command
from genrl_graph.cli.runner_options import add_role_argument, with_roles
from genrl_graph.errors import GraphError, ParamError
from genrl_graph.store.durable import write_out

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_graph_commands(commands: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the commands about a graph."""
    check = commands.add_parser("check", help="find every problem of a graph, without loading a model")
    add_graph_arguments(check)
    check.set_defaults(command=_check)

    plan = commands.add_parser("plan", help="print the schedule of a round: stages, steps, weights read")
    add_graph_arguments(plan)
    add_role_argument(plan)
    plan.add_argument("--estimate", action="store_true", help="also estimate the tokens, time and memory of the run")
    plan.add_argument("--run", type=Path, metavar="RUN", help="estimate by the speeds and lengths of this stored run")
    plan.add_argument("--compare", type=Path, metavar="RUN", help="compare the estimate with what this run took")
    plan.add_argument("--completion-tokens", type=float, metavar="N", help="mean length of completions to assume")
    plan.add_argument("--calibrate", action="store_true", help="measure this machine anew (about a minute)")
    plan.add_argument("--format", choices=("text", "json"), default="text", help="of an estimate")
    plan.set_defaults(command=_plan)

    add_draw_command(commands)

    diff = commands.add_parser("diff", help="say what two graphs differ in and what follows; exit code 1 if they do")
    diff.add_argument("old", metavar="OLD", type=Path, help="graph file (YAML), shipped graph or run folder")
    diff.add_argument("new", metavar="NEW", type=Path, help="graph file (YAML), shipped graph or run folder")
    diff.add_argument("--format", choices=["text", "json"], default="text", help="text (default) or json")
    add_import_argument(diff)
    diff.set_defaults(command=_diff)

    graphs = commands.add_parser("graphs", help="list the names of the shipped graphs")
    graphs.set_defaults(command=_graphs)

    schema = commands.add_parser("schema", help="print the JSON Schema of graph files, for editors")
    schema.add_argument("-o", "--out", metavar="FILE", type=Path, help="write it to this file")
    add_import_argument(schema)
    schema.set_defaults(command=_schema)

    nodes = commands.add_parser("nodes", help="list the types that a graph may name, or show one")
    nodes.add_argument(
        "type",
        nargs="?",
        help="a type such as reward.math, or `run` for the options of a run; all types are listed without it",
    )
    add_import_argument(nodes)
    nodes.set_defaults(command=_nodes)


def _check(args: argparse.Namespace) -> int:
    from genrl_graph.dag.schedule import compile_graph
    from genrl_graph.messages import counted, escaped

    run_imports(args)
    loaded = read_graph_argument(args).with_data()
    for line in loaded.lines(caret=True):
        print(escaped(line))
    graph = loaded.graph
    if loaded.problems:
        print(f"{args.graph}: {counted(len(loaded.problems), 'problem')}", file=sys.stderr)
        return GraphError.exit_code
    schedule = compile_graph(graph)
    parts = f"{counted(len(graph.nodes), 'node')}, {counted(len(graph.carries), 'carry', 'carries')}"
    print(f"{args.graph}: ok ({parts}, {counted(schedule.stages, 'stage')}, protocol {schedule.protocol[:12]})")
    return 0


def _plan(args: argparse.Namespace) -> int:
    from genrl_graph.dag.plan import schedule_text
    from genrl_graph.dag.schedule import compile_graph

    run_imports(args)
    if args.estimate or args.run or args.compare or args.calibrate or args.completion_tokens is not None:
        return _estimate(args)
    if args.format != "text":
        raise ParamError(f"--format {args.format}: is for an estimate; add --estimate")
    with_roles(args)
    graph = valid_graph(args).graph
    print(schedule_text(compile_graph(graph).played_by(graph.run.roles)), end="")
    return 0


def _estimate(args: argparse.Namespace) -> int:
    from genrl_graph.runners.estimate.estimate import report

    shown = report(
        valid_graph(args).graph,
        run=args.run,
        compare=args.compare,
        completion_tokens=args.completion_tokens,
        recalibrate=args.calibrate,
        as_json=args.format == "json",
        tell=lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(shown, end="")
    return 0


def _graphs(args: argparse.Namespace) -> int:
    from genrl_graph.graph_file.shipped import list_graphs

    print(list_graphs(), end="")
    return 0


def _nodes(args: argparse.Namespace) -> int:
    from genrl_graph.cli.types import describe_type, list_types

    run_imports(args)
    print(describe_type(args.type) if args.type else list_types(), end="")
    return 0


def _diff(args: argparse.Namespace) -> int:
    from genrl_graph.diff.difference import compare_files

    run_imports(args)
    difference = compare_files(args.old, args.new)
    if args.format == "json":
        print(json.dumps(difference.to_json(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print("".join(f"{line}\n" for line in difference.lines()), end="")
    return 1 if difference else 0


def _schema(args: argparse.Namespace) -> int:
    from genrl_graph.graph_file.json_schema import schema_text

    run_imports(args)
    if args.out is None:
        print(schema_text(), end="")
        return 0
    write_out(args.out, schema_text().encode())
    return 0
