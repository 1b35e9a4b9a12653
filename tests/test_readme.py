"""README shows only what runs: its code blocks are played in their order in an empty folder."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from genrl_graph import load
from genrl_graph.draw import draw
from genrl_graph.schedule import compile_graph

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# (\w+\.(?:py|yaml))\n")


@pytest.mark.timeout(900)
def test_the_code_blocks_run(tmp_path: Path) -> None:
    (tmp_path / "graphs").symlink_to(ROOT / "graphs")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PORT": port}
    played = 0
    for language, text in BLOCKS:
        named = FILE_NAME.match(text)
        if named:
            (tmp_path / named[1]).write_text(text)
        if language not in ("bash", "python") or text.startswith("make "):
            continue
        command = [sys.executable, named[1]] if named else [sys.executable, "-c", text]
        done = subprocess.run(
            ["bash", "-ec", text] if language == "bash" else command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        played += 1
    assert played >= 6
    assert (tmp_path / "runs" / "doubles" / "rollouts.zarr").is_dir()


def test_the_two_spellings_are_one_game(tmp_path: Path) -> None:
    files = {match[1]: text for _, text in BLOCKS if (match := FILE_NAME.match(text))}
    for name in ("my_game.py", "next_letter.yaml"):
        (tmp_path / name).write_text(files[name])
    script = "import genrl_graph, my_game; assert my_game.g == genrl_graph.load('next_letter.yaml')"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=60)


def test_the_picture_is_what_the_tool_draws() -> None:
    (name,) = re.findall(r"^!\[.*\]\((.*\.svg)\)$", README, re.MULTILINE)
    assert (ROOT / name).read_bytes() == draw(compile_graph(load(ROOT / "graphs" / "quickstart.yaml")), "svg")


def test_files_and_types_that_it_names_exist() -> None:
    for name in re.findall(r"`(graphs/[\w./]+\.yaml|runners/\w+\.py)`", README):
        assert (ROOT / name).is_file(), name
