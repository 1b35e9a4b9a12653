"""Plays a graph: makes the run folder, the carries and the peers, and runs the loop to the end."""

import importlib.metadata
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from genrl_graph.errors import GenrlGraphError, ParamError
from genrl_graph.fingerprint import full_fingerprint
from genrl_graph.graph import Graph
from genrl_graph.node import Exchange, Source
from genrl_graph.policy import Carried
from genrl_graph.resources import TaskBook
from genrl_graph.run_config import RunConfig
from genrl_graph.runfolder import refuse_taken
from genrl_graph.runners.checkpoint import save_checkpoint
from genrl_graph.runners.meet import LocalSwarm, require_peers
from genrl_graph.runners.metrics import JsonLines, RoundMetrics, TensorBoard
from genrl_graph.runners.progress import Terminal
from genrl_graph.runners.round import Done, Loop, Peer
from genrl_graph.runners.signals import stop_on_signals
from genrl_graph.schedule import Schedule, compile_graph
from genrl_graph.store import RunStore

PACKAGES = ("genrl-graph", "torch", "transformers", "trl", "numpy", "pyarrow", "zarr")


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
    quiet: bool = False,
    imports: Mapping[str, str] | None = None,
) -> Run:
    """Play a graph in this process with `peers` peers in lockstep.

    What is given wins over the graph's `run:` options. Without `out` the run gets a new folder `runs/<graph>-<n>`.
    `imports` records the scripts that defined nodes (path: hash). Raises `GraphError` before anything is loaded,
    `StoreError` where the folder is taken, `NodeFailed` where a node fails; what was committed stays.
    """
    given = {
        "rounds": rounds,
        "seed": seed,
        "peers": peers,
        "threads": threads,
        "checkpoint_every": checkpoint_every,
    }
    config = run_options(graph.run, given)
    schedule = compile_graph(graph)
    names = [f"peer{at:04d}" for at in range(config.peers)]
    for node in schedule.nodes.values():
        if isinstance(node, Exchange):
            require_peers(node, len(names), round=0)
    _set_threads(config.threads)
    console = Console(stderr=True, highlight=False, quiet=quiet)
    folder = Path(out) if out is not None else free_folder(graph.name)
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        refuse_taken(folder)
        prepare(schedule, ready=stop.check)
        players = make_peers(schedule, names, seed=config.seed, tell=partial(_loading, console), ready=stop.check)
        before = digests(players)
        played = replace_run(graph, config)
        store = RunStore.create(
            folder, played.record(), _versions(played, imports or {}), block_rounds=config.block_rounds
        )
        stack.enter_context(store)
        metrics = RoundMetrics([JsonLines(folder / "metrics.jsonl"), TensorBoard(folder / "events")])
        stack.callback(metrics.close)
        terminal = stack.enter_context(Terminal(schedule, rounds=config.rounds, console=console))

        def watch(done: Done) -> None:
            metrics.take(done)
            if done.step is not schedule.steps[-1]:  # after the last step the round can end
                stop.check()

        loop = Loop(
            schedule,
            players,
            LocalSwarm(names),
            seed=config.seed,
            commit=store.commit,
            begin=terminal.step,
            watch=watch,
        )
        for number in range(config.rounds):
            started = time.perf_counter()
            loop.play(number)
            seconds = time.perf_counter() - started
            terminal.round(number, metrics.end(number, seconds), seconds)
            if stop.wanted or _checkpoint_due(number, config):
                save_checkpoint(store.checkpoints / f"{number + 1:06d}", changing_carries(schedule, players))
            if number < config.rounds - 1:
                stop.check()
        after = digests(players)
    terminal.summary(before=before, after=after, store=folder / "rollouts.zarr")
    return Run(folder, config.rounds, before, after)


def prepare(schedule: Schedule, *, ready: Callable[[], None] = lambda: None) -> None:
    """Let every node load what may be missing or broken, before a policy is made; errors name the node.

    `ready` is called after each and may raise to end the run.
    """
    for name, node in schedule.nodes.items():
        with _named(f"nodes.{name}"):
            node.prepare()
        ready()


def changing_carries(schedule: Schedule, players: Sequence[Peer]) -> dict[str, dict[str, Carried]]:
    """What a checkpoint holds, by peer: all carries but the frozen ones, which are made anew from the graph."""
    changing = [name for name, part in schedule.graph.carries.items() if part.next is not None]
    return {player.name: {name: player.carries[name] for name in changing} for player in players}


def _loading(console: Console, carry: str, type_name: str) -> None:
    console.print(f"loading {carry} ({type_name})", markup=False)


@contextmanager
def _named(where: str) -> Iterator[None]:
    try:
        yield
    except GenrlGraphError as error:
        raise type(error)(f"{where}: {error}") from error


def _checkpoint_due(number: int, config: RunConfig) -> bool:
    every = config.checkpoint_every
    return number == config.rounds - 1 or bool(every and (number + 1) % every == 0)


def replace_run(graph: Graph, config: RunConfig) -> Graph:
    """The same graph with other run options."""
    copy = Graph(graph.name, run=config)
    copy.carries, copy.nodes = graph.carries, graph.nodes
    return copy


def run_options(written: RunConfig, given: Mapping[str, int | None]) -> RunConfig:
    """The options of a run: what is given, else what the graph says; raises `ParamError` for a wrong value."""
    wins = {name: value for name, value in given.items() if value is not None}
    try:
        return RunConfig.model_validate(written.model_dump() | wins)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        text = first["msg"][:1].lower() + first["msg"][1:]
        raise ParamError(f"run.{first['loc'][0]}: {text}, got {first['input']!r}") from error


def make_peers(
    schedule: Schedule,
    names: Sequence[str],
    *,
    seed: int,
    tell: Callable[[str, str], None] = lambda carry, type_name: None,
    ready: Callable[[], None] = lambda: None,
) -> list[Peer]:
    """Peers that all start alike: every carry is a function of run seed and carry name.

    `tell` hears of each carry before the first peer loads it; `ready` is called after each and may raise.
    """
    sources = {name: node for name, node in schedule.nodes.items() if isinstance(node, Source)}
    peers = []
    for name in names:
        carries = {}
        for carry, part in schedule.graph.carries.items():
            if name == names[0]:
                tell(carry, part.type_name)
            with _named(f"carry.{carry}"):
                carries[carry] = part.carry.init(carry, seed=seed)
            ready()
        peers.append(Peer(name, carries, TaskBook(sources)))
    return peers


def digests(peers: Sequence[Peer]) -> dict[tuple[str, str], str]:
    """The digest of every carry of every peer."""
    return {(peer.name, name): value.digest() for peer in peers for name, value in peer.carries.items()}


def free_folder(name: str) -> Path:
    """The first `runs/<name>-<n>` that does not exist."""
    return next(path for n in itertools.count(1) if not (path := Path("runs") / f"{name}-{n}").exists())


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        import torch

        torch.set_num_threads(threads)


def _versions(graph: Graph, imports: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"fingerprint": full_fingerprint(graph)} | ({"imports": dict(imports)} if imports else {})
