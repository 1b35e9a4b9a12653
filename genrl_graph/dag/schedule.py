"""Compile a graph to the schedule of a round."""

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from genrl_graph.contract.node import Advantage, Exchange, Generator, Node, Phase, Place, Select
from genrl_graph.dag.check import check
from genrl_graph.dag.fingerprint import protocol_fingerprint
from genrl_graph.dag.graph import Graph
from genrl_graph.dag.hazards import orders, replaced_inputs
from genrl_graph.dag.infer import carried, infer, inference_order
from genrl_graph.dag.origins import input_origins, row_origins
from genrl_graph.dag.roles import reads_elsewhere
from genrl_graph.edge_types.edge_type import EdgeType
from genrl_graph.edge_types.frame import Frame
from genrl_graph.errors import GraphError

Action = Literal["run", "open", "close"]
_OPEN_FIRST: Mapping[str, int] = {"open": 0, "run": 1, "close": 2}


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a round: run a node, or open or close an exchange.

    `reads` maps each input that reads a carried value (`input.key` if it reads several) to the update that produced
    this version, or to the carry. A background step starts in its own thread together with the step that `beside`
    names, and is awaited and committed at its own place in the order; `beside` is "" for all other steps.
    """

    action: Action
    node: str
    stage: int
    reads: Mapping[str, str]
    beside: str = ""

    def __str__(self) -> str:
        return self.node if self.action == "run" else f"{self.action} {self.node}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """The steps of a round in commit order, the placed nodes, and the types of all outputs."""

    graph: Graph
    steps: tuple[Step, ...]
    nodes: Mapping[str, Node]
    types: Mapping[str, EdgeType]
    protocol: str
    whole: "Schedule | None" = None  # that of all roles, where this is the part of some

    @property
    def game(self) -> "Schedule":
        """Return the schedule of all roles."""
        return self.whole or self

    @property
    def stages(self) -> int:
        """Return the number of stages."""
        return 1 + max((step.stage for step in self.steps), default=0)

    @property
    def background(self) -> Mapping[str, Sequence[Step]]:
        """Return the background steps, by the step that they start with."""
        started: dict[str, list[Step]] = {}
        for step in self.steps:
            if step.beside:
                started.setdefault(step.beside, []).append(step)
        return started

    def played_in(self, phase: Phase) -> "Schedule":
        """Return this schedule without the nodes that take no part in a phase."""
        graph = self.graph.played_in(phase)
        steps = tuple(step for step in self.steps if step.node in graph.nodes)
        nodes = {name: node for name, node in self.nodes.items() if name in graph.nodes}
        return replace(self, graph=graph, steps=steps, nodes=nodes)

    def played_by(self, roles: Collection[str]) -> "Schedule":
        """Return the part of this schedule that a peer of these roles plays; without roles, all of it."""
        if not roles:
            return self
        graph = self.graph.played_by(roles)
        nodes = {name: node for name, node in self.nodes.items() if name in graph.nodes}
        part = replace(self, graph=graph, nodes=nodes, whole=self.game)
        return replace(part, steps=_with_background(part, [step for step in self.steps if step.node in graph.nodes]))

    def rows_elsewhere(self) -> dict[str, Frame]:
        """Return the outputs that exchanges here offer and only other roles make: of them this peer has no rows."""
        kinds = {ref: self.types[ref] for ref in reads_elsewhere(self.game.graph, self.graph)}
        return {ref: kind.base.empty(marks=kind.marks) for ref, kind in kinds.items() if issubclass(kind.base, Frame)}

    def numbers(self) -> dict[str, int]:
        """Return the number of each step of a round, by the step's text; steps of evaluations alone have none."""
        return {str(step): at for at, step in enumerate(self.played_in("rounds").steps, start=1)}

    def replaced(self, name: str) -> Mapping[str, str]:
        """Return, for each output of an update or average, the input whose value it replaces; empty for other nodes."""
        return replaced_inputs(self.graph.nodes[name])


def compile_graph(graph: Graph) -> Schedule:
    """Return the schedule of a graph; raises `GraphError` with all problems where it breaks a rule.

    Exchanges open as soon as their offer exists and close when nothing else is ready. Other steps are ordered by
    stage, then by the order of the nodes in the graph. Background steps, and advantages and selects that wait for
    them, move after the next generator.
    """
    problems = check(graph)
    if problems:
        raise GraphError("\n".join(str(problem) for problem in problems))
    types = infer(graph)
    stages = stages_of(graph)
    protocol = protocol_fingerprint(graph)
    steps = []
    for name, action in _ordered(graph, types, stages):
        reads = {} if action == "close" else _carried_reads(graph, name, types)
        steps.append(Step(action, name, stages[name], reads))
    origins = row_origins(graph)
    nodes = {}
    for name, part in graph.nodes.items():
        upstream = dict.fromkeys(origin for rows in input_origins(part, origins).values() for origin in rows)
        place = Place(name, stages[name], protocol, tuple(upstream))
        nodes[name] = part.node.wired(graph.givers(part)).placed(place)
    schedule = Schedule(graph, tuple(steps), nodes, types, protocol)
    return replace(schedule, steps=_with_background(schedule, _deferred(schedule)))


def stages_of(graph: Graph) -> dict[str, int]:
    """Return the stage of every node; each generator opens one after those of the generators upstream."""
    stages: dict[str, int] = {}
    highest: dict[str, int] = {}  # highest stage among the node, if it generates, and the generators upstream; -1: none
    for name in inference_order(graph):
        part = graph.nodes[name]
        upstream = max((highest[e.origin] for e in part.edges() if e.origin in graph.nodes), default=-1)
        opens = part.cls is not None and issubclass(part.cls, Generator)
        highest[name] = upstream + 1 if opens else upstream
        stages[name] = max(highest[name], 0)
    return stages


def _ordered(graph: Graph, types: Mapping[str, EdgeType], stages: Mapping[str, int]) -> list[tuple[str, Action]]:
    position = {name: at for at, name in enumerate(graph.nodes)}
    before: dict[tuple[str, Action], set[tuple[str, Action]]] = {}
    last: dict[str, tuple[str, Action]] = {}
    for name, part in graph.nodes.items():
        exchange = part.cls is not None and issubclass(part.cls, Exchange)
        last[name] = (name, "close") if exchange else (name, "run")
        if exchange:
            before[(name, "open")] = set()
            before[(name, "close")] = {(name, "open")}
        else:
            before[(name, "run")] = set()
    for name, part in graph.nodes.items():
        first: tuple[str, Action] = (name, "open") if (name, "open") in before else (name, "run")
        before[first] |= {last[edge.origin] for edge in part.edges() if edge.origin in graph.nodes}
    for order in orders(graph, types):
        reader: tuple[str, Action] = (order.before, "open") if _reads_once(graph, order.before) else last[order.before]
        before[last[order.after]].add(reader)
    return _topological(before, lambda step: (_OPEN_FIRST[step[1]], stages[step[0]], position[step[0]]))


def _reads_once(graph: Graph, name: str) -> bool:
    """Return whether a node is an exchange that reads its inputs only where it opens."""
    cls = graph.nodes[name].cls
    return cls is not None and issubclass(cls, Exchange) and not cls.admitted_with


def _topological(
    before: Mapping[tuple[str, Action], set[tuple[str, Action]]],
    rank: Callable[[tuple[str, Action]], tuple[int, int, int]],
) -> list[tuple[str, Action]]:
    waiting = {step: set(origins) for step, origins in before.items()}
    followers: dict[tuple[str, Action], list[tuple[str, Action]]] = {}
    for step, origins in waiting.items():
        for origin in origins:
            followers.setdefault(origin, []).append(step)
    ready = [(rank(step), step) for step, origins in waiting.items() if not origins]
    heapq.heapify(ready)
    ordered = []
    while ready:
        _, step = heapq.heappop(ready)
        ordered.append(step)
        for follower in followers.get(step, []):
            waiting[follower].discard(step)
            if not waiting[follower]:
                heapq.heappush(ready, (rank(follower), follower))
    assert len(ordered) == len(before), "the check lets no cycle through"
    return ordered


def _carried_reads(graph: Graph, name: str, types: Mapping[str, EdgeType]) -> dict[str, str]:
    return {
        edge.socket if edge.key is None else f"{edge.socket}.{edge.key}": edge.ref
        for edge in graph.nodes[name].edges()
        if carried(types, edge.ref)
    }


def _deferred(schedule: Schedule) -> list[Step]:
    """Move background steps, and the advantages and selects that wait for them, after the next generator.

    Exchanges that open right after that generator still open before the moved steps. A step that reads a moved step
    runs after it.
    """
    ordered, deferred, flush = list[Step](), list[Step](), False
    generators_left = sum(_generates(schedule, step) for step in schedule.steps)
    for step in schedule.steps:
        if flush and step.action != "open":
            ordered, deferred, flush = ordered + deferred, [], False
        waits = bool(_origins(schedule, step) & {other.node for other in deferred})
        if generators_left and (_overlaps(schedule, step) or (waits and _is_credit(schedule, step))):
            deferred.append(step)
            continue
        if waits:
            ordered, deferred, flush = ordered + deferred, [], False
        ordered.append(step)
        if _generates(schedule, step):
            generators_left, flush = generators_left - 1, True
    return ordered + deferred


def _with_background(schedule: Schedule, order: Sequence[Step]) -> tuple[Step, ...]:
    """Start each background step beside the first slow step after its inputs exist.

    A slow step is a generator or the close of an exchange; it comes before the background step's own place.
    """
    produced_at = {step.node: at for at, step in enumerate(order)}

    def beside(place: int, step: Step) -> str:
        ready = max((produced_at[origin] for origin in _origins(schedule, step) if origin in produced_at), default=-1)
        between = order[ready + 1 : place]
        return next((str(other) for other in between if _generates(schedule, other) or other.action == "close"), "")

    return tuple(
        replace(step, beside=beside(place, step)) if _overlaps(schedule, step) else step
        for place, step in enumerate(order)
    )


def _overlaps(schedule: Schedule, step: Step) -> bool:
    """Return whether a step may run in the background: its node allows it, and it reads no carried value."""
    return step.action == "run" and schedule.nodes[step.node].overlaps and not step.reads


def _is_credit(schedule: Schedule, step: Step) -> bool:
    return isinstance(schedule.nodes[step.node], Advantage | Select) and not step.reads


def _generates(schedule: Schedule, step: Step) -> bool:
    return isinstance(schedule.nodes[step.node], Generator)


def _origins(schedule: Schedule, step: Step) -> set[str]:
    return {edge.origin for edge in schedule.graph.nodes[step.node].edges()}
