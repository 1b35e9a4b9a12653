"""Text of models and peers as a terminal may show it."""

import re

from rich.console import Console
from rich.text import Text

# control characters but newline and tab, marks that turn the direction of writing, half surrogate pairs
_HOSTILE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
PIPE_WIDTH = 200
"""Columns of a table where no terminal sets them."""


def shown(text: str) -> str:
    """The text with everything that could command a terminal, or hide other text, spelled as an escape."""
    return _HOSTILE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def line(text: str) -> str:
    """The text in one line."""
    return shown(text).replace("\n", "\\n").replace("\t", "\\t")


def cut(text: str, limit: int | None) -> str:
    """The start of a text that is longer than `limit` characters, and how much is missing."""
    if limit is None or len(text) <= limit:
        return text
    return f"{text[:limit]} ... (+{len(text) - limit} characters; --full shows all)"


def short(id: str) -> str:
    """The start of a rollout's id, which `lineage` takes for the whole one where it is unique."""
    return line(id[:10])


def number(value: float | None) -> str:
    """Three decimals; a dash for none and for what could not be judged."""
    return "-" if value is None or value != value else f"{value:.3f}"


def new_console() -> Console:
    """Standard output: colours where it is a terminal, plain lines of any length elsewhere."""
    console = Console(markup=False, highlight=False, emoji=False)
    return console if console.is_terminal else Console(markup=False, highlight=False, emoji=False, width=PIPE_WIDTH)


def say(console: Console, *parts: str | tuple[str, str], indent: int = 0) -> None:
    """Print parts, each a text or a text and a style, in one line that the console may wrap but never reads."""
    text = Text.assemble(" " * indent, *parts)
    console.print(text, soft_wrap=True)
