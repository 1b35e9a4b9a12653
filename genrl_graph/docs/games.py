"""A page for each shipped game: its picture, its file, and the types that it uses."""

from collections.abc import Mapping, Sequence
from functools import cache

from genrl_graph import load
from genrl_graph.dag.graph import Graph
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.docs.markdown import code_block, in_cell, table
from genrl_graph.docs.pictures import figure
from genrl_graph.graph_file.shipped import first_comment, shipped_graphs


@cache
def shipped_games() -> Mapping[str, Graph]:
    """Return every shipped game by its name."""
    return {name: load(file) for name, file in shipped_graphs().items()}


def games_by_type() -> Mapping[str, Sequence[str]]:
    """Return the names of the shipped games that use a type, by type."""
    users = dict[str, list[str]]()
    for name, graph in shipped_games().items():
        for type_name in sorted(_types(graph)):
            users.setdefault(type_name, []).append(name)
    return users


def game_index() -> str:
    """Return the table of the shipped games with links to their pages."""
    rows = []
    for name, graph in shipped_games().items():
        stages = compile_graph(graph).stages
        rows.append((f"[{name}]({name}.md)", str(stages), in_cell(first_comment(shipped_graphs()[name]))))
    return table(("Game", "Stages", "What it is"), rows)


def game_page(name: str) -> str:
    """Return the page of one game."""
    file, graph = shipped_graphs()[name], shipped_games()[name]
    types = ", ".join(_link_to_type(name, type_name) for type_name in sorted(_types(graph)))
    commands = f"genrl-graph plan {name}\ngenrl-graph run {name}"
    return "\n\n".join(
        [
            f"---\ntitle: {name.rpartition('/')[2]}\nhide: [toc]\n---\n\n# {name}",
            first_comment(file),
            figure(graph),
            code_block(commands, "bash"),
            f"**Types** {types}",
            code_block(file.read_text(encoding="utf-8"), f'yaml title="{name}.yaml"'),
        ]
    )


def _link_to_type(game: str, type_name: str) -> str:
    up = "../" * (game.count("/") + 1)
    return f"[`{type_name}`]({up}types/{type_name.partition('.')[0]}.md#{type_name})"


def _types(graph: Graph) -> set[str]:
    return {part.type_name for part in (*graph.carries.values(), *graph.nodes.values())}
