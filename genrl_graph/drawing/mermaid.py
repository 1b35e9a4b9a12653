"""Render a picture as a Mermaid flowchart, which GitHub draws: stages and, in them, roles as boxes, kinds as shapes."""

from collections.abc import Iterator

from genrl_graph.drawing.kinds import FRAME, FRAME_LINE, INK, WEIGHTS, WRONG, style_of
from genrl_graph.drawing.picture import Box, Line, Picture, clipped

_CLIP = 60


def mermaid(picture: Picture) -> str:
    """Render a picture as Mermaid text; lines of weights and to the next round are dashed."""
    ids = {name: _id(name) for name in picture.boxes}
    lines = [f"%% {number}. {' '.join(text.split())}" for number, text in enumerate(picture.problems, start=1)]
    lines.append("flowchart TB")
    for box in picture.boxes.values():
        if box.stage is None:
            lines.append(f"  {ids[box.name]}{_shape(picture, box)}:::{box.kind}")
    for stage in range(picture.stages):
        lines.append(f'  subgraph stage{stage}["stage {stage}"]')
        for lane, role in enumerate(picture.lanes()):
            inside = [box for box in picture.boxes.values() if box.stage == stage and box.role == role]
            lines += [f'  subgraph stage{stage}_lane{lane}["role {_text(role)}"]'] if role and inside else []
            lines += [f"    {ids[box.name]}{_shape(picture, box)}:::{box.kind}" for box in inside]
            lines += ["  end"] if role and inside else []
        lines.append("  end")
    dashed, wrong, at = [], [], 0
    for line in picture.lines:
        for reader in dict.fromkeys(read.reader for read in line.reads):
            end = ids[reader] if line.style != "next" else _next_round_node(ids, picture.boxes[reader])
            lines.append(f"  {ids[line.origin]} {_arrow(line)} {end}")
            dashed += [at] if line.style != "rows" else []
            wrong += [at] if reader in line.wrong else []
            at += 1
    return "\n".join([*lines, *_styles(picture, dashed), *_red(picture, ids, wrong)]) + "\n"


def _shape(picture: Picture, box: Box) -> str:
    texts = [f"<b>{_text(box.name)}</b>", _text(box.type_name)]
    texts += [_text(box.note)] if box.note else []
    if picture.with_params:
        texts += [_text(clipped(f"{name}: {value}", _CLIP)) for name, value in box.params.items()]
    texts += [f"problem {', '.join(map(str, box.problems))}"] if box.problems else []
    texts += [_text(text) for text in box.numbers.texts()]
    return style_of(box.kind).mermaid.format("<br/>".join(texts))


def _next_round_node(ids: dict[str, str], box: Box) -> str:
    """Return a carry in the next round as a node of its own, because Mermaid lays out cycles badly."""
    name = f"{ids[box.name]}_next"
    while name in ids.values():
        name += "_"
    return f'{name}("<b>{_text(box.name)}</b><br/>next round"):::{box.kind}'


def _arrow(line: Line) -> str:
    return "-.->" if line.style != "rows" else f"-- {_text(line.label)} -->"


def _styles(picture: Picture, dashed: list[int]) -> Iterator[str]:
    for kind in picture.kinds():
        style = style_of(kind)
        yield f"  classDef {kind} fill:{style.fill},stroke:{style.line},stroke-width:2px,color:{INK}"
    for stage in range(picture.stages):
        yield f"  style stage{stage} fill:{FRAME},stroke:{FRAME_LINE},color:{INK}"
    if dashed:
        yield f"  linkStyle {','.join(map(str, dashed))} stroke:{WEIGHTS}"


def _red(picture: Picture, ids: dict[str, str], wrong: list[int]) -> Iterator[str]:
    """Yield the styles of what is wrong."""
    for box in picture.boxes.values():
        if box.problems:
            yield f"  style {ids[box.name]} stroke:{WRONG},stroke-width:3px"
    if wrong:
        yield f"  linkStyle {','.join(map(str, wrong))} stroke:{WRONG}"


def _id(name: str) -> str:
    """Return a node id for a name, with reserved words and special characters escaped."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c == "_") else f"_{ord(c):x}_" for c in name)
    reserved = {"end", "graph", "subgraph", "flowchart", "style", "class", "click", "default", "direction", "linkStyle"}
    return f"{plain}_" if plain in reserved or plain.startswith("stage") else plain


def _text(text: str) -> str:
    """Escape the characters that end a label or are markup, as Mermaid entities."""
    return "".join(f"#{ord(c)};" if c in '"#<>[]{}()|&;`\\' or c < " " else c for c in text)
