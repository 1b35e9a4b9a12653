"""A picture in Graphviz's language, for those who lay graphs out with it; our own SVG and PNG do not need it."""

from collections.abc import Iterator

from genrl_graph.drawing.kinds import FRAME, FRAME_LINE, INK, MUTED, PAPER, WEIGHTS, Shape, look
from genrl_graph.drawing.picture import Box, Line, LineEnd, Picture, clipped

_SHAPES: dict[Shape, str] = {
    "cylinder": 'shape=cylinder, style="filled"',
    "stadium": 'shape=box, style="rounded,filled"',
    "hexagon": 'shape=hexagon, style="filled"',
    "funnel": 'shape=invtrapezium, style="filled"',
    "bevel": 'shape=octagon, style="filled"',
    "slant": 'shape=parallelogram, style="filled"',
    "double": 'shape=box, style="filled", peripheries=2',
    "ellipse": 'shape=ellipse, style="filled"',
    "pentagon": 'shape=cds, style="filled"',
    "box": 'shape=box, style="filled"',
    "rounded": 'shape=folder, style="filled"',
}
_CLIP = 48
DENSE = 150
"""Lines from which Graphviz's splines get slow and may fail; straight pieces do not."""


def dot(picture: Picture) -> str:
    """The picture as a DOT file with a cluster for each stage."""
    count = sum(len(line.reads) for line in picture.lines)
    splines = "true" if count < DENSE else "polyline"
    lines = [
        f"digraph {_q(picture.name)} {{",
        f'  graph [rankdir=TB, bgcolor="{PAPER}", pad=0.3, nodesep=0.3, ranksep=0.5, splines={splines},'
        f' fontname="Helvetica", label={_q(f"{picture.name} · {picture.subtitle}")}, labelloc=t]',
        f'  node [fontname="Helvetica", fontsize=11, fontcolor="{INK}", penwidth=1.6, margin="0.16,0.08"]',
        f'  edge [fontname="Helvetica", fontsize=9, fontcolor="{MUTED}", arrowsize=0.7]',
    ]
    lines += [f"  {_node(picture, box)}" for box in picture.boxes.values() if box.stage is None]
    for stage in range(picture.stages):
        lines.append(f"  subgraph cluster_stage{stage} {{")
        lines.append(
            f'    label="stage {stage}"; labeljust=l; style="rounded,filled"; fillcolor="{FRAME}"; '
            f'color="{FRAME_LINE}"; fontcolor="{MUTED}"; fontsize=11'
        )
        lines += [f"    {_node(picture, box)}" for box in picture.boxes.values() if box.stage == stage]
        lines.append("  }")
    for line in picture.lines:
        lines += [f"  {_edge(picture, line, read)}" for read in line.reads]
    return "\n".join([*lines, *_legend(picture), "}"]) + "\n"


def _node(picture: Picture, box: Box) -> str:
    texts = [box.name, box.type_name, *([box.note] if box.note else [])]
    if picture.with_params:
        texts += [clipped(f"{name}: {value}", _CLIP) for name, value in box.params.items()]
    texts += box.numbers.texts()
    how = look(box.kind)
    colours = f'color="{how.line}", fillcolor="{how.fill}"'
    return f"{_q(box.name)} [label={_q(chr(10).join(texts))}, {_SHAPES[how.shape]}, {colours}]"


def _edge(picture: Picture, line: Line, read: LineEnd) -> str:
    ends = f"{_q(line.origin)} -> {_q(read.reader)}"
    if line.style == "next":
        return f'{ends} [label="next round", style=dotted, color="{WEIGHTS}", fontcolor="{WEIGHTS}", constraint=false]'
    said = f"{line.ref} → {read.reader}.{read.socket}"
    if line.style == "weights":
        return f'{ends} [style=dashed, color="{WEIGHTS}", tooltip={_q(said)}]'
    colour = look(picture.boxes[line.origin].kind).line
    return f'{ends} [label={_q(line.label)}, color="{colour}", tooltip={_q(said)}]'


def _legend(picture: Picture) -> Iterator[str]:
    yield '  subgraph cluster_legend {\n    label="kinds"; labeljust=l; color="#ffffff"; fontsize=9; rank=same'
    for kind in picture.kinds():
        how = look(kind)
        yield (
            f"    {_q(f'legend {kind}')} [label={_q(kind)}, {_SHAPES[how.shape]}, "
            f'color="{how.line}", fillcolor="{how.fill}", fontsize=9, margin="0.08,0.02", height=0.25]'
        )
    yield "  }"


def _q(text: str) -> str:
    """A quoted string; a backslash of the text is one of the picture."""
    plain = "".join(c if c >= " " or c == "\n" else " " for c in text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
