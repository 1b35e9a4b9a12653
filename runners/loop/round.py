"""The one loop: plays the steps of a schedule, round after round, for the peers of this process."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from genrl_graph.allocator import release_memory
from genrl_graph.contract.node import Coordinate
from genrl_graph.contract.policy import Policy
from genrl_graph.dag.schedule import Schedule, Step
from genrl_graph.errors import GenrlGraphError
from genrl_graph.records.recall import Recorded
from genrl_graph.runners.loop.background import Ahead
from genrl_graph.runners.loop.budget import Budget
from genrl_graph.runners.loop.exchange import Swarm
from genrl_graph.runners.loop.peers import Peer
from genrl_graph.runners.loop.step import StepResult, Steps, sizes_of
from genrl_graph.runners.loop.trace import SILENT, Trace
from genrl_graph.store.journal import Record


@dataclass(frozen=True, slots=True)
class Done:
    """What one peer's step gave: its time in seconds, what it reported, its outputs, and the tries that it took.

    `recalled`: the run had committed it before it was cut, so the time is not that of the step.
    """

    round: int
    step: Step
    peer: str
    seconds: float
    metrics: Mapping[str, float]
    outputs: Mapping[str, Any] = field(default_factory=dict)
    tries: int = 1
    recalled: bool = False
    evaluating: bool = False


class Loop:
    """Plays rounds of a schedule. Peers run every step in the order of their names, on one thread.

    Only steps whose nodes may overlap run ahead, in a second one, while a generator generates or peers are waited
    for. They have their turn behind that generator, whether they were quick or slow: there they are awaited and
    committed, and there they fail.

    One that is `evaluating` plays the schedule of an evaluation (`evaluate.evaluation_schedule`): updates and forks
    hand on the value that they were given, coordinators are left out, random streams and groups of the store are its
    own, and `round` is the number of rounds trained so far.

    What `recall` knows of a round, node and peer was committed before the run was cut. Such a step is not run: its
    outputs are made again from the record; only updates and forks are applied again, and verified.

    `inputs` gives what a node reads in a round; by default the outputs of this round as the graph wires them.
    """

    def __init__(
        self,
        schedule: Schedule,
        peers: Sequence[Peer],
        swarm: Swarm,
        *,
        seed: int,
        commit: Callable[[Sequence[Record]], object],
        begin: Callable[[Step, str], None] = lambda step, peer: None,
        watch: Callable[[Done], None] = lambda done: None,
        budget: Budget | None = None,
        evaluating: bool = False,
        recall: Callable[[int, str, str], Recorded | None] = lambda round, node, peer: None,
        inputs: Callable[[str, int, Peer], dict[str, Any]] | None = None,
        trace: Trace = SILENT,
    ) -> None:
        self.schedule = schedule
        self.peers = list(peers)
        self._commit = commit
        self._begin, self._watch = begin, watch
        self._budget, self._evaluating = budget or Budget(), evaluating
        self._steps = Steps(
            schedule,
            swarm,
            seed=seed,
            budget=self._budget,
            evaluating=evaluating,
            recall=recall,
            inputs=inputs or (lambda node, round, peer: schedule.graph.nodes[node].bind(peer.values)),
            trace=trace,
        )
        self._background = schedule.background if inputs is None else {}
        self._ahead = Ahead[StepResult]()

    def play(self, round: int, *, only_recorded: bool = False) -> None:
        """One pass over the graph; each step of all peers is committed before the next begins.

        A pass that ends early hands on what its updates have made so far: one of `only_recorded` ends where the run
        was cut, and one in which the swarm has gone on without these peers raises `Behind`.
        """
        for peer in self.peers:
            peer.values = dict(peer.carries)
        try:
            for step in self.schedule.steps:
                recorded = all(self._steps.recorded(step, round, peer) for peer in self.peers)
                if only_recorded and not recorded:
                    if step.action == "open":  # it has no record; what was committed may stand behind it
                        continue
                    break
                if not self._is_left_out(step, recorded, round):
                    if not recorded:
                        self._start_ahead(self._background.get(str(step), ()), round)
                    self._play_step(step, round)
        finally:
            self._ahead.end()
            for peer in self.peers:
                self._hand_on(peer)

    def meets(self, round: int) -> bool:
        """Whether this round needs the others: an exchange of it was not closed before a cut."""
        closes = [step for step in self.schedule.steps if step.action == "close"]
        return not closes or not all(self._steps.recorded(step, round, peer) for step in closes for peer in self.peers)

    def _is_left_out(self, step: Step, recorded: bool, round: int) -> bool:
        """Whether a step is nothing to do: its exchange was closed before a cut, or nobody is told of evaluations."""
        node = self.schedule.nodes[step.node]
        if self._evaluating and isinstance(node, Coordinate):
            return True
        return step.action == "open" and recorded and not self._steps.is_wanted(node, round)

    def _play_step(self, step: Step, round: int) -> None:
        records, done = [], []
        for peer in self.peers:
            self._begin(step, peer.name)
            started = time.perf_counter()
            with self._steps.span("await" if self._runs_ahead(step, peer) else "step", step, round, peer) as found:
                played = self._play(step, round, peer)
                found |= sizes_of(played)
            peer.values.update(played.outputs)
            seconds = time.perf_counter() - started if played.seconds is None else played.seconds
            told = (played.metrics, played.outputs, played.tries, played.recalled)
            done.append(Done(round, step, peer.name, seconds, *told, self._evaluating))
            if played.record is not None:
                records.append(played.record)
        if records:
            with ExitStack() as spans:
                for peer in self.peers:
                    spans.enter_context(self._steps.span("commit", step, round, peer))
                self._commit(records)
        for item in done:
            rows = int(item.metrics.get("failed_rows", 0))
            self._budget.spend_rows(rows, where=self._steps.where(step, round, item.peer))
            self._watch(item)
        release_memory(seldom=True)

    def _hand_on(self, peer: Peer) -> None:
        if not self._evaluating:
            for name, part in self.schedule.graph.carries.items():
                peer.carries[name] = value = peer.values.get(part.next or name, peer.carries[name])
                if isinstance(value, Policy):
                    value.name = name  # a fork that is carried on becomes the policy of that carry
        peer.values = {}

    def _play(self, step: Step, round: int, peer: Peer) -> StepResult:
        """One step of one peer, tried again as long as the budget allows."""
        errors: list[str] = []
        ahead = self._ahead.take((step.node, peer.name)) if self._runs_ahead(step, peer) else None
        while True:
            try:
                return self._steps.run(step, round, peer, errors) if ahead is None else ahead.result()
            except GenrlGraphError as error:
                ahead = None
                if not self._budget.retry(self.schedule.nodes[step.node], error, attempt=len(errors)):
                    raise
                errors.append(str(error))

    def _start_ahead(self, steps: Iterable[Step], round: int) -> None:
        """Start what the run has not committed before it was cut; the first try of each runs ahead, others never."""
        for step in steps:
            for peer in self.peers:
                if self._steps.recorded(step, round, peer) is None:
                    self._ahead.start((step.node, peer.name), partial(self._step_ahead, step, round, peer))

    def _step_ahead(self, step: Step, round: int, peer: Peer) -> StepResult:
        started = time.perf_counter()
        with self._steps.span("step", step, round, peer) as found:
            played = self._steps.run(step, round, peer, ())
            found |= sizes_of(played)
        return replace(played, seconds=time.perf_counter() - started)

    def _runs_ahead(self, step: Step, peer: Peer) -> bool:
        return step.action == "run" and (step.node, peer.name) in self._ahead
