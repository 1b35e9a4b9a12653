"""Read the graph that a Python script builds: `genrl-graph run game.py`."""

import inspect
import sys
from pathlib import Path
from types import ModuleType

from genrl_graph.contract import registry
from genrl_graph.dag.graph import Graph
from genrl_graph.errors import GraphError
from genrl_graph.messages import counted


def script_graph(path: Path) -> Graph:
    """Run a script, as `--import` does, and return the graph that it builds.

    Raises `GraphError` where the script fails or builds no graph, or several.
    """
    registry.import_file(path)
    return _graph_of(sys.modules[path.stem], path)


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
