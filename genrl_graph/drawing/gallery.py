"""Write a README with the pictures of all graphs in a folder: `python -m genrl_graph.drawing.gallery graphs`."""

import sys
from pathlib import Path

from genrl_graph.dag.schedule import compile_graph
from genrl_graph.drawing.mermaid import mermaid
from genrl_graph.drawing.picture import picture
from genrl_graph.graph_file.read import load
from genrl_graph.graph_file.shipped import first_comment

HEAD = """\
# The games that are shipped

Drawn by `make pictures`, so change the YAML, not this file. `genrl-graph draw FILE.yaml -o game.svg` (or .png, or .html
to explore it) draws one with its legend. Dashed lines carry weights.
"""


def gallery(folder: Path) -> str:
    """Return the README of a folder of graph files: the first comment of each file, and its picture in Mermaid."""
    parts = [HEAD]
    for path in sorted(folder.rglob("*.yaml")):
        name = path.relative_to(folder).as_posix()
        drawn = mermaid(picture(compile_graph(load(path))))
        parts.append(f"## [{name}]({name})\n\n{first_comment(path)}\n\n```mermaid\n{drawn}```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    FOLDER = Path(sys.argv[1])
    (FOLDER / "README.md").write_text(gallery(FOLDER))
