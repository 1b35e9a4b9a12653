"""Print tables that fit the terminal: no cell is cut or broken, columns that do not fit continue below."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from genrl_graph.inspection.text import say

GAP = 2
"""Characters between two columns."""


def print_table(
    console: Console, header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, title: str = ""
) -> None:
    """Print rows below a header; the first `left` columns are names and aligned left, the others are numbers.

    What is wider than the console continues in a second table, whose first column is the same. A name so long that
    no column fits beside it has a line of its own.
    """
    if title:
        say(console, (title, "italic"))
    widths = [max(cell_len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    if widths[0] + GAP + max(widths[1:], default=0) > console.width:
        for row in rows:
            say(console, (row[0], "bold"))
            pairs = (f"{name} {cell}" for name, cell in zip(header[1:], row[1:], strict=True) if cell)
            console.print(Text(f"  {',  '.join(pairs)}"))
        return
    for columns in _fitting(widths, console.width):
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
        for at in columns:
            table.add_column(header[at], justify="left" if at < left else "right", no_wrap=True)
        for row in rows:
            table.add_row(*(Text(row[at]) for at in columns))
        console.print("", table, "", sep="\n")


def _fitting(widths: Sequence[int], width: int) -> Iterator[list[int]]:
    """Yield the columns of each table: the first, and as many of those that are left as fit."""
    columns = [0]
    for at in range(1, len(widths)):
        if sum(widths[each] + GAP for each in columns) + widths[at] > width:
            yield columns
            columns = [0]
        columns.append(at)
    yield columns
