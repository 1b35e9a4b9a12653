"""Small pieces of Markdown that the generated pages are made of."""

import re
from collections.abc import Iterable, Sequence

_ARXIV = re.compile(r"\barXiv (\d{4}\.\d{4,5})")
_DOI = re.compile(r"\bdoi:(10\.\d{4,9}/[^\s,;)]+[^\s,;.)])")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, or an empty text where there are no rows; cells are Markdown on one line."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *lines, ""])


def code(text: str) -> str:
    """Return the text as code that may stand in a cell of a table."""
    return f"<code>{_escaped(text)}</code>" if "`" in text or "|" in text else f"`{text}`"


def code_block(text: str, language: str = "") -> str:
    """Return a fenced block whose fence is longer than any in the text."""
    longest = max((len(ticks) for ticks in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"


def linked_papers(text: str) -> str:
    """Return the text with links to the papers that it names as `arXiv 2402.03300` or `doi:10.1038/nature14236`."""
    return _DOI.sub(r"[doi:\1](https://doi.org/\1)", _ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", text))


def in_cell(text: str) -> str:
    """Return a text of prose as the cell of a table."""
    return linked_papers(" ".join(text.split())).replace("|", "\\|").replace("<", "&lt;")


def _escaped(text: str) -> str:
    named = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "`": "&#96;", "*": "&#42;", "_": "&#95;"}
    return "".join(named.get(character, character) for character in text)
