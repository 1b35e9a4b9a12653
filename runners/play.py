"""Play a graph: open its run, play all rounds, and return the run that ended."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from rich.console import Console

from genrl_graph.dag.coordinator_config import CoordinatorConfig
from genrl_graph.dag.graph import Graph
from genrl_graph.dag.run_config import Mode, RunConfig
from genrl_graph.dag.schedule import Schedule, compile_graph
from genrl_graph.errors import GenrlGraphError, ParamError
from genrl_graph.messages import counted
from genrl_graph.runners.loop.context import StepReport
from genrl_graph.runners.loop.peers import Make, declared_value, digests
from genrl_graph.runners.loop.runner import LocalRunner, Runner
from genrl_graph.runners.loop.signals import what_is_left
from genrl_graph.runners.loop.threads import Threads, set_threads
from genrl_graph.runners.loop.trace import ProfileOf
from genrl_graph.runners.opening import OpenFolder, open_folder, open_run, replace_run
from genrl_graph.runners.session import Session
from genrl_graph.runners.tracking.next_steps import next_steps
from genrl_graph.runners.tracking.trackers import require_trackers
from genrl_graph.runners.tracking.waiting_bar import WaitingBar
from genrl_graph.store.notes_file import FAILED, add_note


@dataclass(frozen=True, slots=True)
class Run:
    """A run that ended: its folder, the number of rounds, and the digests of all carries at the start and the end.

    `before` and `after` map (peer, carry) to a digest. `unplayed` rounds were left out because the swarm was ahead.
    """

    folder: Path
    rounds: int
    before: Mapping[tuple[str, str], str]
    after: Mapping[tuple[str, str], str]
    unplayed: int = 0

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
    roles: Sequence[str] | None = None,
    threads: int | None = None,
    checkpoint_every: int | None = None,
    mode: Mode | None = None,
    eval_every: int | None = None,
    coordinator: CoordinatorConfig | Mapping[str, Any] | Literal["embedded"] | None = None,
    quiet: bool = False,
    imports: Mapping[str, str] | None = None,
    resume: bool = False,
    runner: Runner | None = None,
    profile: ProfileOf | None = None,
) -> Run:
    """Play a graph: in this process with `peers` peers in lockstep, or as `runner` says.

    Arguments win over the graph's `run:` options. Without `out` the run gets a new folder `runs/<graph>-<n>`.
    `roles` are those that this peer plays, as a rank or in a swarm. `imports` records the scripts that define nodes
    (path: hash). With `resume` the run in the folder continues from its newest checkpoint and the steps that were
    committed since; the result is bit-identical to that of a run that was never interrupted. `coordinator` is the
    contract that `coordinate` nodes report to. `profile` writes a Chrome trace of the steps into the folder, with
    "ops" also one of the torch operators of a round.

    Raises `GraphError` before anything is loaded; `StoreError` where the folder is taken, or where an update that is
    executed again has another result than the first time; `NodeFailed` where a node fails. Committed steps stay.
    """
    arguments = {
        "rounds": rounds,
        "seed": seed,
        "peers": peers,
        "roles": None if roles is None else tuple(roles),
        "threads": threads,
        "checkpoint_every": checkpoint_every,
        "mode": mode,
        "eval_every": eval_every,
        "coordinator": coordinator,
    }
    config = run_options(graph.run, arguments)
    if runner is None and config.replicas > 1:
        launch = f"torchrun --nproc-per-node {config.peers * config.replicas} -m genrl_graph run ... --runner torch"
        raise ParamError(f"run.replicas: {config.replicas}, but this is one process; start ranks with `{launch}`")
    if resume and out is None:
        raise ParamError("resume: name the run folder (out, or -o on the command line)")
    return play_schedule(
        compile_graph(replace_run(graph, config)).played_by(config.roles),
        config,
        folder=None if out is None else Path(out),
        console=Console(stderr=True, highlight=False, quiet=quiet),
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
    resumable: bool = True,
    runner: Runner | None = None,
    profile: ProfileOf | None = None,
) -> Run:
    """Play a compiled graph; `make` makes the carries, `see` gets the report of every committed step.

    `resumable` says that a signal leaves a run that can be resumed.
    """
    runner = runner or LocalRunner(config.peers)
    console.quiet = console.quiet or not runner.leads
    require_trackers(config.trackers)
    with WaitingBar(console).show("loading torch"):
        fixed = set_threads(config.threads)
    config = runner.configured(config)
    with ExitStack() as stack:
        if runner.serve(schedule, config, make):
            return Run(folder or Path(), config.rounds, {}, {})
        opened = open_folder(
            schedule,
            config,
            runner,
            folder=folder,
            console=console,
            imports=imports,
            resume=resume,
            stack=stack,
        )
        if opened.complete:
            return _complete_run(opened)
        stack.enter_context(_noting_failure(opened.folder))
        if resumable:
            opened.stop.left = what_is_left(None if opened.previous is None else opened.run_folder)
        run, before = open_run(opened, make, see, profile, stack)
        if resumable:
            opened.stop.left = what_is_left(opened.run_folder)
        session = Session(run, threads=Threads(fixed=fixed))
        session.play()
        after = digests(run.players)
    measured = run.start.first + run.terminal.played > 0
    commands = next_steps(opened.folder, schedule.graph, imports, measured=measured)
    store, notes = opened.folder / "rollouts.zarr", session.summary()
    run.terminal.summary(before=before, after=after, store=store, notes=notes, then=commands)
    run.terminal.unplayed(session.unplayed)
    return Run(opened.folder, run.rounds, before, after, session.unplayed)


@contextmanager
def _noting_failure(folder: Path) -> Iterator[None]:
    """Add a failure of the block to the notes of the run, for those who look at it later."""
    try:
        yield
    except GenrlGraphError as error:
        add_note(folder, f"{FAILED}{error}")
        raise


def run_options(options: RunConfig, arguments: Mapping[str, object]) -> RunConfig:
    """Return the `run:` options of a graph with the arguments that are not None; raises `ParamError` for bad values."""
    overrides = {name: value for name, value in arguments.items() if value is not None}
    try:
        return RunConfig.model_validate(options.model_dump() | overrides)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        text = first["msg"][:1].lower() + first["msg"][1:]
        where = ".".join(map(str, ("run", *first["loc"])))
        got = f", got {first['input']!r}" if first["loc"] else ""
        raise ParamError(f"{where}: {text.removeprefix('value error, ')}{got}") from error


def _complete_run(opened: OpenFolder) -> Run:
    """Return a resumed run that has nothing left to do."""
    assert opened.previous is not None
    names, rounds = opened.runner.names, opened.rounds
    opened.tell(f"{opened.folder}: complete after {counted(rounds, 'round')}; raise run.rounds to go on")
    before, after = (opened.previous.digests(opened.schedule, names, rounds=at) for at in (0, rounds))
    return Run(opened.folder, rounds, before, after)
