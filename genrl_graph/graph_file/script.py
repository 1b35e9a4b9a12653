"""Read the graph that a Python script builds: `genrl-graph run game.py`."""

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from genrl_graph.contract import registry
from genrl_graph.dag.check import check
from genrl_graph.dag.graph import Graph
from genrl_graph.errors import GraphError
from genrl_graph.graph_file.document import parse_document
from genrl_graph.messages import counted

if TYPE_CHECKING:
    from genrl_graph.graph_file.read import Loaded


def read_script(path: Path, overrides: Sequence[str]) -> "Loaded":
    """Run a script, as `--import` does, and return the graph that it builds, with overrides on top.

    Raises `GraphError` where the script fails or builds no graph, or several.
    """
    from genrl_graph.graph_file.compose import override_document
    from genrl_graph.graph_file.read import Loaded, read_document

    registry.import_file(path)
    graph = _graph_of(sys.modules[path.stem], path)
    shown = f"{path} (as YAML)"
    if overrides:
        return read_document(override_document(parse_document(graph.dump(), file=shown), overrides), folder=Path.cwd())
    return Loaded(graph, tuple(check(graph)), parse_document(graph.record(), file=shown))


def _graph_of(module: ModuleType, path: Path) -> Graph:
    """Return the one graph at the top of a module; else that of its one function without arguments that returns one."""
    values = list(vars(module).values())
    graphs = list({id(value): value for value in values if isinstance(value, Graph)}.values())
    graphs = graphs or [value() for value in values if _builds_a_graph(value, module)]
    if len(graphs) == 1:
        return graphs[0]
    names = ", ".join(graph.name for graph in graphs)
    what = f"builds {counted(len(graphs), 'graph')} ({names})" if graphs else "builds no graph"
    advice = "leave one `g = Graph(...)` at the top of the script, or run it with `python`"
    raise GraphError(f"{path}: {what}; {advice}")


def _builds_a_graph(value: object, module: ModuleType) -> bool:
    if not inspect.isfunction(value) or value.__module__ != module.__name__:
        return False
    parameters = inspect.signature(value).parameters.values()
    returns = value.__annotations__.get("return")
    return returns in (Graph, "Graph") and all(each.default is not each.empty for each in parameters)
