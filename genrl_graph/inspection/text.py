"""Make text of models and peers safe to print in a terminal."""

import os

from rich.console import Console
from rich.text import Text

from genrl_graph.messages import escaped

PIPE_WIDTH = 80
"""Width of tables, in characters, where the output is not a terminal."""


def line(text: str) -> str:
    """Return the escaped text in one line."""
    return escaped(text).replace("\n", "\\n").replace("\t", "\\t")


def truncated(text: str, limit: int | None) -> str:
    """Return at most `limit` characters of a text, and how many are missing; None for no limit."""
    if limit is None or len(text) <= limit:
        return text
    return f"{text[:limit]} ... (+{len(text) - limit} characters; --full shows all)"


def short(id: str) -> str:
    """Return the start of a rollout's id; `lineage` accepts it where it is unique."""
    return line(id[:10])


def number(value: float | None) -> str:
    """Format a number with three decimals; None and NaN, as of rows that could not be judged, become a dash."""
    return "-" if value is None or value != value else f"{value:.3f}"


def new_console() -> Console:
    """Return a console for standard output: in colour in a terminal, else plain, COLUMNS or `PIPE_WIDTH` wide."""
    console = Console(markup=False, highlight=False, emoji=False)
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(markup=False, highlight=False, emoji=False, width=PIPE_WIDTH)


def say(console: Console, *parts: str | tuple[str, str], indent: int = 0) -> None:
    """Print one line from parts, each a text or a text and a style; the console does not interpret markup in them."""
    text = Text.assemble(" " * indent, *parts)
    console.print(text, soft_wrap=True)
