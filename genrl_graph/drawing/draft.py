"""The picture of an unfinished or broken graph: its parts as far as they are known, and what is wrong with them."""

import inspect
from collections.abc import Iterator, Mapping, Sequence

from genrl_graph.contract.declared import Declared
from genrl_graph.contract.node import Carry, Generator
from genrl_graph.dag.graph import Edge, Graph, Part
from genrl_graph.dag.infer import infer
from genrl_graph.dag.problems import Problem
from genrl_graph.dag.schedule import Step
from genrl_graph.drawing.kinds import MISSING
from genrl_graph.drawing.picture import Box, Line, LineEnd, Look, Picture, Style, param_text
from genrl_graph.edge_types.edge_type import EdgeType
from genrl_graph.edge_types.frame import Frame
from genrl_graph.errors import ParamError
from genrl_graph.messages import counted


def draft_picture(
    graph: Graph, problems: Sequence[Problem], *, params: bool = False, look: Look | None = None
) -> Picture:
    """Return the picture of a graph that does not pass the check; each problem marks its box and its line.

    Stages and the order of steps are a guess: edges of a cycle that lead back are left out of it.
    """
    stages = _guessed_stages(graph)
    marks = _marks(problems)
    boxes = {name: _box(part, stages, marks, params) for name, part in _parts(graph).items()}
    missing = {edge.origin: edge.reader for edge in graph.edges() if edge.origin not in boxes}
    missing |= {part.next.partition(".")[0]: "" for part in graph.carries.values() if part.next} | missing
    for name, reader in missing.items():
        if name not in boxes:
            boxes[name] = _box_of(name, "no such part", MISSING, stages.get(reader, 0))
            stages = {name: stages.get(reader, 0)} | stages
    carries = graph.carries
    return Picture(
        name=graph.name or "unnamed",
        subtitle=f"{counted(len(graph.nodes), 'node')} · {counted(len(problems), 'problem')}",
        boxes=boxes,
        lines=tuple(_lines(graph, boxes, infer(graph), problems)),
        steps=tuple(
            Step("run", name, stages[name], {})
            for name in sorted(stages, key=stages.__getitem__)
            if name not in carries
        ),
        stages=1 + max((stages[name] for name in stages if name not in carries), default=-1),
        with_params=params,
        measured="",
        problems=tuple(map(str, problems)),
        look=look or Look(),
    )


def _parts(graph: Graph) -> dict[str, Part]:
    return graph.nodes | graph.carries if graph.nodes.keys() & graph.carries.keys() else graph.carries | graph.nodes


def _marks(problems: Sequence[Problem]) -> dict[str, tuple[int, ...]]:
    """Return the numbers of the problems of each part, from 1 on."""
    marks: dict[str, tuple[int, ...]] = {}
    for number, problem in enumerate(problems, start=1):
        if problem.path[:1] in (("nodes",), ("carry",)) and len(problem.path) > 1:
            name = str(problem.path[1])
            marks[name] = (*marks.get(name, ()), number)
    return marks


def _guessed_stages(graph: Graph) -> dict[str, int]:
    """Return the stage of each node by name, in an order in which most nodes follow those that they read."""
    upstream = {name: {edge.origin for edge in part.edges()} & graph.nodes.keys() for name, part in graph.nodes.items()}
    stages: dict[str, int] = {}
    deepest: dict[str, int] = {}  # the highest stage of a generator at or above each node, -1 for none
    left = list(graph.nodes)
    while left:
        name = next((name for name in left if upstream[name] <= stages.keys()), left[0])
        left.remove(name)
        above = max((deepest[origin] for origin in upstream[name] if origin in deepest), default=-1)
        deepest[name] = above + 1 if _kind(graph.nodes[name]) == Generator.kind else above
        stages[name] = max(deepest[name], 0)
    return stages


def _kind(part: Part) -> str:
    if part.cls is None:
        return part.type_name.partition(".")[0]
    return "carry" if issubclass(part.cls, Carry) else part.cls.kind


def _box(part: Part, stages: Mapping[str, int], marks: Mapping[str, tuple[int, ...]], params: bool) -> Box:
    stage = stages.get(part.name)
    written: Mapping[str, object] = part.written or {}
    if params and isinstance(part.declared, Declared):
        try:
            written = part.portable_params()
        except ParamError:
            written = part.recorded_params()
    return Box(
        name=part.name,
        type_name=part.type_name or "no type",
        kind="carry" if stage is None else _kind(part),
        stage=stage,
        steps=(),
        doc=inspect.getdoc(part.cls) or "" if part.cls is not None else "",
        note="frozen" if stage is None and part.next is None else "",
        params={name: param_text(value) for name, value in written.items()},
        problems=marks.get(part.name, ()),
        role=part.role,
    )


def _box_of(name: str, type_name: str, kind: str, stage: int) -> Box:
    return Box(name, type_name, kind, stage, (), "", "", {})


def _lines(
    graph: Graph, boxes: Mapping[str, Box], types: Mapping[str, EdgeType], problems: Sequence[Problem]
) -> Iterator[Line]:
    wrong = {problem.path[:4] for problem in problems}
    reads: dict[str, list[Edge]] = {}
    for edge in graph.edges():
        reads.setdefault(edge.ref, []).append(edge)
    for ref, edges in reads.items():
        origin = ref.partition(".")[0]
        kind = types.get(ref)
        style: Style = "weights" if kind is not None and not _are_rows(kind) else "rows"
        ends = tuple(LineEnd(e.reader, e.socket if e.key is None else f"{e.socket}.{e.key}") for e in edges)
        faulty = {e.reader for e in edges if ("nodes", e.reader, "inputs", e.socket) in wrong}
        faulty |= {e.reader for e in edges if boxes[origin].kind == MISSING}
        yield Line(ref, origin, "" if kind is None else str(kind), style, ends, frozenset(faulty))
    for name, part in graph.carries.items():
        if part.next is not None:
            faulty = {name} if ("carry", name, "next") in wrong else set()
            end = (LineEnd(name, "next"),)
            yield Line(part.next, part.next.partition(".")[0], "next round", "next", end, frozenset(faulty))


def _are_rows(kind: EdgeType) -> bool:
    return issubclass(kind.base, Frame)
