"""The one loop: plays the steps of a schedule, round after round, for the peers of this process."""

import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import genrl_graph
from genrl_graph import seeds
from genrl_graph.errors import ColumnError, GenrlGraphError, NodeFailed, RewardFailed
from genrl_graph.graph import Part
from genrl_graph.heap import release_memory
from genrl_graph.journal import Record
from genrl_graph.node import Coordinate, Exchange, Fork, Node, Reward, Source, Update
from genrl_graph.policy import Carried, Policy, TextPolicy
from genrl_graph.resources import Log, TaskBook
from genrl_graph.runners.ahead import Ahead
from genrl_graph.runners.budget import Budget
from genrl_graph.runners.meet import Behind, Meeting, Swarm
from genrl_graph.runners.outputs import failed_rows, named_outputs, refuse_useless
from genrl_graph.runners.profile import SILENT, Trace
from genrl_graph.runners.recall import Recorded, verify
from genrl_graph.runners.record import step_metrics, step_record
from genrl_graph.runners.signals import Interrupted
from genrl_graph.schedule import Schedule, Step

EVAL = "eval/"
"""What the groups of an evaluation in the store, and its metrics, begin with."""


@dataclass(slots=True)
class Peer:
    """One copy of the game: its own carries and its own task book; `values` holds the outputs of the round."""

    name: str
    carries: dict[str, Carried]
    tasks: TaskBook
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def vocabularies(self) -> dict[str, int]:
        """How many ids each tokenizer of the carried policies has, by its fingerprint."""
        return {p.tokenizer: p.vocabulary for p in self.carries.values() if isinstance(p, TextPolicy)}


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


@dataclass(frozen=True, slots=True)
class _Played:
    """A step of one peer: what is committed, reported and given on."""

    record: Record | None
    metrics: Mapping[str, float]
    outputs: Mapping[str, Any]
    tries: int = 1
    recalled: bool = False
    seconds: float | None = None  # of a step that ran ahead


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
        self._swarm = swarm
        self._seed = seed
        self._commit = commit
        self._begin, self._watch = begin, watch
        self._budget, self._evaluating = budget or Budget(), evaluating
        self._recall, self._prefix, self._trace = recall, EVAL if evaluating else "", trace
        self._background = schedule.background if inputs is None else {}
        self._ahead = Ahead[_Played]()
        self._inputs = inputs or (lambda node, round, peer: wired_inputs(schedule.graph.nodes[node], peer.values))

    def play(self, round: int, *, only_recorded: bool = False) -> None:
        """One pass over the graph; each step of all peers is committed before the next begins.

        A pass that ends early hands on what its updates have made so far: one of `only_recorded` ends where the run
        was cut, and one in which the swarm has gone on without these peers raises `Behind`.
        """
        for peer in self.peers:
            peer.values = dict(peer.carries)
        try:
            for step in self.schedule.steps:
                recorded = all(self._recorded(step, round, peer) for peer in self.peers)
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
        return not closes or not all(self._recorded(step, round, peer) for step in closes for peer in self.peers)

    def _is_left_out(self, step: Step, recorded: bool, round: int) -> bool:
        """Whether a step is nothing to do: its exchange was closed before a cut, or nobody is told of evaluations."""
        node = self.schedule.nodes[step.node]
        if self._evaluating and isinstance(node, Coordinate):
            return True
        return step.action == "open" and recorded and not self._is_wanted(node, round)

    def _is_wanted(self, node: Node, round: int) -> bool:
        return isinstance(node, Exchange) and self._swarm.wanted(node, round=round)

    def _play_step(self, step: Step, round: int) -> None:
        records, done = [], []
        for peer in self.peers:
            self._begin(step, peer.name)
            started = time.perf_counter()
            with self._span("await" if self._runs_ahead(step, peer) else "step", step, round, peer) as found:
                played = self._play(step, round, peer)
                found |= _sizes(played)
            peer.values.update(played.outputs)
            seconds = time.perf_counter() - started if played.seconds is None else played.seconds
            told = (played.metrics, played.outputs, played.tries, played.recalled)
            done.append(Done(round, step, peer.name, seconds, *told, self._evaluating))
            if played.record is not None:
                records.append(played.record)
        if records:
            with ExitStack() as spans:
                for peer in self.peers:
                    spans.enter_context(self._span("commit", step, round, peer))
                self._commit(records)
        for item in done:
            rows = int(item.metrics.get("failed_rows", 0))
            self._budget.spend_rows(rows, where=self._where(step, round, item.peer))
            self._watch(item)
        release_memory(seldom=True)

    def _hand_on(self, peer: Peer) -> None:
        if not self._evaluating:
            for name, part in self.schedule.graph.carries.items():
                peer.carries[name] = value = peer.values.get(part.next or name, peer.carries[name])
                if isinstance(value, Policy):
                    value.name = name  # a fork that is carried on becomes the policy of that carry
        peer.values = {}

    def _play(self, step: Step, round: int, peer: Peer) -> "_Played":
        """One step of one peer, tried again as long as the budget allows."""
        errors: list[str] = []
        ahead = self._ahead.take((step.node, peer.name)) if self._runs_ahead(step, peer) else None
        while True:
            try:
                return self._step(step, round, peer, errors) if ahead is None else ahead.result()
            except GenrlGraphError as error:
                ahead = None
                if not self._budget.retry(self.schedule.nodes[step.node], error, attempt=len(errors)):
                    raise
                errors.append(str(error))

    def _recorded(self, step: Step, round: int, peer: Peer) -> Recorded | None:
        return self._recall(round, self._prefix + step.node, peer.name)

    def _step(self, step: Step, round: int, peer: Peer, errors: Sequence[str]) -> "_Played":
        node = self.schedule.nodes[step.node]
        with self._span("inputs", step, round, peer):
            inputs = self._inputs(step.node, round, peer)
        recorded = None if step.action == "open" else self._recorded(step, round, peer)
        try:
            if recorded is not None and not isinstance(node, Update | Fork):
                if step.action == "close" and self._is_wanted(node, round):
                    self._close(step, node, round, peer)
                played = self._recalled(node, inputs, peer, recorded)
            elif self._evaluating and isinstance(node, Update | Fork):
                played = _Played(None, {}, _handed_on(step.node, node, inputs))
            else:
                played = self._run(step, node, inputs, round, peer, errors)
        except (Behind, Interrupted):
            raise
        except GenrlGraphError as error:
            text = str(error).removeprefix(f"{step.node}: ")  # nodes that are run by hand name themselves
            kind = RewardFailed if isinstance(node, Reward) and isinstance(error, ColumnError) else type(error)
            raise kind(f"{self._where(step, round, peer.name)}: {text}") from error
        except Exception as error:
            failed = RewardFailed if isinstance(node, Reward) else NodeFailed
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise failed(f"{self._where(step, round, peer.name)}: {what} ({_raised_at(error)})") from error
        if recorded is not None and played.record is not None:
            verify(recorded, played.record, where=self._where(step, round, peer.name))
            played = replace(played, record=None, metrics=recorded.metrics, recalled=True)
        return played

    def _start_ahead(self, steps: Iterable[Step], round: int) -> None:
        """Start what the run has not committed before it was cut; the first try of each runs ahead, others never."""
        for step in steps:
            for peer in self.peers:
                if self._recorded(step, round, peer) is None:
                    self._ahead.start((step.node, peer.name), partial(self._step_ahead, step, round, peer))

    def _step_ahead(self, step: Step, round: int, peer: Peer) -> "_Played":
        started = time.perf_counter()
        with self._span("step", step, round, peer) as found:
            played = self._step(step, round, peer, ())
            found |= _sizes(played)
        return replace(played, seconds=time.perf_counter() - started)

    def _runs_ahead(self, step: Step, peer: Peer) -> bool:
        return step.action == "run" and (step.node, peer.name) in self._ahead

    def _recalled(self, node: Node, inputs: Mapping[str, Any], peer: Peer, recorded: Recorded) -> "_Played":
        outputs = recorded.outputs(node, self.schedule.types, inputs, holder=peer.name, prefix=self._prefix)
        self._budget.retries += recorded.retries
        return _Played(None, recorded.metrics, outputs, recorded.retries + 1, recalled=True)

    def _run(
        self, step: Step, node: Node, inputs: Mapping[str, Any], round: int, peer: Peer, errors: Sequence[str]
    ) -> "_Played":
        log, offer = Log(), None
        if step.action == "open":
            assert isinstance(node, Exchange)
            offered = node.offer(**inputs)  # type: ignore[attr-defined]  # the contract was read at definition
            self._swarm.open(node, round=round, peer=peer.name, offer=offered)
            return _Played(None, {"rows": float(len(offered))}, {})
        resources = self._resources(node, round, peer, log)
        if step.action == "close":
            assert isinstance(node, Exchange)
            meeting = self._close(step, node, round, peer)
            offer = next((packet.rows for packet in meeting.packets if packet.peer == peer.name), None)
            output = node.admit(list(meeting.packets), **resources)  # type: ignore[attr-defined]
            _note(log, meeting)
        else:
            output = node.run(**inputs, **resources)  # type: ignore[attr-defined]
        if errors:
            log.fact("retried", list(errors))
        outputs = named_outputs(node, output, self.schedule.types)
        refuse_useless(node, inputs, outputs)
        metrics = step_metrics(node, outputs, log)
        if (lost := failed_rows(node, inputs, outputs)) > 0:
            metrics["failed_rows"] = float(lost)
        metrics = dict(sorted(metrics.items()))  # as a record gives them back
        record = step_record(
            node,
            self.schedule.types,
            round=round,
            peer=peer.name,
            prefix=self._prefix,
            inputs=inputs,
            outputs=outputs,
            offer=offer,
            metrics=metrics,
            log=log,
        )
        return _Played(record, metrics, outputs, len(errors) + 1)

    def _close(self, step: Step, node: Node, round: int, peer: Peer) -> Meeting:
        assert isinstance(node, Exchange)
        known = peer.vocabularies
        with self._span("wait", step, round, peer):
            return self._swarm.close(node, round=round, peer=peer.name, tasks=peer.tasks, vocabularies=known)

    def _span(self, kind: str, step: Step, round: int, peer: Peer) -> AbstractContextManager[dict[str, object]]:
        """The step itself, or a part of it, in the profile."""
        name = self._prefix + (str(step) if kind == "step" else f"{kind} {step.node}")
        facts = {"node": step.node, "round": round, "stage": step.stage}
        return self._trace.span(name, kind, peer.name, facts)

    def _where(self, step: Step, round: int, peer: str) -> str:
        when = f"evaluation after {round} rounds" if self._evaluating else f"round {round}"
        return f"nodes.{step.node} ({when}, {peer})"

    def _resources(self, node: Node, round: int, peer: Peer, log: Log) -> dict[str, Any]:
        name = node.place.node
        parts: tuple[seeds.Part, ...] = (round, name, peer.name)
        if isinstance(node, Source):
            round = 0 if self._evaluating else round  # all evaluations ask the same tasks
            parts = ("source", name) if node.shared else ("source", name, peer.name)
        elif self._evaluating:
            parts = (name, peer.name)  # and the same luck
        parts = (self._seed, "eval", *parts) if self._evaluating else (self._seed, *parts)
        wanted = node.signature.resources
        supply: dict[str, Callable[[], Any]] = {
            "rng": lambda: seeds.stream(*parts),
            "tasks": lambda: peer.tasks,
            "log": lambda: log,
            "round": lambda: round,
            "peer": lambda: peer.name,
        }
        return {resource: supply[resource]() for resource in wanted}


def _sizes(played: _Played) -> dict[str, object]:
    """What a profile says of a step that is done."""
    return {name: int(played.metrics[name]) for name in ("rows", "tokens") if name in played.metrics}


def _raised_at(error: Exception) -> str:
    """The innermost line outside this package, such as "my_nodes.py:12 in run"; the author of a node looks there."""
    frames = traceback.extract_tb(error.__traceback__)
    package = str(Path(genrl_graph.__file__).parent)
    foreign = [frame for frame in frames if not frame.filename.startswith(package)]
    last = (foreign or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno} in {last.name}"


def wired_inputs(part: Part, values: Mapping[str, Any]) -> dict[str, Any]:
    """What a node reads, by input, of the outputs and carries by name."""
    inputs: dict[str, Any] = {}
    for name, wire in part.inputs.items():
        socket = part.socket(name)
        assert socket is not None
        if isinstance(wire, Mapping):
            inputs[name] = {key: values[ref] for key, ref in wire.items()}
        elif isinstance(wire, str):
            inputs[name] = [values[wire]] if socket.many == "list" else values[wire]
        else:
            inputs[name] = [values[ref] for ref in wire]
    return inputs


def _handed_on(name: str, node: Node, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs of an update or fork that does nothing: the values that they would replace."""
    return {f"{name}.{field}" if field else name: inputs[socket] for field, socket in node.signature.replaced.items()}


def _note(log: Log, meeting: Meeting) -> None:
    log.fact("peers", {packet.peer: len(packet.rows) for packet in meeting.packets})
    for name, fact in meeting.facts.items():
        log.fact(name, fact)
    for name, value in {"peers": len(meeting.packets), **meeting.metrics}.items():
        log.metric(name, value)
    if meeting.refusals:
        log.rows("refusals", meeting.refusals)
