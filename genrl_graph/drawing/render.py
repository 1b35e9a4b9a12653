"""Render a graph as a picture in seven formats, without network access; equal graphs give equal bytes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from genrl_graph.dag.check import check
from genrl_graph.dag.graph import Graph
from genrl_graph.dag.problems import Problem
from genrl_graph.dag.schedule import Schedule, compile_graph
from genrl_graph.drawing import dot as dots
from genrl_graph.drawing import mermaid as mermaids
from genrl_graph.drawing import svg as svgs
from genrl_graph.drawing import text as texts
from genrl_graph.drawing.draft import draft_picture
from genrl_graph.drawing.measured import RunNumbers
from genrl_graph.drawing.picture import Look, Picture, picture
from genrl_graph.errors import ParamError
from genrl_graph.messages import did_you_mean
from genrl_graph.store.durable import write_out

ENDINGS: Mapping[str, str] = {
    ".txt": "text",
    ".mmd": "mermaid",
    ".mermaid": "mermaid",
    ".dot": "dot",
    ".gv": "dot",
    ".svg": "svg",
    ".png": "png",
    ".pdf": "pdf",
    ".html": "html",
    ".htm": "html",
}
"""Format by ending of the file."""
FORMATS = tuple(dict.fromkeys(ENDINGS.values()))


def draw(schedule: Schedule, format: str = "svg", *, params: bool = False, run: RunNumbers | None = None) -> bytes:
    """Draw a compiled graph and return the contents of the picture file.

    `params` shows the params that differ from their defaults, `run` the metrics of a run (see
    `genrl_graph.drawing.measured`). Raises `ParamError` for an unknown format.
    """
    return render(picture(schedule, params=params, run=run), format)


def picture_of(
    graph: Graph,
    problems: Sequence[Problem] | None = None,
    *,
    params: bool = False,
    run: RunNumbers | None = None,
    look: Look | None = None,
) -> Picture:
    """Return the picture of a graph; that of a broken one shows its `problems`, by default those of `check`."""
    problems = check(graph) if problems is None else problems
    if problems:
        return draft_picture(graph, problems, params=params, look=look)
    return picture(compile_graph(graph), params=params, run=run, look=look)


def draw_file(graph: Graph, out: Path, *, params: bool, look: Look) -> None:
    """Write the picture of a graph in the format that the ending of a file names.

    Raises `ParamError` for an unknown ending, and as `write_out` does.
    """
    if out.suffix.lower() not in ENDINGS:
        raise ParamError(f"{out}: {_no_format(out)}")
    write_out(out, render(picture_of(graph, params=params, look=look), ENDINGS[out.suffix.lower()]))


def render(drawn: Picture, format: str) -> bytes:
    """Render a picture in one of `FORMATS`; raises `ParamError` for any other format."""
    if format not in _RENDERERS:
        hint = did_you_mean(format, FORMATS) or f"; it is one of {', '.join(FORMATS)}"
        raise ParamError(f"format {format!r}: no such format{hint}")
    contents = _RENDERERS[format](drawn)
    return contents if isinstance(contents, bytes) else contents.encode()


def mermaid(schedule: Schedule) -> str:
    """Return a compiled graph as a Mermaid flowchart."""
    return mermaids.mermaid(picture(schedule))


def format_of(out: Path | None, format: str | None) -> str:
    """Return the format given by name, else by the ending of the file, else text.

    Raises `ParamError` for an unknown ending.
    """
    if format is not None or out is None:
        return format or "text"
    if out.suffix.lower() not in ENDINGS:
        raise ParamError(f"-o {out}: {_no_format(out)} or give --format")
    return ENDINGS[out.suffix.lower()]


def _no_format(out: Path) -> str:
    what = f"the ending {out.suffix!r}" if out.suffix else "a name without an ending"
    return f"{what} stands for no format; use {', '.join(ENDINGS)}"


def _html(drawn: Picture) -> str:
    from genrl_graph.drawing.html import html

    return html(drawn)


def _png(drawn: Picture) -> bytes:
    from genrl_graph.drawing.png import png

    return png(drawn)


def _pdf(drawn: Picture) -> bytes:
    from genrl_graph.drawing.pdf import pdf

    return pdf(drawn)


_RENDERERS: Mapping[str, Callable[[Picture], str | bytes]] = {
    "text": texts.text,
    "mermaid": mermaids.mermaid,
    "dot": dots.dot,
    "svg": svgs.svg,
    "png": _png,
    "pdf": _pdf,
    "html": _html,
}
