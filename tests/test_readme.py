"""README shows only what runs: its code blocks are played in their order in an empty folder."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from code_blocks import ROOT, link_graphs, play, sections_of

from genrl_graph import load
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.drawing.render import draw

README = (ROOT / "README.md").read_text()
SECTIONS = sections_of(README)
BLOCKS = [block for blocks in SECTIONS.values() for block in blocks]
PLAYED = [heading for heading, blocks in SECTIONS.items() if any(block.command for block in blocks)]
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder in which a reader would follow the page: later sections look at runs of earlier ones."""
    folder: Path = tmp_path_factory.mktemp("reader")
    link_graphs(folder)
    return folder


@pytest.mark.docs
@pytest.mark.timeout(600)
@pytest.mark.parametrize("heading", PLAYED)
def test_the_code_blocks_run(heading: str, folder: Path) -> None:
    play(SECTIONS[heading], folder)


def test_the_sections_are_found() -> None:
    assert PLAYED == ["Install", "Your own game in 15 lines", "From a laptop to torchrun to a swarm"]
    assert sum(block.command is not None for block in BLOCKS) == 4


def test_the_two_spellings_are_one_game(tmp_path: Path) -> None:
    files = {block.file_name: block.text for block in BLOCKS if block.file_name}
    for name in ("my_game.py", "next_letter.yaml"):
        (tmp_path / name).write_text(files[name])
    script = "import genrl_graph, my_game; assert my_game.g == genrl_graph.load('next_letter.yaml')"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=60)


def test_the_picture_is_what_the_tool_draws() -> None:
    (name,) = re.findall(r"^!\[.*\]\((.*\.svg)\)$", README, re.MULTILINE)
    assert (ROOT / name).read_bytes() == draw(compile_graph(load(ROOT / "graphs" / "quickstart.yaml")), "svg")


def test_files_that_it_names_exist() -> None:
    names = {*LINK.findall(README), *re.findall(r"`((?:graphs|runners|nodes|genrl_graph)/[\w./]+\.\w+)`", README)}
    assert names
    for name in names:
        assert (ROOT / name).exists(), name
