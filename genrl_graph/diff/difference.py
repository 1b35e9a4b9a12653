"""Compare two graphs: their parts, the schedules of a round, and whether peers that play them can meet."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genrl_graph.dag.check import check
from genrl_graph.dag.fingerprint import full_fingerprint, protocol_fingerprint
from genrl_graph.dag.graph import Graph
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.diff.params import Pair, ParamChange, value_changes, values_of
from genrl_graph.diff.parts import PartChange, PartMove, find_renames, moved_parts, part_changes
from genrl_graph.diff.schedules import ScheduleChange, schedule_changes
from genrl_graph.graph_file.read import Loaded, read
from genrl_graph.store.peer_folders import graph_folder, refuse_unsafe
from genrl_graph.store.run_folder import GRAPH

_NOT_COMPARED = "the schedules and fingerprints are not compared, for that needs two graphs that pass the check"


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of two graphs. A renamed part appears under its new name; `was` holds the old one.

    `schedule`, `protocol` and `full` are None where a graph does not pass the check.
    """

    name: Pair[str] | None
    carries: tuple[PartChange, ...]
    nodes: tuple[PartChange, ...]
    run: tuple[ParamChange, ...]
    order: tuple[PartMove, ...]
    schedule: ScheduleChange | None
    protocol: Pair[str] | None
    full: Pair[str] | None
    problems: Pair[tuple[str, ...]]

    def __bool__(self) -> bool:
        """Return whether the graphs differ; their problems do not count."""
        return any((self.name, self.carries, self.nodes, self.run, self.order))

    def lines(self) -> list[str]:
        """Return the difference in words, in the order of the files; empty if the graphs are equal."""
        blocks = [("graph", [f"is now {self.name.new}, no longer {self.name.old}"] if self.name else [])]
        blocks.append(("carry", [line for part in self.carries for line in part.lines()]))
        blocks.append(("nodes", [line for part in self.nodes for line in part.lines()]))
        blocks.append(("run", [line for option in self.run for line in option.lines()]))
        blocks.append(("order of the file", list(map(str, self.order))))
        if self:
            blocks.append(("schedule", self.schedule.lines() if self.schedule else [_NOT_COMPARED]))
            blocks.append(("fingerprints", self._fingerprints()))
        blocks.append(("problems of the old graph", list(self.problems.old)))
        blocks.append(("problems of the new graph", list(self.problems.new)))
        return [line for title, lines in blocks if lines for line in (f"{title}:", *(f"  {line}" for line in lines))]

    def to_json(self) -> dict[str, Any]:
        """Return the difference as plain values: `differs`, and all fields by name, nested ones included.

        A `Pair` is `{old, new}`. A part is `{name, change, was, type, params, inputs, next, role}`, a param or run
        option `{path, old, new}` with `{value, default}` or null on each side, an input `{input, old, new}` with a list
        of `{ref, key, carry}` on each side, a moved part `{name, after}`. The schedule is `{stages, stage, reads,
        moves, waits}`.
        """
        return {"differs": bool(self), **asdict(self)}

    def _fingerprints(self) -> list[str]:
        lines = []
        if self.protocol:
            old, new = self.protocol.old[:12], self.protocol.new[:12]
            lines.append(
                f"protocol {new}, unchanged: peers that play the old and the new graph can meet"
                if old == new
                else f"protocol {old} -> {new}: peers that play the old graph cannot meet those that play the new one"
            )
        if self.full:
            old, new = self.full.old[:12], self.full.new[:12]
            lines.append(f"full {new}, unchanged" if old == new else f"full {old} -> {new}")
        return lines


def compare(a: Graph, b: Graph, *, problems: Pair[tuple[str, ...]] | None = None) -> Difference:
    """Return the difference from graph `a` to graph `b`, including invalid parts as far as they can be read.

    `problems` are the problems to report for each graph; by default those that `check` finds.
    """
    renamed = find_renames(a, b)
    reported = problems or Pair(*(tuple(map(str, check(graph))) for graph in (a, b)))
    playable = _playable(a) and _playable(b)
    return Difference(
        name=Pair(a.name, b.name) if a.name != b.name else None,
        carries=part_changes(a, b, "carry", renamed),
        nodes=part_changes(a, b, "nodes", renamed),
        run=value_changes(values_of(a.run), values_of(b.run)),
        order=(*moved_parts(a, b, "carry", renamed), *moved_parts(a, b, "nodes", renamed)),
        schedule=schedule_changes(compile_graph(a), compile_graph(b), renamed) if playable else None,
        protocol=Pair(protocol_fingerprint(a), protocol_fingerprint(b)) if playable else None,
        full=Pair(full_fingerprint(a), full_fingerprint(b)) if playable else None,
        problems=reported,
    )


def compare_files(a: Path, b: Path) -> Difference:
    """Return the difference of two graph files, shipped graphs, or the graphs of run folders.

    Raises `GraphError` for a file that cannot be read and `StoreError` for a folder that holds no run.
    """
    old, new = _read(a), _read(b)
    return compare(old.graph, new.graph, problems=Pair(_lines(old), _lines(new)))


def _read(path: Path) -> Loaded:
    if not path.is_dir():
        return read(path)
    folder = graph_folder(path)
    refuse_unsafe(path)
    return read(folder / GRAPH)


def _lines(loaded: Loaded) -> tuple[str, ...]:
    return tuple(loaded.lines())


def _playable(graph: Graph) -> bool:
    parts = (*graph.carries.values(), *graph.nodes.values())
    return all(part.declared is not None for part in parts) and not check(graph)
