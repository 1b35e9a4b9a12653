"""A minimal terminal that follows rich's redrawing of a bar, and returns the lines that remain."""

import re

_CONTROL = re.compile(r"\x1b\[\??(\d*)(?:;\d+)*([A-Za-z])")


def screen(written: str) -> list[str]:
    """Return the non-empty lines on a terminal after some output."""
    lines, row, column, at = [""], 0, 0, 0
    while at < len(written):
        if control := _CONTROL.match(written, at):
            at = control.end()
            if control[2] == "A":
                row = max(0, row - int(control[1] or 1))
            elif control[2] == "K":
                lines[row] = ""
            continue
        character, at = written[at], at + 1
        if character == "\r":
            column = 0
        elif character == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        else:
            lines[row] = lines[row][:column].ljust(column) + character + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines if line.strip()]
