"""Code blocks of Markdown pages, run as a reader would: in the order of the page, in a folder that has `graphs/`.

`bash` and `python` blocks run and must succeed; a block whose first line is `# name.py` or `# name.yaml` becomes that
file; any other `yaml` block must be a game that passes the check, or a part of one that parses. What cannot run in a
test (an installation, a model of gigabytes) is a block of another language, such as `text`, or starts with `make`.
"""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from textwrap import dedent

import yaml

from genrl_graph import load
from genrl_graph.docs.pictures import FENCE, FILE_NAME

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "genrl_graph" / "docs" / "pages"
HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
SECONDS = 240


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code: its language and text, without the margin of a list or tab that it stands in."""

    language: str
    text: str

    @property
    def file_name(self) -> str | None:
        """The file that the block shows, by its first line."""
        named = FILE_NAME.match(self.text)
        return named[1] if named else None

    @property
    def command(self) -> list[str] | None:
        """The command that runs the block; None where it only shows something."""
        if self.language == "bash":
            return None if self.text.startswith("make ") else ["bash", "-ec", self.text]
        if self.language == "python":
            return [sys.executable, self.file_name] if self.file_name else [sys.executable, "-c", self.text]
        return None


def blocks_of(markdown: str) -> list[Block]:
    """Return the blocks of a page in its order; blocks that a block shows are part of it."""
    return [Block(fence["language"], dedent(fence["text"])) for fence in FENCE.finditer(markdown)]


def sections_of(markdown: str) -> dict[str, list[Block]]:
    """Return the blocks below each heading of the second level; those above the first are below ""."""
    fences = [fence.span() for fence in FENCE.finditer(markdown)]
    headings = [
        heading
        for heading in HEADING.finditer(markdown)
        if not any(start <= heading.start() < end for start, end in fences)  # a comment in a script
    ]
    starts = [0, *(heading.start() for heading in headings)]
    ends = [*starts[1:], len(markdown)]
    titles = ["", *(heading[1] for heading in headings)]
    return {title: blocks_of(markdown[start:end]) for title, start, end in zip(titles, starts, ends, strict=True)}


def pages_in(folder: str) -> list[str]:
    """Return the pages with code in a folder of the documentation, and in the folders in it; "." is the top alone."""
    files = PAGES.glob("*.md") if folder == "." else (PAGES / folder).rglob("*.md")
    pages = [file for file in sorted(files) if is_played(blocks_of(file.read_text()))]
    return [page.relative_to(PAGES).as_posix() for page in pages]


def is_played(blocks: list[Block]) -> bool:
    """Return whether there is anything to run or check in blocks."""
    return any(block.language in ("bash", "python", "yaml") for block in blocks)


def play_page(page: str, folder: Path) -> None:
    """Play the blocks of a page of the documentation in an empty folder."""
    link_graphs(folder)
    play(blocks_of((PAGES / page).read_text()), folder)


def link_graphs(folder: Path) -> None:
    """Give a folder what a clone has beside a reader's own files."""
    (folder / "graphs").symlink_to(ROOT / "graphs")


def play(blocks: list[Block], folder: Path) -> None:
    """Write the files and run the commands of blocks, in their order; each must end well."""
    environment = _environment()
    for block in blocks:
        if block.file_name:
            (folder / block.file_name).write_text(block.text)
        elif block.language == "yaml":
            check_yaml(block.text, folder)
        if block.command:
            done = _run(block.command, folder, environment)
            assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command in a process group of its own, of which nothing is left in the end: blocks start peers by `&`."""
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=PIPE, stderr=PIPE, text=True, start_new_session=True
    ) as process:
        try:
            out, errors = process.communicate(timeout=SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, out, errors)


def check_yaml(text: str, folder: Path) -> None:
    """Load a whole game, which must pass the check; parse a part of one."""
    values = yaml.safe_load(text)
    if isinstance(values, dict) and {"graph", "nodes"} <= values.keys():
        file = folder / "shown.yaml"
        file.write_text(text)
        load(file)
        file.unlink()


def _environment() -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PORT": port}
