"""The command line of `genrl-graph`: graphs are checked, planned, compared and played, runs are looked at."""

import argparse
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from genrl_graph.errors import GenrlGraphError, GraphError, ParamError, StoreError
from genrl_graph.runners.arguments import add_runner_arguments, runner_of
from genrl_graph.runners.look.commands import add_look_commands
from genrl_graph.runners.memory import settle_memory
from genrl_graph.runners.swarm.commands import add_swarm_commands, spread_addresses

if TYPE_CHECKING:
    from genrl_graph.runners.runner import Runner
    from genrl_graph.spec import Loaded


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0, the code of the error, or 128 + the signal that ended a run."""
    settle_memory()
    code = run_command(argv)
    gc.freeze()  # the interpreter would walk a million objects of torch and transformers once more, for 1.5 s
    sys.exit(code)


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
    parser, argv = _parser(), spread_addresses(sys.argv[1:] if argv is None else argv)
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
    parser.add_argument("--version", action=_Version, help="print the versions of this package and of what it runs on")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    check = commands.add_parser("check", help="find every problem of a graph, without loading a model")
    _graph_arguments(check)
    check.set_defaults(command=_check)

    plan = commands.add_parser("plan", help="print the schedule of a round: stages, steps, weights read")
    _graph_arguments(plan)
    plan.add_argument("--estimate", action="store_true", help="also say what the run will take: tokens, time, memory")
    plan.add_argument("--run", type=Path, metavar="RUN", help="estimate by the speeds and lengths of this stored run")
    plan.add_argument("--compare", type=Path, metavar="RUN", help="print the estimate against what this run took")
    plan.add_argument("--completion-tokens", type=float, metavar="N", help="mean length of completions to assume")
    plan.add_argument("--calibrate", action="store_true", help="measure this machine anew (about a minute)")
    plan.add_argument("--format", choices=("text", "json"), default="text", help="of an estimate")
    plan.set_defaults(command=_plan)

    draw = commands.add_parser("draw", help="show the graph: text, Mermaid, DOT, SVG, PNG or a page to explore")
    _graph_arguments(draw, optional=True)
    draw.add_argument("-o", "--out", type=Path, metavar="FILE", help="write a file; its ending names the format")
    draw.add_argument("--format", help="text (the default without -o), mermaid, dot, svg, png or html")
    draw.add_argument("--params", action="store_true", help="show the params that differ from their defaults")
    draw.add_argument("--run", type=Path, metavar="RUN", help="show what this run measured; GRAPH may then be left out")
    draw.add_argument("--round", type=int, metavar="K", help="of this round of the run (default: the mean over all)")
    draw.set_defaults(command=_draw)

    diff = commands.add_parser("diff", help="say what two graphs differ in and what follows; exit code 1 if they do")
    diff.add_argument("old", metavar="OLD", type=Path, help="graph file (YAML), shipped graph or run folder")
    diff.add_argument("new", metavar="NEW", type=Path, help="graph file (YAML), shipped graph or run folder")
    diff.add_argument("--format", choices=["text", "json"], default="text", help="text (default) or json")
    _import_argument(diff)
    diff.set_defaults(command=_diff)

    graphs = commands.add_parser("graphs", help="list the graphs that are shipped, which are found by these names")
    graphs.set_defaults(command=_graphs)

    schema = commands.add_parser("schema", help="print the JSON Schema of graph files, for editors")
    schema.add_argument("-o", "--out", metavar="FILE", type=Path, help="write it to this file")
    _import_argument(schema)
    schema.set_defaults(command=_schema)

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
    run.add_argument("--resume", action="store_true", help="go on if the folder holds this run, else start it")
    run.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    _profile_argument(run)
    add_runner_arguments(run)
    run.set_defaults(command=_run)

    resume = commands.add_parser("resume", help="go on with a run that was cut, to the bits of one that was not")
    resume.add_argument("folder", metavar="RUN", type=Path, help="run folder, such as runs/tiny")
    resume.add_argument(
        "overrides", nargs="*", metavar="run.key=value", help="such as run.rounds=20, which extends the run"
    )
    _import_argument(resume)
    resume.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    _profile_argument(resume)
    add_runner_arguments(resume)
    resume.set_defaults(command=_resume)

    replay = commands.add_parser("replay", help="play an edited graph over the rollouts of a run, without a model")
    replay.add_argument("run", metavar="RUN", type=Path, help="run folder, such as runs/tiny")
    _graph_arguments(replay)
    replay.add_argument("-o", "--out", type=Path, required=True, help="new run folder")
    replay.add_argument("--rounds", metavar="A:B", help="rounds from A up to but without B; also A:, :B and A")
    replay.add_argument("--recompute", action="append", default=[], metavar="NODE", help="also compute this; or `all`")
    replay.add_argument("--update", action="store_true", help="also train, off-policy, on what is replayed")
    replay.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    replay.set_defaults(command=_replay)

    add_look_commands(commands)
    add_swarm_commands(commands)

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

    store = commands.add_parser("store", help="verify what a run has recorded, or compact it")
    store.add_argument("action", choices=("verify", "compact"), help="check every file; finish what a crash left")
    store.add_argument("folder", metavar="RUN", type=Path, help="run folder, such as runs/tiny")
    store.set_defaults(command=_store)
    return parser


class _Version(argparse.Action):
    """Prints the versions and ends; they are only looked up when they are asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *arguments: object) -> NoReturn:
        from genrl_graph.version import version_line

        print(version_line())
        parser.exit()


def _graph_arguments(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    graph = "graph file (YAML), or the name of a shipped graph, such as tiny"
    parser.add_argument("graph", type=Path, nargs="?" if optional else None, help=graph)
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


def _profile_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile",
        nargs="?",
        const="steps",
        choices=("steps", "ops"),
        help="write a Chrome trace of the steps to profile.json in the run folder; ops: also the operators of a round",
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
    if args.estimate or args.run or args.compare or args.calibrate or args.completion_tokens is not None:
        return _estimate(args)
    if args.format != "text":
        raise ParamError(f"--format {args.format}: is for an estimate; add --estimate")
    print(plan_text(_valid(args)), end="")
    return 0


def _estimate(args: argparse.Namespace) -> int:
    from genrl_graph.runners.estimate import report

    shown = report(
        _valid(args).graph,
        run=args.run,
        compare=args.compare,
        completion_tokens=args.completion_tokens,
        recalibrate=args.calibrate,
        as_json=args.format == "json",
        tell=lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(shown, end="")
    return 0


def _draw(args: argparse.Namespace) -> int:
    from genrl_graph.draw import format_of, render, write
    from genrl_graph.drawing.command import picture_of, shown, to_draw

    _imports(args)
    format = format_of(args.out, args.format)
    args.graph, args.overrides = to_draw(args.graph, args.overrides, run=args.run, round=args.round)
    drawn = picture_of(_valid(args).graph, params=args.params, run=args.run, round=args.round)
    if args.out is not None:
        write(args.out, render(drawn, format))
    elif format == "text":
        sys.stdout.write(shown(drawn, sys.stdout))
    else:
        sys.stdout.buffer.write(render(drawn, format))
    return 0


def _graphs(args: argparse.Namespace) -> int:
    from genrl_graph.shipped import list_graphs

    print(list_graphs(), end="")
    return 0


def _nodes(args: argparse.Namespace) -> int:
    from genrl_graph.describe import describe_type, list_types

    _imports(args)
    print(describe_type(args.type) if args.type else list_types(), end="")
    return 0


def _diff(args: argparse.Namespace) -> int:
    from genrl_graph.diff import compare_files

    _imports(args)
    difference = compare_files(args.old, args.new)
    if args.format == "json":
        print(json.dumps(difference.to_json(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print("".join(f"{line}\n" for line in difference.lines()), end="")
    return 1 if difference else 0


def _schema(args: argparse.Namespace) -> int:
    from genrl_graph.schema import schema_text

    _imports(args)
    if args.out is None:
        print(schema_text(), end="")
        return 0
    try:
        args.out.write_text(schema_text(), encoding="utf-8")
    except OSError as error:
        raise ParamError(f"-o {args.out}: cannot be written: {error.strerror}; name a file") from error
    return 0


def _run(args: argparse.Namespace) -> int:
    from genrl_graph.runners.dry import dry_play

    runner = runner_of(args)
    if args.dry and args.resume:
        raise ParamError("--resume: a dry run does not go on; leave out --dry or --resume")
    if args.dry and args.profile:
        raise ParamError("--profile: the times of a dry run say nothing; leave out --dry or --profile")
    imports = _imports(args)
    if args.dry and runner is not None:
        raise ParamError(f"--runner {args.runner}: a dry run plays in one process; leave out --dry or --runner")
    if args.dry:
        return _played(partial(dry_play, _valid(args).graph, out=args.out, quiet=args.quiet, imports=imports))
    return _play(args, args.out, imports, runner, resume=args.resume)


def _resume(args: argparse.Namespace) -> int:
    from genrl_graph.runfolder import GRAPH, read_graph
    from genrl_graph.runners.resume import refuse_other_imports

    runner = runner_of(args)
    folder = args.folder if runner is None else runner.home(args.folder)
    _, versions = read_graph(folder)
    imports = _imports(args)
    refuse_other_imports(folder, versions, imports)
    args.graph = folder / GRAPH
    return _play(args, args.folder, imports, runner, resume=True)


def _replay(args: argparse.Namespace) -> int:
    from genrl_graph.runners.look.commands import span
    from genrl_graph.runners.look.replayed import print_replay
    from genrl_graph.runners.look.text import new_console
    from genrl_graph.runners.replay import replay

    for text in args.overrides:
        if text.lstrip("~").startswith("run."):
            raise ParamError(f"{text}: a replay has the run options of {args.run}; leave it out")
    rounds = span(args.rounds)
    bounds = None if rounds is None else (rounds.start, None if rounds.stop == 2**31 else rounds.stop)
    imports = _imports(args)
    found = replay(
        args.run,
        _valid(args).graph,
        out=args.out,
        rounds=bounds,
        update=args.update,
        recompute=args.recompute,
        imports=imports,
        quiet=args.quiet,
    )
    if not args.quiet:
        print_replay(found, new_console())
    return 0


def _play(
    args: argparse.Namespace, out: Path | None, imports: Mapping[str, str], runner: "Runner | None", *, resume: bool
) -> int:
    from genrl_graph.runners.play import play

    graph = _valid(args).graph
    options = {"quiet": args.quiet, "imports": imports, "resume": resume, "runner": runner, "profile": args.profile}
    return _played(partial(play, graph, out=out, **options))


def _played(play: Callable[[], object]) -> int:
    from genrl_graph.runners.signals import Interrupted

    try:
        play()
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


def _store(args: argparse.Namespace) -> int:
    from genrl_graph.store import RunStore
    from genrl_graph.verify import verify_run

    if args.action == "compact":
        with RunStore.open(args.folder, "a") as store:
            moved = store.flush()
        print(f"{args.folder}: {moved} records moved from the journal to zarr, {store.removed} leftovers removed")
        return 0
    report = verify_run(args.folder)
    for problem in report.problems:
        print(problem)
    print(f"{args.folder}: {'damaged' if report.problems else 'ok'}: {report.summary()}")
    return StoreError.exit_code if report.problems else 0


def _valid(args: argparse.Namespace) -> "Loaded":
    loaded = _read(args)
    if loaded.problems:
        raise GraphError("\n".join(loaded.lines()))
    return loaded
