"""The progress of the peers of a run: the steps that each has committed in its round, and what follows of them."""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from genrl_graph.dag.graph import Graph
from genrl_graph.dag.problems import Problem
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.records.write import EVAL_PREFIX
from genrl_graph.store.journal_tail import CommittedStep
from genrl_graph.store.notes_file import Waiting

State = Literal["later", "running", "waiting", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Order:
    """The nodes of a round in commit order, those that are exchanges, and which run beside which."""

    nodes: tuple[str, ...]
    timeouts: Mapping[str, float]
    beside: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph, problems: Sequence[Problem] = ()) -> "Order":
        """Return the order of a graph; that of the file where it has problems, such as node types unknown here."""
        if problems:
            return cls(tuple(graph.nodes), {})
        schedule = compile_graph(graph)
        last = {step.node: at for at, step in enumerate(schedule.steps)}
        exchanges = [step.node for step in schedule.steps if step.action == "close"]
        return cls(
            tuple(sorted(last, key=last.__getitem__)),
            {name: float(getattr(schedule.nodes[name], "timeout_s", 0.0)) for name in exchanges},
            {step.node: step.beside for step in schedule.steps if step.beside},
        )


@dataclass(slots=True)
class PeerProgress:
    """The round of a peer, the nodes that it has committed in it, and when it committed the last one.

    `missing` are the peers that gave nothing to its last exchanges, with the reason and the round.
    """

    round: int = 0
    done: set[str] = field(default_factory=set)
    since: float = 0.0
    evaluating: str = ""
    missing: dict[str, str] = field(default_factory=dict)

    def take(self, step: CommittedStep, at: float) -> None:
        """Add a committed step."""
        self.since = at
        if step.node.startswith(EVAL_PREFIX):
            self.evaluating = step.node
            return
        self.evaluating = ""
        if step.round > self.round:
            self.round, self.done = step.round, set()
        if step.round == self.round:
            self.done.add(step.node)
        absent = step.facts.get("missing")
        if isinstance(absent, dict):
            for peer, why in list(absent.items())[:64]:
                self.missing[str(peer)] = f"{why} in round {step.round} ({step.node})"

    def begin_next(self, order: Order) -> None:
        """Go to the next round where all nodes of this one are committed."""
        if order.nodes and self.done.issuperset(order.nodes):
            self.round, self.done = self.round + 1, set()

    def current(self, order: Order) -> list[str]:
        """Return the nodes that run now: the first that is not committed, and those that run beside it."""
        first = next((name for name in order.nodes if name not in self.done), None)
        if first is None or self.evaluating:
            return []
        beside = [name for name, other in order.beside.items() if other == first and name not in self.done]
        return [first, *(name for name in beside if name != first)]


@dataclass(slots=True)
class Progress:
    """The progress of all peers of a run, by the peer whose steps they are."""

    peers: dict[str, PeerProgress] = field(default_factory=dict)

    @property
    def latest(self) -> float:
        """The time of the last commit, in seconds since 1970."""
        return max((peer.since for peer in self.peers.values()), default=0.0)

    def take(self, steps: Iterable[CommittedStep], at: float | None = None) -> bool:
        """Add committed steps, and return whether there were any."""
        now, any_step = time.time() if at is None else at, False
        for step in steps:
            self.peers.setdefault(step.holder, PeerProgress()).take(step, now)
            any_step = True
        return any_step

    def reported(self, rounds: Mapping[str, int], order: Order) -> None:
        """Take the last rounds that metrics report: their steps may have left the journal."""
        for peer, round in rounds.items():
            known = self.peers.setdefault(peer, PeerProgress(round=-1))
            if round > known.round:
                known.round, known.done = round, set(order.nodes)

    def nodes(
        self, order: Order, *, running: Collection[str], failed: str, waiting: tuple[Waiting, float] | None
    ) -> dict[str, dict[str, Any]]:
        """Return the state of each node over the peers that are `running`, over all where none is, and what it says.

        It says `words`; between two of them belong the seconds that have passed since the time `since`. `waiting` is
        whom an exchange waits for, and since when.
        """
        chosen = {peer: progress for peer, progress in self.peers.items() if peer in running} or self.peers
        states = {peer: self._of(progress, order, peer in running) for peer, progress in chosen.items()}
        shown: dict[str, dict[str, Any]] = {}
        for name in order.nodes:
            by_peer = {peer: known[name] for peer, known in states.items()}
            state = "failed" if name == failed else _joint(list(by_peer.values()))
            shown[name] = {"state": state, **self._said(name, state, by_peer, order, waiting)}
        return shown

    def _of(self, progress: PeerProgress, order: Order, running: bool) -> dict[str, State]:
        if running:
            progress.begin_next(order)
        current = progress.current(order) if running else []
        states: dict[str, State] = {}
        for name in order.nodes:
            done: State = "done" if name in progress.done else "later"
            states[name] = ("waiting" if name in order.timeouts else "running") if name in current else done
        return states

    def _said(
        self,
        name: str,
        state: State,
        by_peer: Mapping[str, State],
        order: Order,
        waiting: tuple[Waiting, float] | None,
    ) -> dict[str, Any]:
        if state not in ("running", "waiting"):
            return {"words": [state]}
        busy = [peer for peer, each in by_peer.items() if each == state]
        since = min(self.peers[peer].since for peer in busy)
        if state == "running":
            whose = f" ({', '.join(busy[:3])})" if len(by_peer) > 1 else ""
            return {"words": ["running ", f" s{whose}"], "since": since}
        if waiting is not None and waiting[0].node == name:
            told, since = waiting
            return {"words": [f"waiting for {told.whom} ", f" of {told.timeout_s:g} s"], "since": since}
        limit = order.timeouts.get(name)
        return {"words": ["waiting for peers ", f" s of {limit:g} s" if limit else " s"], "since": since}


def said(node: Mapping[str, Any], now: float) -> str:
    """Return what a node says at a time, as one text."""
    return f"{max(0.0, now - node.get('since', now)):.0f}".join(node["words"])


def _joint(states: Sequence[State]) -> State:
    """Return the state of a node over its peers: any that waits or runs, else later unless all are done."""
    for state in ("waiting", "running"):
        if state in states:
            return state
    return "done" if states and all(state == "done" for state in states) else "later"
