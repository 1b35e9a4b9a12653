"""A graph as a picture, in six formats; nothing is asked of a network, and equal graphs give equal bytes."""

from collections.abc import Callable, Mapping
from pathlib import Path

from genrl_graph.dag.schedule import Schedule
from genrl_graph.drawing import dot as dots
from genrl_graph.drawing import mermaid as mermaids
from genrl_graph.drawing import svg as svgs
from genrl_graph.drawing import text as texts
from genrl_graph.drawing.measured import RunNumbers
from genrl_graph.drawing.picture import Picture, picture
from genrl_graph.errors import ParamError
from genrl_graph.messages import did_you_mean

ENDINGS: Mapping[str, str] = {
    ".txt": "text",
    ".mmd": "mermaid",
    ".mermaid": "mermaid",
    ".dot": "dot",
    ".gv": "dot",
    ".svg": "svg",
    ".png": "png",
    ".html": "html",
    ".htm": "html",
}
"""The format that the ending of a file stands for."""
FORMATS = tuple(dict.fromkeys(ENDINGS.values()))


def draw(schedule: Schedule, format: str = "svg", *, params: bool = False, run: RunNumbers | None = None) -> bytes:
    """The picture of a compiled graph as the contents of a file.

    `params` shows those that differ from their defaults, `run` what a run measured
    (`genrl_graph.drawing.measured`). Raises `ParamError` for an unknown format.
    """
    return render(picture(schedule, params=params, run=run), format)


def render(drawn: Picture, format: str) -> bytes:
    """A picture in a format of `FORMATS`."""
    if format not in _RENDERERS:
        hint = did_you_mean(format, FORMATS) or f"; it is one of {', '.join(FORMATS)}"
        raise ParamError(f"--format {format}: no such format{hint}")
    made = _RENDERERS[format](drawn)
    return made if isinstance(made, bytes) else made.encode()


def mermaid(schedule: Schedule) -> str:
    """The graph as a Mermaid flowchart."""
    return mermaids.mermaid(picture(schedule))


def format_of(out: Path | None, format: str | None) -> str:
    """The format that was asked for by name or by the ending of the file; text where nothing was.

    Raises `ParamError` for an ending that stands for none.
    """
    if format is not None or out is None:
        return format or "text"
    if out.suffix.lower() not in ENDINGS:
        endings = ", ".join(ENDINGS)
        raise ParamError(f"-o {out}: the ending {out.suffix!r} stands for no format; use {endings} or give --format")
    return ENDINGS[out.suffix.lower()]


def write(out: Path, made: bytes) -> None:
    """Write a picture; raises `ParamError` where the file cannot be written."""
    try:
        out.write_bytes(made)
    except OSError as error:
        raise ParamError(f"-o {out}: cannot write: {error.strerror or error}; name another file") from error


def _html(drawn: Picture) -> str:
    from genrl_graph.drawing.html import html

    return html(drawn)


def _png(drawn: Picture) -> bytes:
    from genrl_graph.drawing.png import png

    return png(drawn)


_RENDERERS: Mapping[str, Callable[[Picture], str | bytes]] = {
    "text": texts.text,
    "mermaid": mermaids.mermaid,
    "dot": dots.dot,
    "svg": svgs.svg,
    "png": _png,
    "html": _html,
}
