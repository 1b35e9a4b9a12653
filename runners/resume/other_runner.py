"""Refuse to resume a run with another runner than it was played with, and say how to resume it."""

from pathlib import Path

from genrl_graph.errors import ParamError
from genrl_graph.records.stored_run import open_run
from genrl_graph.store.peer_folders import is_part_of_a_run, run_folders
from genrl_graph.store.run_folder import GRAPH


def refuse_other_runner(run: Path, home: Path) -> None:
    """Raise `ParamError` where the process that would resume `run` in its own folder `home` is of another runner."""
    if (run / GRAPH).exists():
        if is_part_of_a_run(run):
            raise ParamError(f"{run}: is the folder of one peer of {run.parent}; {_how(run.parent)}")
        if home != run:
            raise ParamError(f"{run}: was played in one process; resume it without --runner")
    elif home == run and run_folders(run):
        raise ParamError(f"{run}: was played with a process for each peer; {_how(run)}")


def _how(run: Path) -> str:
    """Return how to resume a run with a process for each peer; to itself, a peer of a swarm is one that plays alone."""
    stored = open_run(run)
    names = [path.name for path in stored.folders]
    if stored.graph.run.peers == 1:
        command = f"genrl-graph resume {run} --runner swarm --peer-name {names[0]}"
        return f"resume each peer ({', '.join(names[:5])}) with `{command}`, and --join as before"
    command = f"torchrun --nproc-per-node {len(names)} -m genrl_graph resume {run} --runner torch"
    return f"resume it with `{command}`"
