"""Compare two graphs part by part: names, types, params, inputs and `next`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from genrl_graph.contract.declared import Declared
from genrl_graph.dag.graph import Graph, Part, Section
from genrl_graph.dag.infer import inference_order
from genrl_graph.diff.params import Pair, ParamChange, Value, finite, shortened, value_changes, values_of


@dataclass(frozen=True, slots=True)
class InputEdge:
    """One edge into an input: the output that it reads, its key in a list or mapping, and whether it reads a carry."""

    ref: str
    key: int | str | None
    carry: bool

    def __str__(self) -> str:
        name = f"the carry {self.ref}" if self.carry else self.ref
        return f"{name} as {self.key}" if isinstance(self.key, str) else name


@dataclass(frozen=True, slots=True)
class InputChange:
    """An input that reads other outputs; renamed parts appear under their new names on both sides."""

    input: str
    old: tuple[InputEdge, ...]
    new: tuple[InputEdge, ...]

    def lines(self, reader: str) -> list[str]:
        """Return lines such as `critique now reads policy from update_answer, no longer from the carry policy`."""
        name, also = self.input, "also " if self.old else ""
        if [reading.key for reading in (*self.old, *self.new)] == [None, None]:
            return [f"{reader} now reads {name} from {self.new[0]}, no longer from {self.old[0]}"]
        removed, added = list(map(str, self.old)), []
        for text in map(str, self.new):
            if text in removed:
                removed.remove(text)
            else:
                added.append(text)
        lines = [f"{reader} now {also}reads {name} from {text}" for text in added]
        lines += [f"{reader} no longer reads {name} from {text}" for text in removed]
        return lines or [f"{reader} reads {name} as {_wired(self.new)}, no longer as {_wired(self.old)}"]


@dataclass(frozen=True, slots=True)
class PartChange:
    """A carry or node that differs. If it was added or removed, `type`, `params` and `inputs` have one side only."""

    name: str
    change: Literal["added", "removed", "changed"]
    was: str | None  # the old name, if it was renamed
    type: Pair[str | None] | None
    params: tuple[ParamChange, ...]
    inputs: tuple[InputChange, ...]
    next: Pair[str | None] | None
    role: Pair[str | None] | None = None

    def lines(self) -> list[str]:
        """Return one line per change, each with the name of the part."""
        if self.change != "changed":
            return [self._summary()]
        lines = [f"{self.name} is the new name of {self.was}"] if self.was else []
        if self.type:
            lines.append(f"{self.name} is now {self.type.new}, no longer {self.type.old}")
        for param in self.params:
            lines += param.lines(f"{self.name}: ")
        for wire in self.inputs:
            lines += wire.lines(self.name)
        if self.next:
            new, old = (f"{ref} in the next round" if ref else "frozen" for ref in (self.next.new, self.next.old))
            lines.append(f"{self.name} is now {new}, no longer {old}")
        if self.role:
            new, old = (f"role {role}" if role else "every role" for role in (self.role.new, self.role.old))
            lines.append(f"{self.name} is now played by {new}, no longer by {old}")
        return lines

    def _summary(self) -> str:
        added = self.change == "added"
        kind = (self.type.new if added else self.type.old) if self.type else None
        parts = [f"{self.name} {self.change}: {kind or 'without a type'}"]
        for wire in self.inputs:
            parts.append(f"{wire.input} from {', '.join(map(str, wire.new if added else wire.old))}")
        for param in self.params:
            parts.append(f"{'.'.join(param.path)} {shortened(str(param.new if added else param.old))}")
        role = (self.role.new if added else self.role.old) if self.role else None
        parts += [f"role {role}"] if role else []
        ref = (self.next.new if added else self.next.old) if self.next else None
        return "; ".join([*parts, f"{ref} in the next round"] if ref else parts)


@dataclass(frozen=True, slots=True)
class PartMove:
    """A part at another place of the file: the parts that precede it, None for the first place."""

    name: str
    after: Pair[str | None]

    def __str__(self) -> str:
        old, new = (f"after {name}" if name else "first" for name in (self.after.old, self.after.new))
        return f"{self.name} now stands {new}, no longer {old}"


def part_changes(a: Graph, b: Graph, section: Section, renamed: Mapping[str, str]) -> tuple[PartChange, ...]:
    """Return the parts of a section that differ, in file order; removed parts keep their old place."""
    old, new = _parts(a, section), _parts(b, section)
    before = {renamed.get(name, name): part for name, part in old.items()}
    order = list(new)
    at = 0
    for name in before:
        if name in new:
            at = order.index(name) + 1
        else:
            order.insert(at, name)
            at += 1
    changes = (_part_change(a, b, before.get(name), new.get(name), renamed) for name in order)
    return tuple(change for change in changes if change is not None)


def moved_parts(a: Graph, b: Graph, section: Section, renamed: Mapping[str, str]) -> tuple[PartMove, ...]:
    """Return the smallest set of moved parts that explains the new order of the file."""
    old, new = [renamed.get(name, name) for name in _parts(a, section)], list(_parts(b, section))
    return tuple(PartMove(name, Pair(before(old, name), before(new, name))) for name in moved(old, new))


def find_renames(a: Graph, b: Graph) -> dict[str, str]:
    """Return old names mapped to new ones, for parts of equal type, params, inputs and readers.

    Parts are matched in topological order, so chains of renamed parts are found. Of several candidates the one with
    most common readers wins, then the first in the file.
    """
    renamed: dict[str, str] = {}
    ordered = inference_order(a)
    for section in ("carry", "nodes"):
        old, new = _parts(a, section), _parts(b, section)
        names = list(old) if section == "carry" else [*ordered, *(name for name in old if name not in ordered)]
        for name in (name for name in names if name not in new):
            readers = _readers(a, b, name)
            best, most = "", -1
            for other in (other for other in new if other not in old and other not in renamed.values()):
                others = _readers(b, a, other)
                common = len(readers & others)
                if common > most and (common or not readers | others) and _alike(old[name], new[other], renamed):
                    best, most = other, common
            if best:
                renamed[name] = best
    return renamed


def moved(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """Return the smallest set of common names whose move explains the new order, in that order."""
    place = {name: at for at, name in enumerate(old)}
    common = [name for name in new if name in place]
    best: list[
        tuple[int, int]
    ] = []  # per common name: length of the longest increasing subsequence ending there, and its predecessor
    for at, name in enumerate(common):
        earlier = [(best[i][0], -i) for i in range(at) if place[common[i]] < place[name]]
        length, back = max(earlier, default=(0, 1))
        best.append((length + 1, -back))
    unmoved, at = set[str](), max(range(len(common)), key=lambda i: best[i][0], default=-1)
    while at >= 0:
        unmoved.add(common[at])
        at = best[at][1]
    return [name for name in common if name not in unmoved]


def before(names: Sequence[str], name: str) -> str | None:
    """Return the name that precedes this one, or None for the first."""
    at = names.index(name)
    return names[at - 1] if at else None


def new_ref(ref: str, renamed: Mapping[str, str]) -> str:
    """Return an output's reference with the new name of its part."""
    origin, dot, field = ref.partition(".")
    return f"{renamed.get(origin, origin)}{dot}{field}"


def _parts(graph: Graph, section: Section) -> dict[str, Part]:
    return graph.carries if section == "carry" else graph.nodes


def _part_change(
    a: Graph, b: Graph, old: Part | None, new: Part | None, renamed: Mapping[str, str]
) -> PartChange | None:
    part = new or old
    assert part is not None
    retyped = old is None or new is None or old.type_name != new.type_name
    kinds = Pair(old.type_name if old else None, new.type_name if new else None)
    then = Pair(new_ref(old.next, renamed) if old and old.next else None, new.next if new else None)
    roles = Pair((old and old.role) or None, (new and new.role) or None)
    change = PartChange(
        name=part.name,
        change="added" if old is None else "removed" if new is None else "changed",
        was=old.name if old and new and old.name != new.name else None,
        type=kinds if retyped else None,
        params=_param_changes(old, new),
        inputs=tuple(_input_changes(a, b, old, new, renamed)),
        next=then if then.old != then.new else None,
        role=roles if roles.old != roles.new else None,
    )
    differs = retyped or change.was or change.params or change.inputs or change.next or change.role
    return change if differs else None


def _param_changes(old: Part | None, new: Part | None) -> tuple[ParamChange, ...]:
    if old and new and old.declared and new.declared and type(old.declared) is type(new.declared):
        changes = value_changes(values_of(old.declared), values_of(new.declared))
        return (*changes, *_unwritten_changes(old.declared, new.declared))
    return value_changes(_written(old), _written(new))


def _unwritten_changes(old: Declared, new: Declared) -> tuple[ParamChange, ...]:
    """Return params without a YAML form that differ although their names are equal, such as two lambdas."""
    texts, others = values_of(old), values_of(new)
    names = [name for name in texts if callable(getattr(old, name)) and getattr(old, name) != getattr(new, name)]
    another = Value("another one of this name")
    return tuple(ParamChange((name,), texts[name], another) for name in names if texts[name] == others[name])


def _written(part: Part | None) -> dict[str, Value]:
    """Return the params that differ from their defaults; as written if they are invalid."""
    if part is None:
        return {}
    if part.declared is None:
        return {str(name): Value(finite(value)) for name, value in part.params().items()}
    return {name: value for name, value in values_of(part.declared).items() if not value.default}


def _input_changes(
    a: Graph, b: Graph, old: Part | None, new: Part | None, renamed: Mapping[str, str]
) -> Iterator[InputChange]:
    before, after = _readings(a, old, renamed), _readings(b, new, {})
    for name in {**before, **after}:
        if before.get(name) != after.get(name):
            yield InputChange(name, before.get(name, ()), after.get(name, ()))


def _readings(graph: Graph, part: Part | None, renamed: Mapping[str, str]) -> dict[str, tuple[InputEdge, ...]]:
    readings: dict[str, tuple[InputEdge, ...]] = {}
    for edge in part.edges() if part else ():
        reading = InputEdge(new_ref(edge.ref, renamed), edge.key, edge.origin in graph.carries)
        readings[edge.socket] = (*readings.get(edge.socket, ()), reading)
    return readings


def _alike(old: Part, new: Part, renamed: Mapping[str, str]) -> bool:
    wired = {(edge.socket, edge.key, new_ref(edge.ref, renamed)) for edge in old.edges()}
    same = old.type_name == new.type_name and wired == {(edge.socket, edge.key, edge.ref) for edge in new.edges()}
    return same and not _param_changes(old, new)


def _readers(graph: Graph, other: Graph, name: str) -> set[tuple[str, str]]:
    """Return the readers of a part and their inputs; a reader that only one graph has is given by its type."""
    readers = {
        (edge.reader if edge.reader in other.nodes else graph.nodes[edge.reader].type_name, edge.socket)
        for edge in graph.readers(name)
    }
    for carry, part in graph.carries.items():
        if part.next and part.next.partition(".")[0] == name:
            readers.add((carry if carry in other.carries else part.type_name, "next"))
    return readers


def _wired(readings: Iterable[InputEdge]) -> str:
    refs = [f"{reading.key}: {reading.ref}" if isinstance(reading.key, str) else reading.ref for reading in readings]
    keys = [reading.key for reading in readings]
    if keys == [None]:
        return refs[0]
    return f"{{{', '.join(refs)}}}" if any(isinstance(key, str) for key in keys) else f"[{', '.join(refs)}]"
