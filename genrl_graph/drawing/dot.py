"""Render a picture in Graphviz's DOT language, for users of Graphviz; our own SVG and PNG do not need it."""

from collections.abc import Iterator

from genrl_graph.drawing.kinds import FRAME, FRAME_LINE, INK, MUTED, PAPER, WEIGHTS, WRONG, Shape, style_of
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
    "trapezium": 'shape=trapezium, style="filled"',
    "box": 'shape=box, style="filled"',
    "rounded": 'shape=folder, style="filled"',
}
_CLIP = 48
DENSE = 150
"""Number of lines from which splines are slow in Graphviz, and may fail; polylines are not and do not."""


def dot(picture: Picture) -> str:
    """Render a picture as DOT text, with a cluster for each stage and, in it, for each role."""
    count = sum(len(line.reads) for line in picture.lines)
    splines = "true" if count < DENSE else "polyline"
    ground = "transparent" if picture.look.transparent else PAPER
    lines = [
        f"digraph {_quoted(picture.name)} {{",
        f'  graph [rankdir=TB, bgcolor="{ground}", pad=0.3, nodesep=0.3, ranksep=0.5, splines={splines},'
        f' fontname="Helvetica", label={_quoted(_title(picture))}, labelloc=t]',
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
        for lane, role in enumerate(picture.lanes()):
            inside = [box for box in picture.boxes.values() if box.stage == stage and box.role == role]
            lines += [f"    subgraph cluster_stage{stage}_lane{lane} {{"] if role and inside else []
            lines += [f'      label={_quoted(f"role {role}")}; style="rounded,dashed"'] if role and inside else []
            lines += [f"    {_node(picture, box)}" for box in inside]
            lines += ["    }"] if role and inside else []
        lines.append("  }")
    for line in picture.lines:
        lines += [f"  {_edge(picture, line, read)}" for read in line.reads]
    legend = _legend(picture) if picture.look.legend else ()
    return "\n".join([*lines, *legend, "}"]) + "\n"


def _title(picture: Picture) -> str:
    """Return the title with the problems below it, each in a line at the left."""
    title = f"{picture.name} · {picture.subtitle}" if picture.look.title else ""
    problems = (f"{number}. {problem}" for number, problem in enumerate(picture.problems, start=1))
    return "\n".join([*([title] if title else []), *problems])


def _node(picture: Picture, box: Box) -> str:
    texts = [box.name, box.type_name, *([box.note] if box.note else [])]
    if picture.with_params:
        texts += [clipped(f"{name}: {value}", _CLIP) for name, value in box.params.items()]
    texts += [f"problem {', '.join(map(str, box.problems))}"] if box.problems else []
    texts += box.numbers.texts()
    style = style_of(box.kind)
    colours = f'color="{WRONG if box.problems else style.line}", fillcolor="{style.fill}"'
    return f"{_quoted(box.name)} [label={_quoted(chr(10).join(texts))}, {_SHAPES[style.shape]}, {colours}]"


def _edge(picture: Picture, line: Line, read: LineEnd) -> str:
    ends = f"{_quoted(line.origin)} -> {_quoted(read.reader)}"
    if line.style == "next":
        colour = WRONG if read.reader in line.wrong else WEIGHTS
        return f'{ends} [label="next round", style=dotted, color="{colour}", fontcolor="{colour}", constraint=false]'
    tooltip = f"{line.ref} → {read.reader}.{read.socket}"
    wrong = WRONG if read.reader in line.wrong else ""
    if line.style == "weights":
        return f'{ends} [style=dashed, color="{wrong or WEIGHTS}", tooltip={_quoted(tooltip)}]'
    colour = wrong or style_of(picture.boxes[line.origin].kind).line
    return f'{ends} [label={_quoted(line.label)}, color="{colour}", tooltip={_quoted(tooltip)}]'


def _legend(picture: Picture) -> Iterator[str]:
    yield '  subgraph cluster_legend {\n    label="kinds"; labeljust=l; color="#ffffff"; fontsize=9; rank=same'
    for kind in picture.kinds():
        style = style_of(kind)
        yield (
            f"    {_quoted(f'legend {kind}')} [label={_quoted(kind)}, {_SHAPES[style.shape]}, "
            f'color="{style.line}", fillcolor="{style.fill}", fontsize=9, margin="0.08,0.02", height=0.25]'
        )
    yield "  }"


def _quoted(text: str) -> str:
    """Return text as a quoted DOT string that is shown as it is, backslashes included."""
    plain = "".join(c if c >= " " or c == "\n" else " " for c in text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
