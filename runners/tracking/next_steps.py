"""Shell commands that a run prints at its end: each shows a part of its results."""

import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

from genrl_graph.dag.graph import Graph
from genrl_graph.store.run_folder import GRAPH

PROGRAM = "genrl-graph"


def next_steps(folder: Path, graph: Graph, imports: Iterable[str], *, measured: bool) -> dict[str, str]:
    """Return shell commands for a run folder, by what they show; `imports` are the scripts that define nodes.

    There is a command for a picture where a new process can load all node types. The picture has the metrics of the
    run where rounds were `measured`.
    """
    program, run, imports = own_command(), shlex.quote(str(folder)), list(imports)
    steps = {"rewards": f"{program} runs {run}", "rollouts": f"{program} rollouts {run}"}
    if not _has_unknown_types(graph, imports):
        options = "".join(f" --import {shlex.quote(name)}" for name in imports)
        subject = f"--run {run}" if measured else shlex.quote(str(folder / GRAPH))
        steps["picture"] = f"{program} draw {subject}{options} -o {shlex.quote(f'{folder}.svg')}"
    return steps


def own_command() -> str:
    """Return the shell command that starts this program, as the user typed it or else as it is installed."""
    started, installed = Path(sys.argv[0]), Path(sys.executable).with_name(PROGRAM)
    if started.name == "__main__.py" and started.parent.name == "genrl_graph":
        return f"{shlex.quote(sys.orig_argv[0])} -m genrl_graph"
    script = started if started.name == PROGRAM else installed
    if not script.is_file():
        return f"{shlex.quote(sys.executable)} -m genrl_graph"
    on_path = shutil.which(PROGRAM)
    return PROGRAM if on_path is not None and script.samefile(on_path) else shlex.quote(str(script))


def _has_unknown_types(graph: Graph, imports: Iterable[str]) -> bool:
    """Return whether the graph has types that only this process knows, such as those of a notebook."""
    known = {"genrl_graph", *(point.module.partition(".")[0] for point in entry_points(group="genrl_graph.nodes"))}
    known |= set(_modules(imports))
    parts = [*graph.carries.values(), *graph.nodes.values()]
    return any(part.cls is None or part.cls.__module__.partition(".")[0] not in known for part in parts)


def _modules(imports: Iterable[str]) -> Iterator[str]:
    for name in imports:
        yield Path(name).stem if name.endswith(".py") or "/" in name else name.partition(".")[0]
