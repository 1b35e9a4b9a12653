"""Pictures in pages: a fenced block `graph` becomes the drawing that `genrl-graph draw` makes of it.

The block holds a game in YAML, or one line as the command line would have it: a shipped game or a file that a block
of the same page names in its first line, with overrides.

    ```graph
    tiny_multistage nodes.critique.inputs.policy=update_answer
    ```
"""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent, indent

from genrl_graph import load
from genrl_graph.contract import registry
from genrl_graph.dag.graph import Graph
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.drawing.render import draw
from genrl_graph.errors import GraphError

FENCE = re.compile(
    r"^(?P<margin> *)(?P<ticks>`{3,})(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=margin)(?P=ticks)$",
    re.MULTILINE | re.DOTALL,
)
"""A block of code in a page; one that shows such blocks has more ticks than they have."""
FILE_NAME = re.compile(r"# ([\w-]+\.(?:py|yaml))\n")


def with_pictures(markdown: str) -> str:
    """Return a page in which every block `graph` is replaced by its picture.

    Raises `GraphError` where a block holds no game that passes the check.
    """
    if "```graph" not in markdown:
        return markdown
    with TemporaryDirectory() as folder:
        for name, text in _files(markdown):
            (Path(folder) / name).write_text(text, encoding="utf-8")

        def drawn(fence: re.Match[str]) -> str:
            if fence["language"] != "graph":
                return fence[0]
            return indent(figure(_graph(dedent(fence["text"]), Path(folder))), fence["margin"])

        return FENCE.sub(drawn, markdown)


def figure(graph: Graph) -> str:
    """Return the picture of a game as HTML that a page may hold."""
    svg = draw(compile_graph(graph), "svg").decode()
    return f'<figure class="game" data-search-exclude tabindex="0">\n{svg}</figure>\n'


def _files(markdown: str) -> Iterator[tuple[str, str]]:
    for fence in FENCE.finditer(markdown):
        text = dedent(fence["text"])
        if named := FILE_NAME.match(text):
            yield named[1], text


def _graph(text: str, folder: Path) -> Graph:
    """Return the game of a block; scripts of the page are imported where a file of the page is drawn."""
    if "\n" in text.strip():
        path, overrides = folder / "picture.yaml", list[str]()
        path.write_text(text, encoding="utf-8")
    else:
        name, *overrides = shlex.split(text)
        path = folder / name if (folder / name).is_file() else Path(name)
    for argument in [each for each in overrides if each.startswith("--import=")]:
        overrides.remove(argument)
        registry.import_file(folder / argument.removeprefix("--import="))
    try:
        return load(path, overrides)
    except GraphError as error:
        raise GraphError(str(error).replace(f"{folder}{os.sep}", "")) from error
