"""Plan a replay: decide from the two graphs, before anything is read, what happens to each node."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from genrl_graph.contract.node import Coordinate, Exchange, Generator, Node, Source
from genrl_graph.contract.policy import Policy
from genrl_graph.dag.graph import Graph, Part
from genrl_graph.dag.infer import infer, inference_order
from genrl_graph.diff.parts import InputChange, PartChange, find_renames, new_ref, part_changes
from genrl_graph.edge_types.edge_type import EdgeType
from genrl_graph.edge_types.frame import Frame
from genrl_graph.errors import GraphError, ParamError
from genrl_graph.messages import did_you_mean
from genrl_graph.runners.resume.code_versions import CodeVersions

Fate = Literal["pinned", "read", "recomputed", "updated", "left out"]
"""`pinned` nodes are read even where they changed, `read` ones because they did not; `left out` updates do not run."""

ALL = "all"


@dataclass(frozen=True, slots=True)
class NodeVerdict:
    """The decision for a node and its reason; `was` is the node of the run with which its values are compared."""

    node: str
    fate: Fate
    why: str = ""
    was: str | None = None


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """The graph that is replayed, which is the edited one with pinned nodes as they were; the decisions; and notes."""

    graph: Graph
    verdicts: Mapping[str, NodeVerdict]
    notes: tuple[str, ...]

    def names(self, *fates: Fate) -> list[str]:
        """Return the nodes with one of these fates, in the order of the graph."""
        return [verdict.node for verdict in self.verdicts.values() if verdict.fate in fates]


def _is_pinned(part: Part) -> bool:
    """Return whether a node gives rows that the run read or sampled, or received from peers."""
    return isinstance(part.declared, Source | Generator | Exchange) and not part.declared.returns_carried()


def _is_live(part: Part) -> bool:
    """Return whether a node changes carried values, or reports to a coordinator."""
    node = part.declared
    return isinstance(node, Node) and (node.returns_carried() or isinstance(node, Coordinate))


def plan_replay(
    old: Graph, new: Graph, origins: CodeVersions, *, where: str, update: bool, recompute: Collection[str] = ()
) -> ReplayPlan:
    """Plan a replay of the graph `new` over a run of `old`; `new` has passed the check.

    `recompute` names nodes that are recomputed even where nothing changed (`all`: every node that can be). Raises
    `GraphError` with a line for each edit that would need new rows from a source, generator or exchange.
    """
    return _Planner(old, new, origins, where=where, update=update, recompute=recompute).plan()


class _Planner:
    """Decides node by node, in the order of the edges: a node is recomputed where its inputs are."""

    def __init__(
        self, old: Graph, new: Graph, origins: CodeVersions, *, where: str, update: bool, recompute: Collection[str]
    ) -> None:
        self._old, self._new, self._origins, self._where = old, new, origins, where
        self._update, self._forced = update, frozenset(recompute)
        self._renamed = find_renames(old, new)
        self._changes = {change.name: change for change in part_changes(old, new, "nodes", self._renamed)}
        self._types = infer(new)
        self._types_then = {new_ref(ref, self._renamed): kind for ref, kind in infer(old).items()}
        self._notes: list[str] = []
        self._refused: dict[str, list[str]] = {}
        self._verdicts: dict[str, NodeVerdict] = {}

    def plan(self) -> ReplayPlan:
        """Return the plan; raises `GraphError` with all refused edits."""
        self._check_forced()
        for name in inference_order(self._new):
            self._verdicts[name] = self._verdict(self._new.nodes[name])
        if self._refused:
            what = "sources, generators and exchanges are read, not run, so this edit cannot be replayed"
            lines = [f"  {name} {line}" for name in self._new.nodes for line in self._refused.get(name, ())]
            raise GraphError("\n".join([f"{self._where}: {what}", *lines]))
        self._notes += [
            f"{change.name}: no longer there"
            for change in self._changes.values()
            if change.change == "removed" and change.name not in self._new.nodes
        ]
        ordered = {name: self._verdicts[name] for name in self._new.nodes}
        return ReplayPlan(self._merged(), ordered, tuple(self._notes))

    def _check_forced(self) -> None:
        """Raise `ParamError` where a node of `recompute` cannot be recomputed."""
        for name in sorted(self._forced - {ALL}):
            part = self._new.nodes.get(name)
            if part is None or _is_pinned(part) or _is_live(part):
                able = [n for n, p in self._new.nodes.items() if not (_is_pinned(p) or _is_live(p))]
                hint = did_you_mean(name, able) or f"; name one of {', '.join(able)}, or {ALL}"
                raise ParamError(f"--recompute {name}: is no select, reward or advantage of this graph{hint}")

    def _verdict(self, part: Part) -> NodeVerdict:
        if _is_pinned(part):
            return self._pinned(part)
        own_changes, live = self._own_changes(part), _is_live(part)
        if live and self._update and not isinstance(part.declared, Coordinate):
            if isinstance(part.declared, Exchange):
                what = "averages with weights that the other peers had in the run; leave out --update"
                self._refused[part.name] = [what]
            return NodeVerdict(part.name, "updated", own_changes)
        why = own_changes or self._changed_inputs(part, carried=live)
        if live:
            return NodeVerdict(part.name, "left out" if why else "read", why)
        if not why and self._update:
            why = self._changed_carries(part)
        if not why and {part.name, ALL} & self._forced:
            why = "asked for"
        if not why:
            return NodeVerdict(part.name, "read")
        carried = [edge.ref for edge in part.edges() if not self._is_rows(edge.ref)]
        if carried and not self._update:
            what = f"has to be computed ({why}), and reads {', '.join(carried)}, which is made only with --update"
            self._refused[part.name] = [what]
        return NodeVerdict(part.name, "recomputed", why, self._former_name(part))

    def _pinned(self, part: Part) -> NodeVerdict:
        """Pin a source, generator or exchange; refuse edits that its stored rows cannot follow, note the others."""
        if problems := list(self._pinned_problems(part)):
            self._refused[part.name] = problems
        change = self._changes.get(part.name)
        for param in change.params if change is not None and part.name in self._old.nodes else ():
            self._notes.append(f"{param.lines(f'{part.name}: ')[0]}: not applied, for what {part.name} gave is pinned")
        because = self._changed_inputs(part, carried=False).removeprefix("because ")
        return NodeVerdict(part.name, "pinned", f"as it was, though {because}" if because else "")

    def _pinned_problems(self, part: Part) -> Iterator[str]:
        change = self._changes.get(part.name)
        kind = part.declared.kind if part.declared is not None else "node"
        if change is not None and change.was is not None:
            yield f"is the new name of {change.was}, which stands in the rows that it gave; keep the old name"
        elif part.name not in self._old.nodes:
            yield f"({part.type_name}) is not in the run; what a new {kind} node gives comes only from `run`"
        elif change is not None and change.type is not None:
            yield f"is now {change.type.new}, no longer {change.type.old}; give it a name of its own and `run` it"
        else:
            for wire in change.inputs if change is not None else ():
                if not self._is_live(wire):
                    yield from (line.removeprefix(f"{part.name} ") for line in wire.lines(part.name))
            yield from self._changed_types(part)

    def _changed_types(self, part: Part) -> Iterator[str]:
        """Yield a line for each output whose stored rows do not have the type that the edited graph infers."""
        for ref, expected in self._types.items():
            then = self._types_then.get(ref)
            if ref.partition(".")[0] == part.name and then is not None and not expected.accepts(then):
                yield f"gave {then} in the run, but {expected} is read here"

    def _own_changes(self, part: Part) -> str:
        """Describe how the node or its code differs from the run; empty where it does not."""
        change = self._changes.get(part.name)
        changes = [] if change is None else list(_described(change))
        if self._former_name(part) is not None:
            changes += self._origins.changes(part)
        return "; ".join(changes)

    def _former_name(self, part: Part) -> str | None:
        """Return the name that the node has in the run, None for a new one."""
        change = self._changes.get(part.name)
        name = part.name if change is None or change.was is None else change.was
        return name if name in self._old.nodes else None

    def _changed_inputs(self, part: Part, *, carried: bool) -> str:
        """Name the inputs that are not read from the run: rows, with `carried` also carried values; empty for none."""
        origins = dict.fromkeys(edge.origin for edge in part.edges() if carried or self._is_rows(edge.ref))
        changed = [name for name in origins if name in self._verdicts and self._verdicts[name].fate in _CHANGED]
        if not changed:
            return ""
        by_fate = {fate: [name for name in changed if self._verdicts[name].fate == fate] for fate in _CHANGED}
        causes = [
            f"{', '.join(names)} {'was' if len(names) == 1 else 'were'} {fate}"
            for fate, names in by_fate.items()
            if names
        ]
        return f"because {' and '.join(causes)}"

    def _changed_carries(self, part: Part) -> str:
        """Name a changed update of a carry that the node reads and that is no policy, such as a baseline."""
        for edge in part.edges():
            kind = self._types.get(edge.ref)
            if kind is None or _is_frame(kind) or issubclass(kind.base, Policy):
                continue
            maker = self._new.carries[edge.origin].next if edge.origin in self._new.carries else edge.ref
            name = (maker or "").partition(".")[0]
            if name in self._new.nodes and self._own_changes(self._new.nodes[name]):
                return f"because {name} is another one"
        return ""

    def _is_rows(self, ref: str) -> bool:
        return _is_frame(self._types.get(ref))

    def _is_live(self, wire: InputChange) -> bool:
        """Return whether an input reads only carried values, such as policies: rewiring it affects no stored row."""
        refs = [reading.ref for reading in (*wire.old, *wire.new)]
        return not any(_is_frame(self._types.get(ref) or self._types_then.get(ref)) for ref in refs)

    def _merged(self) -> Graph:
        """Return the edited graph with the params of the run in pinned nodes, and in carries that are not trained."""
        graph = Graph(self._new.name, run=self._new.run)
        for name, part in self._new.carries.items():
            before = self._old.carries.get(name)
            graph.carries[name] = part if self._update else _as_it_was(part, before)
            if before is not None and graph.carries[name].declared != part.declared:
                self._notes.append(f"{name}: its changes are not applied, for nothing is trained")
        for name, part in self._new.nodes.items():
            pinned = _is_pinned(part)
            graph.nodes[name] = _as_it_was(part, self._old.nodes.get(name)) if pinned else part
        return graph


_CHANGED: tuple[Fate, ...] = ("recomputed", "updated", "left out")


def _described(change: PartChange) -> Iterator[str]:
    """Yield the changes of a node, each in a line without the node's name."""
    if change.change == "added":
        yield "new"
        return
    for line in change.lines():
        if not line.startswith(" "):
            yield line.removeprefix(change.name).removeprefix(":").strip()


def _is_frame(kind: EdgeType | None) -> bool:
    return kind is None or issubclass(kind.base, Frame)


def _as_it_was(part: Part, before: Part | None) -> Part:
    """Return the part with the params of the run; paths of data files stay those of the edited graph."""
    if before is None or before.declared is None or before.type_name != part.type_name:
        return part
    if before.portable_params() == part.portable_params():
        return part
    return replace(part, declared=before.declared, written=before.written)
