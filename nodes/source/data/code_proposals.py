"""Read what a policy proposes as a programming task, and test whether it is one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from genrl_graph.nodes.source.data.code_task import CodeTest

_DECLARES = re.compile(r"\s*(async def|def|class|import|from)\b")
_BLOCK = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Draft:
    """A proposal as it is read: a statement, a reference solution and tests that are code."""

    statement: str
    reference: str
    setup: str
    tests: tuple[str, ...]


def read_draft(text: str) -> Draft | None:
    """Read a statement, a code block with the reference solution and one with assertions; None if one is missing.

    Lines of the second block that assert nothing run before every test.
    """
    blocks = _BLOCK.findall(text)
    statement = text.partition("```")[0].strip()
    if len(blocks) < 2 or not statement or not blocks[0].strip():
        return None
    lines = blocks[1].splitlines()
    tests = tuple(line for line in lines if line.startswith("assert"))
    setup = "\n".join(line for line in lines if not line.startswith("assert"))
    return Draft(statement, blocks[0].strip("\n"), setup.strip(), tests) if tests else None


def leaks(statement: str, reference: str) -> bool:
    """Return whether a statement says the reference solution, or a line of it that computes something."""
    said = _plain(statement)
    lines = [_plain(line) for line in reference.splitlines() if not _DECLARES.match(line)]
    return any(line in said for line in lines if len(line) >= LEAST_LEAK)


LEAST_LEAK = 8
"""Fewest characters, without space, of a line of the solution that counts as said."""


def _plain(text: str) -> str:
    return re.sub(r"\s", "", text)


def trivial_solutions(tests: Sequence[CodeTest], names: Sequence[str]) -> list[str]:
    """Return programs that solve nothing: functions that return a constant or an argument, or print that."""
    if tests[0].output is not None:
        echo = "import sys\nprint(sys.stdin.read())"
        return ["pass", echo, *(f"print({value})" for value in ("0", "1", "True", "False", "''"))]
    values = ("None", "0", "1", "-1", "True", "False", "''", "[]", "{}", "a[0]", "a[-1]", "len(a[0])")
    return ["\n".join(f"def {name}(*a, **k): return {value}" for name in names) for value in values]


def defined_names(program: str) -> list[str]:
    """Return the names of the functions that a program defines at its top."""
    return re.findall(r"^def (\w+)", program, re.MULTILINE)
