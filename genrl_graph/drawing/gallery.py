"""Write the index of a folder of graphs, with their pictures: `python -m genrl_graph.drawing.gallery graphs`."""

import re
import sys
from pathlib import Path

from genrl_graph.contract.node import PolicyCarry
from genrl_graph.dag.graph import Graph
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.drawing.mermaid import mermaid
from genrl_graph.drawing.picture import picture
from genrl_graph.graph_file.read import load
from genrl_graph.graph_file.shipped import first_comment

HEAD = """\
# The games that are shipped

`make pictures` writes this file from the graph files: change those, not this. The package finds a game by name, from
any folder and without a clone. `genrl-graph run NAME --dry` plays one round in seconds, with stand-ins for models and
hubs.

Minutes are those of the whole run as the file has it, on two cores without a GPU; a run without a number was not timed.
`genrl-graph plan NAME --estimate` says what it takes on your machine.

| File | What it teaches | Model | Minutes | Command |
| --- | --- | --- | --- | --- |
"""

PICTURES = """\
## Pictures

Dashed lines carry weights. `genrl-graph draw NAME -o game.svg` (or .png, or .html to explore it) draws a game with its
legend.
"""

MINUTES = re.compile(r"^# Minutes on two cores: (\S+)$", re.MULTILINE)


def gallery(folder: Path) -> str:
    """Return the README of a folder of graph files: a table with a line for each game, then their pictures, folded."""
    rows, pictures = [], []
    for path in sorted(folder.rglob("*.yaml")):
        graph, name = load(path), path.relative_to(folder).as_posix()
        drawn = mermaid(picture(compile_graph(graph)))
        rows.append(_row(path, name, graph))
        pictures.append(f"<details><summary>{name}</summary>\n\n```mermaid\n{drawn}```\n\n</details>\n")
    return "\n".join([HEAD + "".join(rows), PICTURES, *pictures])


def _row(path: Path, name: str, graph: Graph) -> str:
    minutes = MINUTES.search(path.read_text(encoding="utf-8"))
    cells = (
        f"[{name}]({name})",
        first_comment(path),
        ", ".join(_models(graph)),
        minutes[1] if minutes else "",
        f"`genrl-graph run {name.removesuffix('.yaml')}`",
    )
    return f"| {' | '.join(cells)} |\n"


def _models(graph: Graph) -> list[str]:
    """Return the pretrained models of a graph, and the types of the policies that have random weights."""
    declared = [part.declared for part in graph.carries.values()]
    policies = [carry for carry in declared if isinstance(carry, PolicyCarry)]
    names = [getattr(carry, "model", None) or carry.type_name for carry in policies]
    return [f"`{name.removeprefix('package:')}`" for name in dict.fromkeys(names)]


if __name__ == "__main__":
    FOLDER = Path(sys.argv[1])
    (FOLDER / "README.md").write_text(gallery(FOLDER))
