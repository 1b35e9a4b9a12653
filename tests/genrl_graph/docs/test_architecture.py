"""The page that says where things are: its files, and the classes and functions that it names in them, exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "genrl_graph/docs/pages/architecture.md").read_text()
PLACE = re.compile(r"`((?:genrl_graph|nodes|runners|graphs|tests)/[\w./]*)`")
NAMED = re.compile(r"`([\w/]+\.py)`: ((?:`\w+(?:\.\w+)?`(?:, | and )?)+)")


def test_every_file_and_folder_exists() -> None:
    places = PLACE.findall(PAGE)
    assert len(places) > 40
    assert [place for place in places if not (ROOT / place).exists()] == []


def test_every_class_and_function_is_defined_in_the_file_that_it_is_said_to_be_in() -> None:
    named = [(file, name) for file, names in NAMED.findall(PAGE) for name in re.findall(r"\w+", names) if name != "and"]
    assert len(named) > 10
    for file, name in named:
        assert re.search(rf"^ *(?:def|class) {name}\b", (ROOT / file).read_text(), re.MULTILINE), f"{file}: {name}"
