"""Plays a graph: makes the run folder, the carries and the peers, and runs the loop to the end."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from rich.console import Console

from genrl_graph.dag.graph import Graph
from genrl_graph.dag.run_config import Mode, RunConfig
from genrl_graph.dag.schedule import Schedule, compile_graph
from genrl_graph.errors import ParamError
from genrl_graph.long_work import shown_by
from genrl_graph.messages import counted
from genrl_graph.runners.loop.context import StepReport
from genrl_graph.runners.loop.evaluate import evaluation_schedule
from genrl_graph.runners.loop.exchange import Swarm
from genrl_graph.runners.loop.peers import Make, Peer, declared_value, digests, make_peers, prepare
from genrl_graph.runners.loop.runner import LocalRunner, Runner, RunProgress
from genrl_graph.runners.loop.signals import Stop, stop_on_signals
from genrl_graph.runners.loop.stage_metrics import Stages
from genrl_graph.runners.loop.threads import computing, set_threads
from genrl_graph.runners.loop.trace import SILENT, Profile, ProfileOf, Trace
from genrl_graph.runners.resume.code_versions import run_versions
from genrl_graph.runners.resume.previous_run import PreviousRun, Start
from genrl_graph.runners.session import OpenRun, Session
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
    see: Callable[[StepReport], None] = lambda report: None,
    resume: bool = False,
    runner: Runner | None = None,
    profile: ProfileOf | None = None,
) -> Run:
    """Play a compiled graph; `make` makes the carries, `see` gets the report of every committed step."""
    runner = runner or LocalRunner(config.peers)
    console.quiet = console.quiet or not runner.leads
    require_trackers(config.trackers)
    with WaitingBar(console).show("loading torch"):
        set_threads(config.threads)
    with ExitStack() as stack:
        opening = _open(schedule, runner.configured(config), runner, folder, console, imports, resume, stack)
        if opening.complete:
            return _complete_run(opening)
        run, before = _start(opening, make, see, profile, stack)
        Session(run).play()
        after = digests(run.players)
    then = next_steps(opening.folder, schedule.graph, imports, measured=run.start.first + run.terminal.played > 0)
    run.terminal.summary(before=before, after=after, store=opening.folder / "rollouts.zarr", then=then)
    return Run(opening.folder, run.rounds, before, after)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opening:
    """A run folder that is this process's to write, before carries are made.

    `graph` has the options of this run, `previous` is the run that it resumes; `complete` says that nothing is left.
    """

    schedule: Schedule
    evaluation: Schedule | None
    graph: Graph
    config: RunConfig
    runner: Runner
    swarm: Swarm
    run: Path
    folder: Path
    previous: PreviousRun | None
    complete: bool
    versions: dict[str, Any]
    stop: Stop
    console: Console

    @property
    def rounds(self) -> int:
        """The number of rounds to train."""
        return 0 if self.config.mode == "evaluate" else self.config.rounds

    def tell(self, line: str) -> None:
        """Print a line."""
        self.console.print(line, markup=False, soft_wrap=True)


def _open(
    schedule: Schedule,
    config: RunConfig,
    runner: Runner,
    folder: Path | None,
    console: Console,
    imports: Mapping[str, str],
    resume: bool,
    stack: ExitStack,
) -> _Opening:
    """Start the runner and take the folder: that of a previous run, which must be the same game, or a free one."""
    evaluation = None if config.mode == "train" else evaluation_schedule(schedule, config.evaluation)
    stop = stack.enter_context(stop_on_signals())
    graph = replace_run(schedule.graph, config)
    versions = run_versions(graph, imports)
    stack.push(lambda kind, error, at: runner.close(failed=kind is not None))
    free, tell = partial(free_folder, schedule.graph.name), partial(console.print, markup=False, soft_wrap=True)
    run, swarm = runner.start(schedule, run=folder, free=free, stop=stop, tell=tell)
    home = runner.home(run)
    rounds = 0 if config.mode == "evaluate" else config.rounds
    previous, kept = None, RunProgress()
    if resume and (home / GRAPH).exists():
        previous = PreviousRun(stack.enter_context(RunStore.open(home, "a", block_rounds=config.block_rounds)))
        previous.refuse_another(graph, versions)
        kept = previous.kept(schedule, rounds, runner.names, evaluated=evaluation is not None)
    else:
        refuse_taken(home)
    everywhere, latest = runner.agree(kept)
    if previous is not None and not everywhere.complete:
        previous.go_on_from(latest)
    return _Opening(
        schedule=schedule,
        evaluation=evaluation,
        graph=graph,
        config=config,
        runner=runner,
        swarm=swarm,
        run=run,
        folder=home,
        previous=previous,
        complete=previous is not None and everywhere.complete,
        versions=versions,
        stop=stop,
        console=console,
    )


def _complete_run(opening: _Opening) -> Run:
    """Return a run that had nothing left to do."""
    assert opening.previous is not None
    names, rounds = opening.runner.names, opening.rounds
    opening.tell(f"{opening.folder}: complete after {counted(rounds, 'round')}; raise run.rounds to go on")
    before, after = (opening.previous.digests(opening.schedule, names, rounds=at) for at in (0, rounds))
    return Run(opening.folder, rounds, before, after)


def _start(
    opening: _Opening,
    make: Make,
    see: Callable[[StepReport], None],
    profile: ProfileOf | None,
    stack: ExitStack,
) -> tuple[OpenRun, dict[tuple[str, str], str]]:
    """Make nodes and carries ready, create or restore the store; return the open run and the carries' first digests."""
    players = _make_players(opening, make)
    before, start, names = digests(players), Start(), opening.runner.names
    opening.versions["computing"] = computing(players[0])
    if opening.previous is None:
        carries = {carry: before[names[0], carry] for carry in opening.schedule.graph.carries}
        versions, block_rounds = opening.versions | {"carries": carries}, opening.config.block_rounds
        store = RunStore.create(opening.folder, opening.graph.record(), versions, block_rounds=block_rounds)
        stack.enter_context(store)
    else:
        store, start = opening.previous.store, _resume(opening, opening.previous, players)
        before |= opening.previous.digests(opening.schedule, names, rounds=0)
    run = OpenRun(
        schedule=opening.schedule,
        evaluation=opening.evaluation,
        players=players,
        runner=opening.runner,
        swarm=opening.swarm,
        config=opening.config,
        store=store,
        metrics=_metrics(opening, start, stack),
        terminal=_terminal(opening, start, stack),
        console=opening.console,
        stop=opening.stop,
        see=see,
        start=start,
        trace=_trace(opening, start, profile, stack),
    )
    return run, before


def _make_players(opening: _Opening, make: Make) -> list[Peer]:
    """Let nodes load what they need, then make the carries of every peer."""
    schedule, names, ready = opening.schedule, opening.runner.names, opening.stop.check
    line = headline(schedule, rounds=opening.rounds, peers=len(names), folder=opening.folder)
    opening.console.print(line, soft_wrap=True)
    with shown_by(WaitingBar(opening.console).show):
        prepare(schedule, ready=ready)
        if opening.evaluation is not None:
            prepare(opening.evaluation, known=schedule, ready=ready)
        return make_peers(schedule, names, seed=opening.config.seed, make=make, ready=ready)


def _resume(opening: _Opening, previous: PreviousRun, players: Sequence[Peer]) -> Start:
    """Restore the newest checkpoint; say from where the run goes on, and which versions changed."""
    for line in previous.warnings(opening.versions):
        opening.tell(line)
    start = previous.restore(opening.schedule, players)
    previous.note(opening.graph, opening.versions)
    behind = f"the checkpoint after {counted(start.first, 'round')}" if start.first else "the start"
    opening.tell(f"{opening.folder}: goes on from {behind}, with all that was committed since")
    return start


def _metrics(opening: _Opening, start: Start, stack: ExitStack) -> RoundMetrics:
    trackers = make_trackers(
        opening.config.trackers,
        folder=opening.folder,
        run_name=opening.run.name,
        project="genrl_graph",
        peers=opening.runner.names,
        config=yaml.safe_load(opening.graph.record()),
        tell=opening.tell,
    )
    metrics = RoundMetrics(trackers, stages=Stages(opening.schedule), reported=start.reported)
    stack.callback(metrics.close)
    return metrics


def _terminal(opening: _Opening, start: Start, stack: ExitStack) -> Terminal:
    terminal = Terminal(opening.schedule, rounds=opening.rounds, console=opening.console, played=start.first)
    return stack.enter_context(terminal)


def _trace(opening: _Opening, start: Start, profile: ProfileOf | None, stack: ExitStack) -> Trace:
    if profile is None:
        return SILENT
    trace = Profile(opening.folder, operators=profile == "ops", rounds=opening.rounds - start.first)
    stack.callback(trace.close)
    return trace


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
