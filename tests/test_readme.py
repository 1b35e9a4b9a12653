"""README shows only what runs: its code blocks are played in their order in an empty folder."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from genrl_graph import load
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.drawing.render import draw

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PARTS = re.compile(r"^## (?P<heading>[^\n]+)$|^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# (\w+\.(?:py|yaml))\n")
Block = tuple[str, str]
"""Language and text."""


def sections(readme: str) -> dict[str, list[Block]]:
    """Return the code blocks below each heading of the second level, in the order of the page."""
    blocks = list[Block]()
    found = {"": blocks}
    for part in PARTS.finditer(readme):
        if part["heading"]:
            blocks = found[part["heading"]] = []
        else:
            blocks.append((part["language"], part["text"]))
    return found


SECTIONS = sections(README)
BLOCKS = [block for blocks in SECTIONS.values() for block in blocks]


def command_of(language: str, text: str) -> list[str] | None:
    """Return what runs a block; None where it shows a file or what `make` does."""
    if language == "bash":
        return None if text.startswith("make ") else ["bash", "-ec", text]
    if language == "python":
        named = FILE_NAME.match(text)
        return [sys.executable, named[1]] if named else [sys.executable, "-c", text]
    return None


PLAYED = [heading for heading, blocks in SECTIONS.items() if any(command_of(*block) for block in blocks)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder in which a reader would follow the page: later sections look at runs of earlier ones."""
    folder: Path = tmp_path_factory.mktemp("reader")
    (folder / "graphs").symlink_to(ROOT / "graphs")
    return folder


@pytest.mark.timeout(600)
@pytest.mark.parametrize("heading", PLAYED)
def test_the_code_blocks_run(heading: str, folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PORT": port}
    for language, text in SECTIONS[heading]:
        if named := FILE_NAME.match(text):
            (folder / named[1]).write_text(text)
        if command := command_of(language, text):
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
            )
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


def test_the_sections_are_found() -> None:
    assert PLAYED == ["Install", "Your own game in 15 lines", "From a laptop to torchrun to a swarm"]
    assert sum(command_of(*block) is not None for block in BLOCKS) == 4


def test_the_two_spellings_are_one_game(tmp_path: Path) -> None:
    files = {match[1]: text for _, text in BLOCKS if (match := FILE_NAME.match(text))}
    for name in ("my_game.py", "next_letter.yaml"):
        (tmp_path / name).write_text(files[name])
    script = "import genrl_graph, my_game; assert my_game.g == genrl_graph.load('next_letter.yaml')"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=60)


def test_the_picture_is_what_the_tool_draws() -> None:
    (name,) = re.findall(r"^!\[.*\]\((.*\.svg)\)$", README, re.MULTILINE)
    assert (ROOT / name).read_bytes() == draw(compile_graph(load(ROOT / "graphs" / "quickstart.yaml")), "svg")


def test_files_that_it_links_to_exist() -> None:
    names = re.findall(r"\]\(([\w./]+)\)", README)
    assert len(names) >= 8
    for name in names:
        assert (ROOT / name).is_file(), name
