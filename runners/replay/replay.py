"""Replay an edited graph over the stored rounds of a run: read rollouts, recompute rewards and advantages."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from genrl_graph.contract.node import Node, Source, Update
from genrl_graph.dag.fingerprint import full_fingerprint
from genrl_graph.dag.graph import Graph
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.dag.schedule import Schedule, Step, compile_graph
from genrl_graph.edge_types.edge_type import CREDITED, SCORED
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.task import TaskBook
from genrl_graph.errors import ParamError, named
from genrl_graph.long_work import displaying, long_work
from genrl_graph.records.stored_run import StoredRun, open_run
from genrl_graph.runners.loop.context import RunContext, StepReport
from genrl_graph.runners.loop.exchange import LoopbackSwarm
from genrl_graph.runners.loop.peers import Peer, changing_carries, digests, make_peers
from genrl_graph.runners.loop.round import run_round
from genrl_graph.runners.loop.stage_metrics import Stages
from genrl_graph.runners.loop.threads import set_threads
from genrl_graph.runners.opening import replace_run
from genrl_graph.runners.replay.deltas import ColumnDelta, ColumnDeltas
from genrl_graph.runners.replay.plan import NodeVerdict, ReplayPlan, plan_replay
from genrl_graph.runners.replay.rounds import HolderRound, StoredRounds
from genrl_graph.runners.replay.update import off_policy, start_carries
from genrl_graph.runners.resume.checkpoint import checkpoint_folder, save_checkpoint
from genrl_graph.runners.resume.code_versions import CodeVersions, run_versions
from genrl_graph.runners.resume.data_digests import changed_data
from genrl_graph.runners.tracking.metrics import RoundMetrics
from genrl_graph.runners.tracking.terminal import Terminal
from genrl_graph.runners.tracking.trackers import JsonLines
from genrl_graph.runners.tracking.waiting_bar import WaitingBar
from genrl_graph.store.durable import remove_draft
from genrl_graph.store.journal import Record
from genrl_graph.store.run_folder import refuse_taken
from genrl_graph.store.run_store import RunStore


@dataclass(frozen=True, slots=True)
class Replay:
    """A replay that ended: its folder, the rounds and rows that it read, the decision for each node, the deltas.

    `groups` and `rows` count what was read from the store. `moves` are the deltas of rewards and advantages. `notes`
    are lines about edits that were not applied. `before` and `after` are digests of the carries by peer and name,
    where updates ran.
    """

    folder: Path
    source: Path
    rounds: Sequence[int]
    peers: Sequence[str]
    groups: int
    rows: int
    graph: Graph
    verdicts: Mapping[str, NodeVerdict]
    moves: Sequence[ColumnDelta]
    notes: Sequence[str]
    before: Mapping[tuple[str, str], str]
    after: Mapping[tuple[str, str], str]


def replay(
    run: Path | str,
    graph: Graph,
    *,
    out: Path | str,
    rounds: tuple[int, int | None] | None = None,
    update: bool = False,
    recompute: Collection[str] = (),
    imports: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> Replay:
    """Play `graph` over complete rounds of a run, `rounds` = (first, end) or all, and write the result to `out`.

    The rows of sources, generators and exchanges are read: no model is loaded and no token sampled. Selects, rewards
    and advantages are recomputed where they, their code or their inputs changed, or where `recompute` names them
    (`all`); other nodes are read, too. Updates run only with `update`, off-policy: the stored log-probs are the old
    ones. They start from the newest checkpoint at or before the first round, else from the initial weights. Random
    streams and run options are those of the run.

    Raises `GraphError` for an edit that needs new rollouts, `ParamError` for rounds that the run does not have,
    `StoreError` where `out` is taken. A replay that fails removes `out`.
    """
    source, folder = open_run(run), Path(out)
    refuse_taken(folder)
    compile_graph(graph)  # report problems of the graph before those of the replay
    stored = StoredRounds(source)
    chosen = stored.chosen(*(rounds or (min(stored.holders, default=0), None)))
    origins = CodeVersions(source.versions)
    then, now = source.graph.played_in("rounds"), graph.played_in("rounds")
    plan = plan_replay(then, now, origins, where=str(run), update=update, recompute=recompute)
    schedule = compile_graph(replace_run(plan.graph, _options(source.graph.run, len(chosen))))
    if update and not plan.names("updated"):
        raise ParamError(f"--update: graph {graph.name!r} has no update; leave it out")
    versions = run_versions(schedule.graph, imports or {}) | {"replayed": _record(source, chosen, plan, update=update)}
    console = Console(stderr=True, highlight=False, quiet=quiet)
    if update:
        set_threads(source.graph.run.threads)
    with displaying(WaitingBar(console).show):
        players = _players(schedule, plan, stored.peers)
    starts = start_carries(players, stored, schedule, chosen[0]) if update else []
    before = digests(players)
    if update:
        versions["carries"] = {carry: before[stored.peers[0], carry] for carry in schedule.graph.carries}
    with ExitStack() as stack:
        store = RunStore.create(folder, schedule.graph.record(), versions)
        stack.push(lambda kind, error, at: remove_draft(folder) if kind is not None else None)
        stack.enter_context(store)
        played = _play_rounds(schedule, plan, stored, players, store, chosen, console)
        if update:
            last = checkpoint_folder(store.checkpoints, chosen[-1] + 1)
            save_checkpoint(last, changing_carries(schedule, players))
    return Replay(
        folder=folder,
        source=source.folder,
        rounds=chosen,
        peers=stored.peers,
        groups=len(played.read),
        rows=sum(played.read.values()),
        graph=schedule.graph,
        verdicts=plan.verdicts,
        moves=played.deltas.deltas(),
        notes=[*plan.notes, *changed_data(source.versions, versions), *starts],
        before=before,
        after=digests(players),
    )


def _play_rounds(
    schedule: Schedule,
    plan: ReplayPlan,
    stored: StoredRounds,
    players: Sequence[Peer],
    store: RunStore,
    chosen: Sequence[int],
    console: Console,
) -> "_Rounds":
    """Replay the chosen rounds into a store; returns what was read and compared."""
    with ExitStack() as stack:
        terminal = stack.enter_context(Terminal(schedule, rounds=chosen[-1] + 1, console=console, played=chosen[0]))
        rounds = _Rounds(schedule, plan, stored, players, store, terminal)
        stack.callback(rounds.close)
        for number in chosen:
            rounds.play(number)
    return rounds


def _record(source: StoredRun, chosen: Sequence[int], plan: ReplayPlan, *, update: bool) -> dict[str, Any]:
    """Return the origin of a replay for its graph.yaml: run, rounds and decisions."""
    return {
        "run": str(source.folder),
        "rounds": [chosen[0], chosen[-1] + 1],
        "fingerprint": full_fingerprint(source.graph),
        "update": update,
        "nodes": {name: [verdict.fate, verdict.why] for name, verdict in plan.verdicts.items()},
    }


class _Rounds:
    """Replays round by round: recomputed nodes run in the loop of every run, records of other nodes are copied."""

    def __init__(
        self,
        schedule: Schedule,
        plan: ReplayPlan,
        stored: StoredRounds,
        players: Sequence[Peer],
        store: RunStore,
        terminal: Terminal,
    ) -> None:
        self._schedule, self._verdicts, self._stored = schedule, plan.verdicts, stored
        self._store, self._terminal = store, terminal
        self._players = {player.name: player for player in players}
        self._steps = [step for step in schedule.steps if step.action != "open"]
        self._holder_rounds: dict[str, HolderRound] = {}
        self._records: dict[tuple[str, str], Record] = {}
        self._done: dict[tuple[str, str], StepReport] = {}
        self._metrics = RoundMetrics([JsonLines(store.folder / "metrics.jsonl")], stages=Stages(schedule))
        self._context = RunContext(
            schedule=_computed(schedule, plan),
            swarm=LoopbackSwarm(),
            seed=schedule.graph.run.seed,
            commit=self._keep,
            begin=terminal.step,
            watch=self._watch,
            read_inputs=self._inputs,
            replayed=self._recorded,
        )
        self.deltas = ColumnDeltas()
        self.read: dict[str, int] = {}

    def play(self, number: int) -> None:
        """Replay a round of the peers that played it; recomputed and copied records are committed together."""
        started = time.perf_counter()
        holders = self._stored.holders[number]
        self._holder_rounds = {holder: self._stored.holder_round(number, holder) for holder in holders}
        run_round(self._context, [self._players[holder] for holder in holders], number)
        records = [self._record(step.node, holder) for step in self._steps for holder in holders]
        self._store.commit(records)
        for step in self._steps:
            for holder in holders:
                self._metrics.take(self._done.get((step.node, holder)) or self._copied(number, step, holder))
        self._compare(holders)
        seconds = time.perf_counter() - started
        self._terminal.round(number, self._metrics.end(number, seconds), seconds)
        self._records, self._done, self._holder_rounds = {}, {}, {}

    def close(self) -> None:
        """Close metrics.jsonl."""
        self._metrics.close()

    def _inputs(self, node: str, round: int, peer: Peer) -> dict[str, Any]:
        """Return the inputs of a node: recomputed values of this round, else stored ones."""
        part, stored = self._schedule.graph.nodes[node], self._holder_rounds[peer.name]
        refs = {edge.ref for edge in part.edges()}
        inputs = part.bind({ref: peer.values[ref] if ref in peer.values else stored[ref] for ref in refs})
        return off_policy(inputs) if isinstance(part.declared, Update) else inputs

    def _recorded(self, node: str, holder: str) -> Mapping[str, Any] | None:
        """Return the facts that the run recorded of a node in this round, None for a new node."""
        was = self._verdicts[node].was
        return None if was is None else self._holder_rounds[holder].recorded(was).facts

    def _keep(self, records: Sequence[Record]) -> None:
        self._records |= {(record.node, record.holder): record for record in records}

    def _watch(self, done: StepReport) -> None:
        self._done[done.step.node, done.peer] = done

    def _record(self, node: str, holder: str) -> Record:
        """Return the record of a node to commit: recomputed, copied, or the note that it was left out."""
        stored, verdict = self._holder_rounds[holder], self._verdicts[node]
        if (node, holder) in self._records:
            return self._records[node, holder]
        if verdict.fate == "left out":
            return Record(stored.round, node, holder, {"left_out": verdict.why}, {})
        record = stored.record(node)
        for group, table in record.tables.items():
            self.read[group] = self.read.get(group, 0) + table.num_rows
        return record

    def _copied(self, number: int, step: Step, holder: str) -> StepReport:
        metrics: Mapping[str, float] = {}
        if self._verdicts[step.node].fate != "left out":
            metrics = self._holder_rounds[holder].recorded(step.node).metrics
        return StepReport(number, step, holder, 0.0, metrics, recalled=True)

    def _compare(self, holders: Sequence[str]) -> None:
        """Compare the recomputed rewards and advantages of a round with the stored ones."""
        for step in self._steps:
            verdict = self._verdicts[step.node]
            for holder in holders if verdict.fate == "recomputed" and verdict.was is not None else ():
                for ref, rows in self._done[step.node, holder].outputs.items():
                    if isinstance(rows, Frame) and rows.marks & {SCORED, CREDITED}:
                        old_ref = f"{verdict.was}{ref.removeprefix(step.node)}"
                        self.deltas.take(ref, self._holder_rounds[holder].table(old_ref), rows)


def _computed(schedule: Schedule, plan: ReplayPlan) -> Schedule:
    """Return the schedule of the nodes that are recomputed; without updates it has no carries."""
    names = set(plan.names("recomputed", "updated"))
    graph = schedule.graph
    if not plan.names("updated"):
        graph = Graph(graph.name, run=graph.run)
        graph.nodes = schedule.graph.nodes
    return replace(schedule, graph=graph, steps=tuple(step for step in schedule.steps if step.node in names))


def _options(run: RunConfig, rounds: int) -> RunConfig:
    """Return the options of the run, without evaluations and trackers."""
    return run.model_copy(update={"rounds": rounds, "mode": "train", "eval_every": 0, "trackers": ()})


def _players(schedule: Schedule, plan: ReplayPlan, names: Sequence[str]) -> list[Peer]:
    """Prepare the nodes that are recomputed, and return the peers of the run, with carries where updates run."""
    needed = [schedule.nodes[name] for name in plan.names("recomputed", "updated")]
    sources = {name: node for name, node in schedule.nodes.items() if isinstance(node, Source)}
    work: list[tuple[Node, Callable[[], None]]] = [(node, node.prepare) for node in needed]
    if any("tasks" in node.signature.resources for node in needed):
        work += [(source, source.prepare_to_resolve) for source in sources.values()]
    for node, prepare in work:
        with named(f"nodes.{node.place.node}"), long_work(f"loading {node.place.node} ({node.type_name})"):
            prepare()
    if not plan.names("updated"):
        return [Peer(name, {}, TaskBook(sources)) for name in names]
    return make_peers(schedule, names, seed=schedule.graph.run.seed)
