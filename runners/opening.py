"""Open a run: take its folder, make or restore its carries, and connect store, trackers, terminal and trace."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from genrl_graph.dag.graph import Graph
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.dag.schedule import Schedule
from genrl_graph.errors import ChainError
from genrl_graph.long_work import displaying, telling
from genrl_graph.messages import counted, escaped
from genrl_graph.runners.loop.context import StepReport
from genrl_graph.runners.loop.coordinator import Coordinator, NoCoordinator
from genrl_graph.runners.loop.diagnosis import Diagnosis
from genrl_graph.runners.loop.evaluate import evaluation_schedule
from genrl_graph.runners.loop.exchange import Swarm
from genrl_graph.runners.loop.peers import Make, Peer, digests, make_peers, prepare, refuse_unfit
from genrl_graph.runners.loop.runner import Runner, RunProgress
from genrl_graph.runners.loop.signals import Stop, stop_on_signals
from genrl_graph.runners.loop.stage_metrics import Stages
from genrl_graph.runners.loop.threads import computing
from genrl_graph.runners.loop.trace import SILENT, Profile, ProfileOf, Trace
from genrl_graph.runners.resume.code_versions import run_versions
from genrl_graph.runners.resume.other_runner import refuse_other_runner
from genrl_graph.runners.resume.previous_run import PreviousRun, Start
from genrl_graph.runners.session import OpenRun
from genrl_graph.runners.tracking.metrics import RoundMetrics
from genrl_graph.runners.tracking.terminal import Terminal, headline
from genrl_graph.runners.tracking.trackers import make_trackers
from genrl_graph.runners.tracking.waiting_bar import WaitingBar
from genrl_graph.store.notes_file import add_note
from genrl_graph.store.run_folder import GRAPH, refuse_taken
from genrl_graph.store.run_path import RunPath
from genrl_graph.store.run_store import RunStore


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFolder:
    """A run folder that this process may write, before the carries exist.

    `run_folder` is the folder of the whole run, `folder` the part of it that this process writes. `graph` has the
    options of this run. `previous` is the run that is resumed, None for a new one; `complete` says that it has nothing
    left to do. `versions` go to graph.yaml.
    """

    schedule: Schedule
    evaluation: Schedule | None
    graph: Graph
    config: RunConfig
    runner: Runner
    swarm: Swarm
    coordinator: Coordinator
    run_folder: Path
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
        """Print a line to the terminal."""
        self.console.print(escaped(line), markup=False, soft_wrap=True)


@dataclass(slots=True)
class NotedLines:
    """Prints lines to the terminal, and adds them to the notes of the run once its `folder` is known."""

    console: Console
    folder: Path | None = None

    def __call__(self, line: str) -> None:
        """Print a line and note it."""
        self.console.print(escaped(line), markup=False, soft_wrap=True)
        if self.folder is not None:
            add_note(self.folder, line)


def open_folder(
    schedule: Schedule,
    config: RunConfig,
    runner: Runner,
    *,
    folder: Path | None,
    console: Console,
    imports: Mapping[str, str],
    resume: bool,
    stack: ExitStack,
) -> OpenFolder:
    """Start the runner and take its folder: a new one, or with `resume` that of a previous run of the same game.

    `stack` closes the runner and the store. Raises `StoreError` where the folder is taken, `GraphError` where the
    previous run played another game.
    """
    evaluation = None if config.mode == "train" else evaluation_schedule(schedule, config.evaluation)
    stop = stack.enter_context(stop_on_signals())
    graph, schedule = replace_run(schedule.game.graph, config), schedule.played_in("rounds")
    versions = run_versions(graph, imports)
    stack.push(lambda kind, error, at: runner.close(failed=kind is not None))
    free, tell = partial(free_folder, schedule.graph.name), NotedLines(console)
    stack.enter_context(telling(tell))
    if resume and folder is not None:  # before the runner writes a key into it
        refuse_other_runner(folder, runner.home(folder), peers=config.peers)
    coordinator = make_coordinator(schedule, config, tell=tell, resume=resume)
    run_folder, swarm = runner.start(
        schedule, run=folder, free=free, stop=stop, tell=tell, bootnodes=coordinator.bootnodes
    )
    tell.folder = home = runner.home(run_folder)
    if home != run_folder and run_folder.is_dir():
        (RunPath(run_folder) / home.name).is_folder()  # raises where the folder of a peer is a link to another one
    rounds = 0 if config.mode == "evaluate" else config.rounds
    previous, progress = None, RunProgress()
    if resume and (home / GRAPH).exists():
        previous = PreviousRun(stack.enter_context(RunStore.open(home, "a", block_rounds=config.block_rounds)))
        previous.refuse_another(graph, versions)
        progress = previous.progress(schedule, rounds, runner.names, evaluated=evaluation is not None)
    else:
        refuse_taken(home, hint="continue it with --resume (in Python resume=True), ")
    shared, latest = runner.agree(progress)
    if previous is not None and not shared.complete:
        previous.choose_checkpoint(latest)
    return OpenFolder(
        schedule=schedule,
        evaluation=evaluation,
        graph=graph,
        config=config,
        runner=runner,
        swarm=swarm,
        coordinator=coordinator,
        run_folder=run_folder,
        folder=home,
        previous=previous,
        complete=previous is not None and shared.complete,
        versions=versions,
        stop=stop,
        console=console,
    )


def open_run(
    opened: OpenFolder,
    make: Make,
    see: Callable[[StepReport], None],
    profile: ProfileOf | None,
    stack: ExitStack,
) -> tuple[OpenRun, dict[tuple[str, str], str]]:
    """Prepare nodes, make the carries, create or restore the store.

    Returns the run that a session plays, and the digests that the carries of each peer had when the run began.
    """
    players = _make_players(opened, make)
    before, start, names = digests(players), Start(), opened.runner.names
    opened.versions["computing"] = computing(players[0])
    weights = before
    if opened.previous is None:
        store = stack.enter_context(_new_store(opened, before))
    else:
        store, start = opened.previous.store, _restore(opened, opened.previous, players)
        before |= opened.previous.digests(opened.schedule, names, rounds=0)
        weights = opened.previous.digests(opened.schedule, names, rounds=start.first)
    opened.coordinator.open(store, opened.folder, names=names, peer_ids=opened.runner.peer_id)
    stack.push(lambda kind, error, at: opened.coordinator.close(failed=kind is not None))
    metrics = _metrics(opened, start, stack)
    diagnosis = Diagnosis(opened.schedule, weights=weights, passes=opened.config.eval_threshold)
    terminal = _terminal(opened, start, stack)
    for peers in start.played:
        terminal.restore(peers)
        diagnosis.restore(peers)
    run = OpenRun(
        schedule=opened.schedule,
        evaluation=opened.evaluation,
        players=players,
        runner=opened.runner,
        swarm=opened.swarm,
        coordinator=opened.coordinator,
        config=opened.config,
        store=store,
        metrics=metrics,
        terminal=terminal,
        console=opened.console,
        stop=opened.stop,
        see=see,
        start=start,
        trace=_trace(opened, start, profile, stack),
        diagnosis=diagnosis,
    )
    return run, before


def make_coordinator(
    schedule: Schedule, config: RunConfig, *, tell: Callable[[str], None], resume: bool
) -> Coordinator:
    """Connect to the coordinator that the options name; raises `ChainError` where it cannot serve.

    A run that trains nothing reports nothing. With `resume` the chain may be down for now.
    """
    if config.coordinator is None or config.mode == "evaluate":
        return NoCoordinator(tell)
    try:
        from genrl_graph.runners.chain.run_coordinator import chain_coordinator
    except ModuleNotFoundError as error:
        raise ChainError(f"a coordinator needs {error.name}; pip install 'genrl-graph[chain]'") from error
    return chain_coordinator(config.coordinator, schedule, tell=tell, may_be_down=resume)


def replace_run(graph: Graph, config: RunConfig) -> Graph:
    """Return the same graph with other run options."""
    copy = Graph(graph.name, run=config)
    copy.carries, copy.nodes = graph.carries, graph.nodes
    return copy


def free_folder(name: str) -> Path:
    """Return the first `runs/<name>-<n>` that does not exist."""
    return next(path for n in itertools.count(1) if not (path := Path("runs") / f"{name}-{n}").exists())


def _make_players(opened: OpenFolder, make: Make) -> list[Peer]:
    """Let nodes load what they need, then make the carries of every peer."""
    schedule, names, ready = opened.schedule, opened.runner.names, opened.stop.check
    line = headline(schedule, rounds=opened.rounds, peers=len(names), folder=opened.folder)
    opened.console.print(line, soft_wrap=True)
    with displaying(WaitingBar(opened.console).show):
        prepare(schedule, ready=ready)
        evaluations = [] if opened.evaluation is None else [opened.evaluation]
        for evaluation in evaluations:
            prepare(evaluation, known=schedule, ready=ready)
        peers = make_peers(schedule, names, seed=opened.config.seed, make=make, share=opened.runner.shared, ready=ready)
        refuse_unfit(peers[0], schedule, *evaluations)
        return peers


def _new_store(opened: OpenFolder, before: Mapping[tuple[str, str], str]) -> RunStore:
    """Create the store of a new run; its versions hold the digests of the carries, which all peers start with."""
    first = opened.runner.names[0]
    carries = {carry: before[first, carry] for carry in opened.schedule.graph.carries}
    versions = opened.versions | {"carries": carries}
    return RunStore.create(opened.folder, opened.graph.record(), versions, block_rounds=opened.config.block_rounds)


def _restore(opened: OpenFolder, previous: PreviousRun, players: Sequence[Peer]) -> Start:
    """Restore the carries from the newest checkpoint; print which versions changed and where the run resumes."""
    for line in previous.warnings(opened.versions):
        opened.tell(line)
    start = previous.restore(opened.schedule, players)
    previous.record_resume(opened.graph, opened.versions)
    where = f"the checkpoint after {counted(start.first, 'round')}" if start.first else "the start"
    opened.tell(f"{opened.folder}: goes on from {where}, with all that was committed since")
    return start


def _metrics(opened: OpenFolder, start: Start, stack: ExitStack) -> RoundMetrics:
    trackers = make_trackers(
        opened.config.trackers,
        folder=opened.folder,
        run_name=opened.run_folder.name,
        project="genrl_graph",
        peers=opened.runner.names,
        config=yaml.safe_load(opened.graph.record()),
        tell=opened.tell,
    )
    metrics = RoundMetrics(trackers, stages=Stages(opened.schedule), reported=start.reported)
    stack.callback(metrics.close)
    return metrics


def _terminal(opened: OpenFolder, start: Start, stack: ExitStack) -> Terminal:
    terminal = Terminal(opened.schedule, rounds=opened.rounds, console=opened.console, played=start.first)
    return stack.enter_context(terminal)


def _trace(opened: OpenFolder, start: Start, profile: ProfileOf | None, stack: ExitStack) -> Trace:
    if profile is None:
        return SILENT
    trace = Profile(opened.folder, operators=profile == "ops", rounds=opened.rounds - start.first, tell=opened.tell)
    stack.callback(trace.close)
    return trace
