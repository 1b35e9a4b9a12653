"""Plays a graph: makes the run folder, the carries and the peers, and runs the loop to the end."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml
from pydantic import ValidationError
from rich.console import Console

from genrl_graph.dag.graph import Graph
from genrl_graph.dag.run_config import Mode, RunConfig
from genrl_graph.dag.schedule import Schedule, compile_graph
from genrl_graph.errors import ParamError
from genrl_graph.long_work import shown_by
from genrl_graph.messages import counted
from genrl_graph.runners.loop.evaluate import evaluation_schedule
from genrl_graph.runners.loop.peers import Make, Peer, declared_value, digests, make_peers, prepare
from genrl_graph.runners.loop.round import Done
from genrl_graph.runners.loop.runner import Kept, LocalRunner, Runner
from genrl_graph.runners.loop.signals import stop_on_signals
from genrl_graph.runners.loop.stage_metrics import Stages
from genrl_graph.runners.loop.threads import computing, set_threads
from genrl_graph.runners.loop.trace import SILENT, Profile, ProfileOf
from genrl_graph.runners.resume.code_versions import run_versions
from genrl_graph.runners.resume.previous_run import Past, Start
from genrl_graph.runners.session import Session
from genrl_graph.runners.tracking.metrics import RoundMetrics
from genrl_graph.runners.tracking.next_steps import next_steps
from genrl_graph.runners.tracking.terminal import Terminal, headline
from genrl_graph.runners.tracking.trackers import make_trackers, require_trackers
from genrl_graph.runners.tracking.waiting_bar import WaitingBar
from genrl_graph.store.run_folder import GRAPH, refuse_taken
from genrl_graph.store.run_store import RunStore


@dataclass(frozen=True, slots=True)
class Run:
    """A run that ended: its folder, the rounds played, and the digests of all carries at the start and at the end."""

    folder: Path
    rounds: int
    before: Mapping[tuple[str, str], str]
    after: Mapping[tuple[str, str], str]

    @property
    def rollouts(self) -> Path:
        """The zarr store."""
        return self.folder / "rollouts.zarr"


def play(
    graph: Graph,
    *,
    out: Path | str | None = None,
    rounds: int | None = None,
    seed: int | None = None,
    peers: int | None = None,
    threads: int | None = None,
    checkpoint_every: int | None = None,
    mode: Mode | None = None,
    quiet: bool = False,
    imports: Mapping[str, str] | None = None,
    resume: bool = False,
    runner: Runner | None = None,
    profile: ProfileOf | None = None,
) -> Run:
    """Play a graph: in this process with `peers` peers in lockstep, or as `runner` says.

    What is given wins over the graph's `run:` options. Without `out` the run gets a new folder `runs/<graph>-<n>`.
    `imports` records the scripts that defined nodes (path: hash). With `resume` a run that is in the folder goes on
    from its newest checkpoint and what was committed since, to the very bits of a run that was never cut. `profile`
    writes a Chrome trace of the steps into it, with "ops" also one of the torch operators of a round. Raises
    `GraphError` before anything is loaded, `StoreError` where the folder is taken or an update gives another result
    than it did, `NodeFailed` where a node fails; what was committed stays.
    """
    given = {
        "rounds": rounds,
        "seed": seed,
        "peers": peers,
        "threads": threads,
        "checkpoint_every": checkpoint_every,
        "mode": mode,
    }
    config = run_options(graph.run, given)
    if resume and out is None:
        raise ParamError("resume: name the run folder (out, or -o on the command line)")
    schedule = compile_graph(graph)
    console = Console(stderr=True, highlight=False, quiet=quiet)
    folder = None if out is None else Path(out)
    return play_schedule(
        schedule,
        config,
        folder=folder,
        console=console,
        imports=imports or {},
        resume=resume,
        runner=runner,
        profile=profile,
    )


def play_schedule(
    schedule: Schedule,
    config: RunConfig,
    *,
    folder: Path | None,
    console: Console,
    imports: Mapping[str, str],
    make: Make = declared_value,
    see: Callable[[Done], None] = lambda done: None,
    resume: bool = False,
    runner: Runner | None = None,
    profile: ProfileOf | None = None,
) -> Run:
    """Play a compiled graph; `make` makes the carries, `see` is shown every step that was committed."""
    runner = runner or LocalRunner(config.peers)
    config, names = runner.configured(config), runner.names
    console.quiet = console.quiet or not runner.leads
    require_trackers(config.trackers)
    waiting = WaitingBar(console)
    with waiting.show("loading torch"):
        set_threads(config.threads)
    evaluation = None if config.mode == "train" else evaluation_schedule(schedule, config.evaluation)
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        played, rounds = replace_run(schedule.graph, config), 0 if config.mode == "evaluate" else config.rounds
        versions = run_versions(played, imports)
        tell = partial(console.print, markup=False, soft_wrap=True)
        stack.push(lambda kind, error, at: runner.close(failed=kind is not None))
        free = partial(free_folder, schedule.graph.name)
        run, swarm = runner.start(schedule, run=folder, free=free, stop=stop, tell=tell)
        folder = runner.home(run)
        past = None
        if resume and (folder / GRAPH).exists():
            past = Past(stack.enter_context(RunStore.open(folder, "a", block_rounds=config.block_rounds)))
            past.refuse_another(played, versions)
        else:
            refuse_taken(folder)
        here = past.kept(schedule, rounds, names, evaluated=evaluation is not None) if past else Kept()
        everywhere, latest = runner.agree(here)
        if past is not None:
            if everywhere.complete:
                tell(f"{folder}: complete after {counted(rounds, 'round')}; raise run.rounds to go on")
                before, after = (past.digests(schedule, names, rounds=at) for at in (0, rounds))
                return Run(folder, rounds, before, after)
            past.go_on_from(latest)
        console.print(headline(schedule, rounds=rounds, peers=len(names), folder=folder), soft_wrap=True)
        with shown_by(waiting.show):
            prepare(schedule, ready=stop.check)
            if evaluation is not None:
                prepare(evaluation, known=schedule, ready=stop.check)
            players = make_peers(schedule, names, seed=config.seed, make=make, ready=stop.check)
        before, start = digests(players), Start()
        versions["computing"] = computing(players[0])
        if past is None:
            versions |= {"carries": {carry: before[names[0], carry] for carry in schedule.graph.carries}}
            store = RunStore.create(folder, played.record(), versions, block_rounds=config.block_rounds)
            stack.enter_context(store)
        else:
            store, start = past.store, _go_on(past, schedule, players, played, versions, tell)
            before |= past.digests(schedule, names, rounds=0)
        trackers = make_trackers(
            config.trackers,
            folder=folder,
            run_name=run.name,
            project="genrl_graph",
            peers=names,
            config=yaml.safe_load(played.record()),
            tell=tell,
        )
        metrics = RoundMetrics(trackers, stages=Stages(schedule), reported=start.reported)
        stack.callback(metrics.close)
        trace = Profile(folder, operators=profile == "ops", rounds=rounds - start.first) if profile else SILENT
        stack.callback(trace.close)
        terminal = stack.enter_context(Terminal(schedule, rounds=rounds, console=console, played=start.first))
        session = Session(
            schedule,
            evaluation,
            players,
            runner,
            swarm,
            config=config,
            store=store,
            metrics=metrics,
            terminal=terminal,
            console=console,
            stop=stop,
            see=see,
            start=start,
            trace=trace,
        )
        session.play()
        after = digests(players)
    then = next_steps(folder, schedule.graph, imports, measured=start.first + terminal.played > 0)
    terminal.summary(before=before, after=after, store=folder / "rollouts.zarr", then=then)
    return Run(folder, session.rounds, before, after)


def _go_on(
    past: Past,
    schedule: Schedule,
    players: Sequence[Peer],
    played: Graph,
    versions: Mapping[str, object],
    tell: Callable[[str], None],
) -> Start:
    """Take up a run: tells from where, and what is another version now."""
    for line in past.warnings(versions):
        tell(line)
    start = past.restore(schedule, players)
    past.note(played, versions)
    behind = f"the checkpoint after {counted(start.first, 'round')}" if start.first else "the start"
    tell(f"{past.store.folder}: goes on from {behind}, with all that was committed since")
    return start


def replace_run(graph: Graph, config: RunConfig) -> Graph:
    """The same graph with other run options."""
    copy = Graph(graph.name, run=config)
    copy.carries, copy.nodes = graph.carries, graph.nodes
    return copy


def run_options(written: RunConfig, given: Mapping[str, int | str | None]) -> RunConfig:
    """The options of a run: what is given, else what the graph says; raises `ParamError` for a wrong value."""
    wins = {name: value for name, value in given.items() if value is not None}
    try:
        return RunConfig.model_validate(written.model_dump() | wins)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        text = first["msg"][:1].lower() + first["msg"][1:]
        where = ".".join(map(str, ("run", *first["loc"])))
        got = f", got {first['input']!r}" if first["loc"] else ""
        raise ParamError(f"{where}: {text.removeprefix('value error, ')}{got}") from error


def free_folder(name: str) -> Path:
    """The first `runs/<name>-<n>` that does not exist."""
    return next(path for n in itertools.count(1) if not (path := Path("runs") / f"{name}-{n}").exists())
