"""Commands about many runs: sweep and compare."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from genrl_graph.cli.arguments import add_graph_arguments, run_imports
from genrl_graph.errors import CellsFailed, ParamError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from genrl_graph.runners.sweep.plan import SweepPlan

EXPECTATION_FAILED = 1


def add_sweep_commands(commands: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare `sweep` and `compare`."""
    sweep = commands.add_parser("sweep", help="play a graph with many settings and seeds, as many side by side as fit")
    add_graph_arguments(sweep)
    sweep.add_argument(
        "--seeds", metavar="A:B", help="seeds from A up to but without B, or 1,3,7 (default: the graph's)"
    )
    sweep.add_argument(
        "--zip",
        dest="zips",
        action="append",
        default=[],
        metavar="KEY,KEY",
        help="keys that change together, not crossed",
    )
    sweep.add_argument("-o", "--out", type=Path, help="folder of the sweep (default: a new sweeps/<graph>-<n>)")
    sweep.add_argument(
        "--jobs", type=int, metavar="N", help="cells side by side (default: as many as cores and memory allow)"
    )
    sweep.add_argument(
        "--resume", action="store_true", help="go on with the sweep if the folder holds it, else start it"
    )
    sweep.add_argument(
        "--dry", action="store_true", help="say which cells there are, how long they take and how much disk"
    )
    sweep.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    search = sweep.add_argument_group("search (needs the extra `sweep`)")
    search.add_argument(
        "--goal", metavar="METRIC", help="what a search wants most of: METRIC, max:METRIC or min:METRIC"
    )
    search.add_argument(
        "--early-stop",
        type=int,
        nargs="?",
        const=3,
        metavar="N",
        help="stop settings on the way: after each rung one in N goes on (default: 3)",
    )
    search.add_argument("--trials", type=int, metavar="N", help="draw N settings from key=interval(low,high)")
    sweep.set_defaults(command=_sweep)

    compare = commands.add_parser(
        "compare", help="compare runs and sweeps: means and intervals over seeds, differences"
    )
    compare.add_argument("what", nargs="+", metavar="RUN|SWEEP", help="run, sweep, folder of runs, or LABEL=RUN")
    compare.add_argument(
        "-o", "--out", type=Path, help="folder for table.md, summary.parquet, curves.png and curves.svg"
    )
    compare.add_argument(
        "--at",
        default="rounds",
        metavar="UNIT",
        help="what is equal: rounds (default), sampled_tokens, trained_tokens or seconds",
    )
    compare.add_argument(
        "--metric",
        dest="metrics",
        action="append",
        default=[],
        metavar="NAME",
        help="metric or pattern, such as eval/*",
    )
    compare.add_argument("--smooth", type=int, metavar="ROUNDS", help="rounds that training metrics are averaged over")
    compare.add_argument("--baseline", metavar="SETTING", help="the setting that the others are compared with")
    compare.add_argument(
        "--expect",
        action="append",
        default=[],
        metavar="TEXT",
        help="such as 'eval/reward(a) > eval/reward(b)'; exit code 1 where a 95 %% interval does not say so",
    )
    compare.set_defaults(command=_compare)


def _sweep(args: argparse.Namespace) -> int:
    from genrl_graph.runners.loop.signals import Interrupted
    from genrl_graph.runners.sweep.plan import SweepOptions, plan_sweep
    from genrl_graph.runners.sweep.play import play_sweep

    if args.dry and args.resume:
        raise ParamError("--dry: plays nothing, so there is nothing to resume; leave out --dry or --resume")
    options = SweepOptions(
        graph=args.graph,
        overrides=args.overrides,
        zips=args.zips,
        seeds=args.seeds,
        goal=args.goal,
        keep=args.early_stop,
        trials=args.trials,
        imports=run_imports(args),
    )
    plan = plan_sweep(options)
    if args.dry:
        return _dry(plan, args)
    try:
        sweep = play_sweep(plan, out=args.out, jobs=args.jobs, resume=args.resume, quiet=args.quiet)
    except Interrupted as interrupted:
        print(f"genrl-graph: {interrupted}", file=sys.stderr)
        return interrupted.exit_code
    if sweep.failed:
        names = ", ".join(f"{end.cell} ({end.exit_code})" for end in sweep.failed[:5])
        raise CellsFailed(
            f"{sweep.folder}: {len(sweep.failed)} of {len(sweep.record.cells)} cells failed: {names}; see logs/"
        )
    return 0


def _dry(plan: "SweepPlan", args: argparse.Namespace) -> int:
    from genrl_graph.runners.sweep.dry import dry_text

    room = plan.capacity(args.jobs, lambda text: print(text, file=sys.stderr, flush=True), estimated=True)
    print(dry_text(plan, room), end="")
    return 0


def _compare(args: argparse.Namespace) -> int:
    from genrl_graph.comparison.compare import compare
    from genrl_graph.comparison.report import table_text

    comparison = compare(
        args.what,
        at=args.at,
        metrics=args.metrics,
        smooth=args.smooth,
        baseline=args.baseline,
        expect=args.expect,
        out=args.out,
    )
    print(table_text(comparison), end="")
    return 0 if comparison.met else EXPECTATION_FAILED
