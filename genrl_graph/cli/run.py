"""Commands that play graphs and export policies: run, resume, replay, export."""

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from genrl_graph.cli.arguments import add_graph_arguments, add_import_argument, run_imports, valid_graph
from genrl_graph.cli.coordinator_option import add_coordinator_argument, coordinator_of
from genrl_graph.cli.runner_options import add_runner_arguments, runner_of, with_roles
from genrl_graph.errors import ParamError, RoundsSkipped
from genrl_graph.messages import counted
from genrl_graph.runners.loop.signals import ended_at_once

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from genrl_graph.dag.graph import Graph
    from genrl_graph.runners.loop.runner import Runner


def add_export_command(commands: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare `export`."""
    export = commands.add_parser("export", help="write a policy of a run as a Hugging Face folder")
    export.add_argument("folder", metavar="RUN", type=Path, help="run folder, such as runs/tiny")
    export.add_argument("policy", metavar="POLICY", help="name of the carry")
    export.add_argument(
        "out", metavar="OUT", type=Path, help="new folder: weights, tokenizer, chat template, model card"
    )
    export.add_argument("--round", type=int, help="the checkpoint after this many rounds (default: the last)")
    export.add_argument("--peer", help="whose policy (default: the first peer's)")
    export.add_argument("--adapter-only", action="store_true", help="write an adapter as peft reads it, not merged")
    export.add_argument("--push-to-hub", metavar="REPO", help="also upload to this repository of the Hugging Face hub")
    add_import_argument(export)
    export.set_defaults(command=_export)


def add_run_commands(commands: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare `run`, `resume` and `replay`."""
    run = commands.add_parser("run", help="play a graph")
    add_graph_arguments(run)
    run.add_argument("-o", "--out", type=Path, help="run folder (default: a new runs/<graph>-<n>)")
    run.add_argument("--dry", action="store_true", help="play one round with stand-ins for models and hubs, in seconds")
    run.add_argument("--resume", action="store_true", help="resume the run if the folder holds it, else start it")
    run.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    _profile_argument(run)
    add_runner_arguments(run)
    add_coordinator_argument(run)
    run.set_defaults(command=_run)

    resume = commands.add_parser("resume", help="resume an interrupted run, bit-identical to an uninterrupted one")
    resume.add_argument("folder", metavar="RUN", type=Path, help="run folder, such as runs/tiny")
    resume.add_argument(
        "overrides", nargs="*", metavar="run.key=value", help="such as run.rounds=20, which extends the run"
    )
    add_import_argument(resume)
    resume.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    _profile_argument(resume)
    add_runner_arguments(resume)
    add_coordinator_argument(resume)
    resume.set_defaults(command=_resume)

    replay = commands.add_parser("replay", help="play an edited graph over the rollouts of a run, without a model")
    replay.add_argument("run", metavar="RUN", type=Path, help="run folder, such as runs/tiny")
    add_graph_arguments(replay)
    replay.add_argument("-o", "--out", type=Path, required=True, help="new run folder")
    replay.add_argument("--rounds", metavar="A:B", help="rounds from A up to but without B; also A:, :B and A")
    replay.add_argument("--recompute", action="append", default=[], metavar="NODE", help="also compute this; or `all`")
    replay.add_argument("--update", action="store_true", help="also train, off-policy, on the replayed rollouts")
    replay.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    replay.set_defaults(command=_replay)


def _profile_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile",
        nargs="?",
        const="steps",
        choices=("steps", "ops"),
        help="write a Chrome trace of the steps to profile.json in the run folder; ops: also the operators of a round",
    )


@ended_at_once()  # until the run handles signals itself: imports of libraries may swallow a KeyboardInterrupt
def _run(args: argparse.Namespace) -> int:
    from genrl_graph.runners.dry import dry_play

    runner = runner_of(args)
    if args.dry and args.resume:
        raise ParamError("--resume: a dry run cannot be resumed; leave out --dry or --resume")
    if args.dry and args.profile:
        raise ParamError("--profile: the times of a dry run say nothing; leave out --dry or --profile")
    imports = run_imports(args)
    if args.dry and runner is not None:
        raise ParamError(f"--runner {args.runner}: a dry run plays in one process; leave out --dry or --runner")
    if args.dry:
        return _exit_code(partial(dry_play, valid_graph(args).graph, out=args.out, quiet=args.quiet, imports=imports))
    return _play(args, args.out, imports, runner, resume=args.resume)


@ended_at_once()
def _resume(args: argparse.Namespace) -> int:
    from genrl_graph.runners.resume.other_runner import refuse_other_runner
    from genrl_graph.runners.resume.previous_run import refuse_other_imports
    from genrl_graph.store.run_folder import GRAPH, read_graph

    runner = runner_of(args)
    folder = args.folder
    if runner is not None:
        args.overrides = [*runner.overrides(args.folder), *args.overrides]
        folder = runner.home(args.folder)
    refuse_other_runner(args.folder, folder)
    _, versions = read_graph(folder)
    imports = run_imports(args)
    refuse_other_imports(folder, versions, imports)
    args.graph = folder / GRAPH
    return _play(args, args.folder, imports, runner, resume=True)


def _replay(args: argparse.Namespace) -> int:
    from genrl_graph.cli.inspection import parse_rounds
    from genrl_graph.inspection.text import new_console
    from genrl_graph.runners.replay.replay import replay
    from genrl_graph.runners.replay.report import print_replay

    for text in args.overrides:
        if text.lstrip("~").startswith("run."):
            raise ParamError(f"{text}: a replay has the run options of {args.run}; leave it out")
    rounds = parse_rounds(args.rounds)
    bounds = None if rounds is None else (rounds.start, None if rounds.stop == 2**31 else rounds.stop)
    imports = run_imports(args)
    report = replay(
        args.run,
        valid_graph(args).graph,
        out=args.out,
        rounds=bounds,
        update=args.update,
        recompute=args.recompute,
        imports=imports,
        quiet=args.quiet,
    )
    if not args.quiet:
        print_replay(report, new_console())
    return 0


def _play(
    args: argparse.Namespace, out: Path | None, imports: Mapping[str, str], runner: "Runner | None", *, resume: bool
) -> int:
    from genrl_graph.runners.play import play

    with_roles(args)
    graph = valid_graph(args).graph
    coordinator = coordinator_of(args)
    if not (args.quiet or resume):
        _say_rounds(args.graph, graph)
    options = {
        "coordinator": coordinator,
        "quiet": args.quiet,
        "imports": imports,
        "resume": resume,
        "runner": runner,
        "profile": args.profile,
    }

    def whole() -> None:
        run = play(graph, out=out, **options)
        if run.unplayed:
            what = f"{run.unplayed} of {run.rounds} rounds were not played, because the swarm was ahead"
            raise RoundsSkipped(f"{run.folder}: {what}; the others are complete")

    return _exit_code(whole)


def _say_rounds(path: Path, graph: "Graph") -> None:
    """Say that a script is played for the default number of rounds: it may ask for another one when it plays itself."""
    from genrl_graph.graph_file.read import SCRIPT

    if path.suffix == SCRIPT and "rounds" not in graph.run.model_fields_set:
        played = f"its graph names no rounds, so that {counted(graph.run.rounds, 'round')} are played"
        mend = "what the script gives to play(...) is not read; add run.rounds=N, or in it Graph(..., run=RunConfig())"
        print(f"genrl-graph: {path}: {played}; {mend}", file=sys.stderr)


def _exit_code(play: Callable[[], object]) -> int:
    """Play and return the exit code: 0, or that of the signal that interrupted the run."""
    from genrl_graph.runners.loop.signals import Interrupted

    try:
        play()
    except Interrupted as interrupted:
        print(f"genrl-graph: {interrupted}", file=sys.stderr)
        return interrupted.exit_code
    return 0


def _export(args: argparse.Namespace) -> int:
    from genrl_graph.runners.export import export_policy

    run_imports(args)
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
