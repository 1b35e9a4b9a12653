"""What two graphs differ in, part by part: names, types, params, inputs, what is carried on."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from genrl_graph.contract.declared import Declared
from genrl_graph.dag.graph import Graph, Part, Section
from genrl_graph.dag.infer import inference_order
from genrl_graph.diff.params import Pair, ParamChange, Value, finite, shortened, value_changes, values_of


@dataclass(frozen=True, slots=True)
class InputEdge:
    """One edge into an input: what it reads, where in a list or mapping, and whether that is a carry."""

    ref: str
    key: int | str | None
    carry: bool

    def __str__(self) -> str:
        name = f"the carry {self.ref}" if self.carry else self.ref
        return f"{name} as {self.key}" if isinstance(self.key, str) else name


@dataclass(frozen=True, slots=True)
class InputChange:
    """An input that reads something else; old references stand under their new names."""

    input: str
    old: tuple[InputEdge, ...]
    new: tuple[InputEdge, ...]

    def lines(self, who: str) -> list[str]:
        """`critique now reads policy from update_answer, no longer from the carry policy`."""
        name, also = self.input, "also " if self.old else ""
        if [reading.key for reading in (*self.old, *self.new)] == [None, None]:
            return [f"{who} now reads {name} from {self.new[0]}, no longer from {self.old[0]}"]
        gone, come = list(map(str, self.old)), []
        for text in map(str, self.new):
            if text in gone:
                gone.remove(text)
            else:
                come.append(text)
        lines = [f"{who} now {also}reads {name} from {text}" for text in come]
        lines += [f"{who} no longer reads {name} from {text}" for text in gone]
        return lines or [f"{who} reads {name} as {_wired(self.new)}, no longer as {_wired(self.old)}"]


@dataclass(frozen=True, slots=True)
class PartChange:
    """A carry or node that differs. One added or removed has its type, params and inputs on one side only."""

    name: str
    change: Literal["added", "removed", "changed"]
    was: str | None  # the old name of one that was renamed
    type: Pair[str | None] | None
    params: tuple[ParamChange, ...]
    inputs: tuple[InputChange, ...]
    next: Pair[str | None] | None

    def lines(self) -> list[str]:
        """One line a change, each with the name of the part."""
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
        return lines

    def _summary(self) -> str:
        added = self.change == "added"
        kind = (self.type.new if added else self.type.old) if self.type else None
        parts = [f"{self.name} {self.change}: {kind or 'without a type'}"]
        for wire in self.inputs:
            parts.append(f"{wire.input} from {', '.join(map(str, wire.new if added else wire.old))}")
        for param in self.params:
            parts.append(f"{'.'.join(param.path)} {shortened(str(param.new if added else param.old))}")
        ref = (self.next.new if added else self.next.old) if self.next else None
        return "; ".join([*parts, f"{ref} in the next round"] if ref else parts)


@dataclass(frozen=True, slots=True)
class PartMove:
    """A part that the file writes at another place; None stands for the first place."""

    name: str
    after: Pair[str | None]

    def __str__(self) -> str:
        old, new = (f"after {name}" if name else "first" for name in (self.after.old, self.after.new))
        return f"{self.name} now stands {new}, no longer {old}"


def part_changes(a: Graph, b: Graph, section: Section, renamed: Mapping[str, str]) -> tuple[PartChange, ...]:
    """The parts of a section that differ, in the order of the files: those removed stand where they stood."""
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
    """The parts that stand at another place of the file, as few as explain its new order."""
    old, new = [renamed.get(name, name) for name in _parts(a, section)], list(_parts(b, section))
    return tuple(PartMove(name, Pair(before(old, name), before(new, name))) for name in moved(old, new))


def find_renames(a: Graph, b: Graph) -> dict[str, str]:
    """The new names of parts that are gone: of the same type, params and inputs, and read by the same parts.

    What a part reads is settled before it, so chains of renamed parts are found; of several candidates the one with
    most readers in common is taken, then the first in the file.
    """
    found: dict[str, str] = {}
    ordered = inference_order(a)
    for section in ("carry", "nodes"):
        old, new = _parts(a, section), _parts(b, section)
        names = list(old) if section == "carry" else [*ordered, *(name for name in old if name not in ordered)]
        for name in (name for name in names if name not in new):
            readers = _readers(a, b, name)
            best, most = "", -1
            for other in (other for other in new if other not in old and other not in found.values()):
                others = _readers(b, a, other)
                common = len(readers & others)
                if common > most and (common or not readers | others) and _alike(old[name], new[other], found):
                    best, most = other, common
            if best:
                found[name] = best
    return found


def moved(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """The fewest of the common names whose move explains the new order, in that order."""
    place = {name: at for at, name in enumerate(old)}
    common = [name for name in new if name in place]
    best: list[tuple[int, int]] = []  # for each common name: the longest rising row up to it, and where it came from
    for at, name in enumerate(common):
        earlier = [(best[i][0], -i) for i in range(at) if place[common[i]] < place[name]]
        length, back = max(earlier, default=(0, 1))
        best.append((length + 1, -back))
    kept, at = set[str](), max(range(len(common)), key=lambda i: best[i][0], default=-1)
    while at >= 0:
        kept.add(common[at])
        at = best[at][1]
    return [name for name in common if name not in kept]


def before(names: Sequence[str], name: str) -> str | None:
    """The name that stands before this one, None for the first."""
    at = names.index(name)
    return names[at - 1] if at else None


def new_ref(ref: str, renamed: Mapping[str, str]) -> str:
    """An output under the new name of its part."""
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
    change = PartChange(
        name=part.name,
        change="added" if old is None else "removed" if new is None else "changed",
        was=old.name if old and new and old.name != new.name else None,
        type=kinds if retyped else None,
        params=_param_changes(old, new),
        inputs=tuple(_input_changes(a, b, old, new, renamed)),
        next=then if then.old != then.new else None,
    )
    return change if retyped or change.was or change.params or change.inputs or change.next else None


def _param_changes(old: Part | None, new: Part | None) -> tuple[ParamChange, ...]:
    if old and new and old.declared and new.declared and type(old.declared) is type(new.declared):
        changes = value_changes(values_of(old.declared), values_of(new.declared))
        return (*changes, *_unwritten_changes(old.declared, new.declared))
    return value_changes(_written(old), _written(new))


def _unwritten_changes(old: Declared, new: Declared) -> tuple[ParamChange, ...]:
    """Params without a YAML form that differ although they are called alike, such as two lambdas."""
    texts, others = values_of(old), values_of(new)
    names = [name for name in texts if callable(getattr(old, name)) and getattr(old, name) != getattr(new, name)]
    another = Value("another one of this name")
    return tuple(ParamChange((name,), texts[name], another) for name in names if texts[name] == others[name])


def _written(part: Part | None) -> dict[str, Value]:
    """The params that differ from their defaults; as written where they are wrong."""
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
    found: dict[str, tuple[InputEdge, ...]] = {}
    for edge in part.edges() if part else ():
        reading = InputEdge(new_ref(edge.ref, renamed), edge.key, edge.origin in graph.carries)
        found[edge.socket] = (*found.get(edge.socket, ()), reading)
    return found


def _alike(old: Part, new: Part, renamed: Mapping[str, str]) -> bool:
    wired = {(edge.socket, edge.key, new_ref(edge.ref, renamed)) for edge in old.edges()}
    same = old.type_name == new.type_name and wired == {(edge.socket, edge.key, edge.ref) for edge in new.edges()}
    return same and not _param_changes(old, new)


def _readers(graph: Graph, other: Graph, name: str) -> set[tuple[str, str]]:
    """Who reads a part and where: by name what both graphs have, else by type."""
    found = {
        (edge.reader if edge.reader in other.nodes else graph.nodes[edge.reader].type_name, edge.socket)
        for edge in graph.readers(name)
    }
    for carry, part in graph.carries.items():
        if part.next and part.next.partition(".")[0] == name:
            found.add((carry if carry in other.carries else part.type_name, "next"))
    return found


def _wired(readings: Iterable[InputEdge]) -> str:
    refs = [f"{reading.key}: {reading.ref}" if isinstance(reading.key, str) else reading.ref for reading in readings]
    keys = [reading.key for reading in readings]
    if keys == [None]:
        return refs[0]
    return f"{{{', '.join(refs)}}}" if any(isinstance(key, str) for key in keys) else f"[{', '.join(refs)}]"
