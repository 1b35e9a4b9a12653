"""The tables of other trainers' fields: none is left out, and every name that they give exists here."""

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from genrl_graph.cli.command_line import command_parser
from genrl_graph.contract import registry
from genrl_graph.dag.run_config import RunConfig

PAGES = Path(__file__).parents[3] / "genrl_graph" / "docs" / "pages" / "reference"
VERDICTS = ("here", "renamed", "not meant", "missing")
ROW = re.compile(r"^\| `([^`]+)` \| ([a-z ]+) \| (.+) \|$", re.MULTILINE)


def rows(page: str) -> list[tuple[str, str, str]]:
    """Return field, verdict and text of each row."""
    return [(field, verdict, text) for field, verdict, text in ROW.findall((PAGES / page).read_text())]


def commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in command_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def exists(name: str) -> bool:
    """Return whether a name is a param of a type, a type, an option of `run:`, or of the command line."""
    if name.startswith("run."):
        return name.removeprefix("run.") in RunConfig.model_fields
    if name.startswith("genrl-graph "):
        return name.removeprefix("genrl-graph ") in dict(commands())
    if name.startswith("-"):
        return any(name in parser._option_string_actions for _, parser in commands())
    kind, _, param = name.rpartition(".")
    types = registry.types()
    return name in types or (kind in types and param in types[kind].model_fields)


def test_every_field_of_the_installed_trl_has_a_row() -> None:
    from trl import GRPOConfig

    installed = {field.name for field in fields(GRPOConfig)}
    listed = [field for field, _, _ in rows("trl_fields.md")]
    assert sorted(listed) == sorted(set(listed))
    newer = installed - set(listed)
    assert not newer, f"TRL has fields that the table lacks: {', '.join(sorted(newer))}; say what they are called here"


@pytest.mark.parametrize("page", ["trl_fields.md", "verl_fields.md"])
def test_a_table_counts_its_verdicts_and_names_what_exists(page: str) -> None:
    table = rows(page)
    text = (PAGES / page).read_text()
    assert len(table) == sum(line.startswith("| `") for line in text.splitlines())
    counts = Counter(verdict for _, verdict, _ in table)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
    assert f"{len(table)} fields: {told}." in text
    for field, verdict, there in table:
        names = re.findall(r"`([^`]+)`", there)
        assert names or verdict in ("not meant", "missing"), field
        if verdict in ("here", "renamed"):
            assert [name for name in names if not exists(name)] == [], field
        dotted = [name for name in names if "." in name]
        assert [name for name in dotted if not exists(name)] == [], field
        if verdict == "here":
            assert any(name.rpartition(".")[2] == field.rpartition(".")[2] for name in names), field
