"""What to do after a run: the commands that look at it, written as this program was started."""

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
    """Shell commands that look at a run folder, by what they show; `imports` are the scripts that defined nodes.

    A picture needs the types of the graph: one with types that no script or package defines has none. It has numbers
    of rounds where some were `measured`.
    """
    program, run, imports = own_command(), shlex.quote(str(folder)), list(imports)
    steps = {"rewards": f"{program} runs {run}", "rollouts": f"{program} rollouts {run}"}
    if not _unknown(graph, imports):
        options = "".join(f" --import {shlex.quote(name)}" for name in imports)
        drawn = f"--run {run}" if measured else shlex.quote(str(folder / GRAPH))
        steps["picture"] = f"{program} draw {drawn}{options} -o {shlex.quote(f'{folder}.svg')}"
    return steps


def own_command() -> str:
    """The words that start this program in a shell: those that started it, where it was the program itself."""
    typed, beside = Path(sys.argv[0]), Path(sys.executable).with_name(PROGRAM)
    if typed.name == "__main__.py" and typed.parent.name == "genrl_graph":
        return f"{shlex.quote(sys.orig_argv[0])} -m genrl_graph"
    script = typed if typed.name == PROGRAM else beside
    if not script.is_file():
        return f"{shlex.quote(sys.executable)} -m genrl_graph"
    found = shutil.which(PROGRAM)
    return PROGRAM if found is not None and script.samefile(found) else shlex.quote(str(script))


def _unknown(graph: Graph, imports: Iterable[str]) -> bool:
    """Whether the graph has types that only this process knows, such as those of a notebook."""
    known = {"genrl_graph", *(point.module.partition(".")[0] for point in entry_points(group="genrl_graph.nodes"))}
    known |= set(_modules(imports))
    parts = [*graph.carries.values(), *graph.nodes.values()]
    return any(part.cls is None or part.cls.__module__.partition(".")[0] not in known for part in parts)


def _modules(imports: Iterable[str]) -> Iterator[str]:
    for name in imports:
        yield Path(name).stem if name.endswith(".py") or "/" in name else name.partition(".")[0]
