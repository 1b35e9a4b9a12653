"""Refuse to resume a run with another runner than it was played with, and say how to resume it."""

from pathlib import Path

import yaml

from genrl_graph.errors import ParamError
from genrl_graph.records.stored_run import open_run
from genrl_graph.store.peer_folders import is_part_of_a_run, run_folders
from genrl_graph.store.run_folder import GRAPH, read_graph


def refuse_other_runner(run: Path, home: Path, *, peers: int | None = None) -> None:
    """Raise `ParamError` where the process that would resume `run` in its own folder `home` is of another runner.

    `peers` is the number of peers that the process would write into its graph: 1 where it is a peer of a swarm.
    """
    if (run / GRAPH).exists():
        if is_part_of_a_run(run):
            raise ParamError(f"{run}: is the folder of one peer of {run.parent}; {_how(run.parent)}")
        if home != run:
            raise ParamError(f"{run}: was played in one process; resume it without --runner")
    elif home == run and run_folders(run):
        raise ParamError(f"{run}: was played with a process for each peer; {_how(run)}")
    elif peers is not None and (home / GRAPH).exists() and (peers == 1) != (_stored_peers(home) == 1):
        by = "torchrun" if peers == 1 else "peers of a swarm"
        raise ParamError(f"{run}: was played by {by}; {_how(run)}")


def _stored_peers(folder: Path) -> int:
    """Return the number of peers that the graph of a folder names: 1 for a peer of a swarm, all for a rank."""
    text, _ = read_graph(folder)
    return int((yaml.safe_load(text).get("run") or {}).get("peers", 1))


def _how(run: Path) -> str:
    """Return how to resume a run with a process for each peer; to itself, a peer of a swarm is one that plays alone."""
    stored = open_run(run)
    names = [path.name for path in stored.folders]
    if stored.graph.run.peers == stored.graph.run.replicas == 1:
        command = f"genrl-graph resume {run} --runner swarm --peer-name {names[0]}"
        return f"resume each peer ({', '.join(names[:5])}) with `{command}`, and --join as before"
    ranks = len(names) * stored.graph.run.replicas
    command = f"torchrun --nproc-per-node {ranks} -m genrl_graph resume {run} --runner torch"
    return f"resume it with `{command}`"
