"""Commands that inspect runs: `runs`, `rollouts`, `lineage`, `rows`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from genrl_graph.cli.arguments import add_import_argument, run_imports
from genrl_graph.errors import ParamError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

TEXTS, TILES = 4, 64
"""Rollouts that are printed, and images of a sheet, unless `--limit` is given."""


def add_inspection_commands(commands: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the commands that inspect runs."""
    runs = commands.add_parser("runs", help="list the runs of a folder, or show one: state, rewards, evaluations")
    runs.add_argument("folder", nargs="?", type=Path, default=Path("runs"), help="folder of runs, or a run folder")
    runs.add_argument("--smooth", type=_count, metavar="ROUNDS", help="rounds that curves are averaged over")
    runs.add_argument("--png", type=Path, metavar="FILE", help="also write the curves as a picture (needs matplotlib)")
    runs.set_defaults(command=_runs)

    rollouts = commands.add_parser(
        "rollouts", help="print rollouts: prompt, completion, rewards, parents; of games the moves"
    )
    rollouts.add_argument("run", metavar="RUN", type=Path, help="run folder, such as runs/tiny")
    rollouts.add_argument("--round", type=int, help="only of this round (default: the last one)")
    rollouts.add_argument("--node", help="only of this generator or exchange, such as critique or eval/answer")
    rollouts.add_argument("--task", metavar="ID", help="only of this task, of all rounds unless --round is given")
    rollouts.add_argument("--peer", help="only of this peer")
    order = rollouts.add_mutually_exclusive_group()
    order.add_argument("--top", type=_count, metavar="N", help="the N with the highest reward")
    order.add_argument("--worst", type=_count, metavar="N", help="the N with the lowest reward")
    order.add_argument("--failed", action="store_true", help="those that failed or could not be judged, of all rounds")
    rollouts.add_argument(
        "--limit", type=_count, metavar="N", help=f"how many at most (default: {TEXTS}, with --sheet {TILES})"
    )
    rollouts.add_argument(
        "--sheet", type=Path, metavar="FILE", help="write their images as one picture (PNG) instead of text"
    )
    rollouts.add_argument(
        "--tree", action="store_true", help="print the tree of each task: which rollouts each one led to"
    )
    rollouts.add_argument("--full", action="store_true", help="do not cut long messages")
    rollouts.set_defaults(command=_rollouts)

    lineage = commands.add_parser("lineage", help="show where a rollout came from and what became of it")
    lineage.add_argument("run", metavar="RUN", type=Path, help="run folder, such as runs/tiny")
    lineage.add_argument("id", metavar="ROLLOUT_ID", help="id of a rollout, or the start of it")
    lineage.set_defaults(command=_lineage)

    rows = commands.add_parser("rows", help="write the rows of a node as Parquet, JSON lines or CSV")
    rows.add_argument("run", metavar="RUN", type=Path, help="run folder, such as runs/tiny")
    rows.add_argument("node", metavar="NODE", help="node, such as credit_answer, halves.low or eval/answer")
    rows.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        help="new FILE.parquet, FILE.jsonl, FILE.csv, or a folder of Parquet files",
    )
    rows.add_argument("--rounds", metavar="A:B", help="rounds from A up to but without B; also A:, :B and A")
    rows.add_argument("--peer", help="only what this peer holds")
    add_import_argument(rows)
    rows.set_defaults(command=_rows)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _runs(args: argparse.Namespace) -> int:
    from genrl_graph.inspection.listing import print_runs
    from genrl_graph.inspection.overview import print_run
    from genrl_graph.inspection.text import new_console
    from genrl_graph.records.stored_run import open_run
    from genrl_graph.store.peer_folders import run_folders

    if run_folders(args.folder):
        print_run(open_run(args.folder), new_console(), window=args.smooth, png=args.png)
        return 0
    for name in ("smooth", "png"):
        if getattr(args, name) is not None:
            raise ParamError(f"--{name}: {args.folder} is no run; name one, such as runs/tiny")
    print_runs(args.folder, new_console())
    return 0


def _rollouts(args: argparse.Namespace) -> int:
    from genrl_graph.inspection.text import new_console
    from genrl_graph.inspection.transcripts import RolloutFilter, print_rollouts
    from genrl_graph.records.stored_run import open_run

    wanted = RolloutFilter(
        round=args.round,
        node=args.node,
        task=args.task,
        peer=args.peer,
        order="failed" if args.failed else "top" if args.top else "worst" if args.worst else "stored",
        limit=args.top or args.worst or args.limit or (TEXTS if args.sheet is None else TILES),
    )
    if args.tree:
        from genrl_graph.inspection.trees import print_trees

        for name in ("node", "peer", "top", "worst", "failed", "sheet", "full"):
            if getattr(args, name):
                raise ParamError(f"--{name}: a tree has all rollouts of a task; leave it out, or leave out --tree")
        print_trees(open_run(args.run), wanted, new_console())
        return 0
    if args.sheet is not None:
        from genrl_graph.inspection.contact_sheet import write_sheet

        write_sheet(open_run(args.run), wanted, args.sheet)
        print(args.sheet)
        return 0
    print_rollouts(open_run(args.run), wanted, new_console(), full=args.full)
    return 0


def _lineage(args: argparse.Namespace) -> int:
    from genrl_graph.inspection.lineage import print_lineage
    from genrl_graph.inspection.text import new_console
    from genrl_graph.records.stored_run import open_run

    print_lineage(open_run(args.run), args.id, new_console())
    return 0


def _rows(args: argparse.Namespace) -> int:
    from genrl_graph.inspection.rows import export_rows
    from genrl_graph.records.stored_run import open_run

    run_imports(args)
    count = export_rows(open_run(args.run), args.node, args.out, rounds=parse_rounds(args.rounds), holder=args.peer)
    print(f"{args.out}: {count} rows")
    return 0


def parse_rounds(text: str | None) -> range | None:
    """Parse `A:B`, `A:`, `:B` or `A` as a range of rounds; None stays None."""
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not all(part.isdecimal() or (colon and not part) for part in (first, last or "0")):
        raise ParamError(f"--rounds: {text!r} is no range of rounds; write A:B, A:, :B or A")
    start = int(first or 0)
    return range(start, int(last) if last else 2**31 if colon else start + 1)
