"""Multi-agent, multi-stage reinforcement learning where a game is a declared, typed graph."""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# Ctrl-C while the command line imports what follows ends it without a traceback; its `main` sets the handler again
if Path(*sys.argv[:1]).name in ("-m", "genrl-graph") and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from genrl_graph.arrow.cast import Tensor
from genrl_graph.contract.node import (
    Advantage,
    Carry,
    Coordinate,
    Exchange,
    Fork,
    Generator,
    Packet,
    PolicyCarry,
    Reward,
    Select,
    Source,
    Update,
)
from genrl_graph.contract.policy import Carried, Completion, Policy, Sampling, TextPolicy, TokenSequence
from genrl_graph.contract.resources import Log
from genrl_graph.dag.graph import Graph
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.rollouts import Credited, Peer, PeerRollouts, R, Rollouts, Scored, Tasks, credit, score
from genrl_graph.edge_types.task import Task, TaskBook
from genrl_graph.errors import GenrlGraphError, GraphError, NodeError, NodeFailed, ParamError
from genrl_graph.version import VERSION as __version__

if TYPE_CHECKING:
    from genrl_graph.records.stored_run import StoredRun
    from genrl_graph.runners.play import Run
    from genrl_graph.runners.replay.replay import Replay


def play(
    graph: Graph,
    *,
    out: "Path | str | None" = None,
    rounds: int | None = None,
    seed: int | None = None,
    peers: int | None = None,
    threads: int | None = None,
    quiet: bool = False,
    resume: bool = False,
) -> "Run":
    """Play a graph from a script or notebook and return the run; options given here override the graph's `run:`.

    With `resume` an interrupted run in `out` continues from its newest checkpoint.

    Raises:
        GraphError: The graph cannot be played; nothing has been loaded yet.
        NodeFailed: A node failed; the run folder stays readable.
    """
    from genrl_graph.runners.play import play as play_locally

    return play_locally(
        graph, out=out, rounds=rounds, seed=seed, peers=peers, threads=threads, quiet=quiet, resume=resume
    )


def replay(
    run: "Path | str",
    graph: Graph,
    *,
    out: "Path | str",
    rounds: tuple[int, int | None] | None = None,
    update: bool = False,
    recompute: Sequence[str] = (),
) -> "Replay":
    """Recompute the rewards and advantages of a stored run with an edited graph, without a model, into `out`.

    Args:
        run: Folder of the stored run.
        graph: Edited graph.
        out: Folder for the results.
        rounds: First round, and the round before which to stop (None: play to the end).
        update: Also create the policies and train them, off-policy, on the stored rollouts.
        recompute: Nodes to compute even if nothing changed for them; `all` means every node.

    Raises:
        GraphError: The edit changes the outputs of sources, generators or exchanges.
    """
    from genrl_graph.runners.replay.replay import replay as replay_run

    return replay_run(run, graph, out=out, rounds=rounds, update=update, recompute=recompute, quiet=True)


def load(path: "Path | str", overrides: Sequence[str] = ()) -> Graph:
    """Load a graph from a YAML file and apply `key=value` overrides; raises `GraphError` that lists every problem.

    If the path does not exist, it is the name of a shipped graph, such as `multistage_math/gsm8k`.
    """
    from genrl_graph.graph_file.read import load as load_file

    return load_file(Path(path), overrides)


def open_run(path: "Path | str") -> "StoredRun":
    """Open a run for reading, even while another process writes it; raises `StoreError` if the path holds no run."""
    from genrl_graph.records.stored_run import open_run as open_folder

    return open_folder(path)


__all__ = [
    "Advantage",
    "Carried",
    "Carry",
    "Completion",
    "Coordinate",
    "Credited",
    "Exchange",
    "Fork",
    "Frame",
    "Generator",
    "GenrlGraphError",
    "Graph",
    "GraphError",
    "Log",
    "NodeError",
    "NodeFailed",
    "Packet",
    "ParamError",
    "Peer",
    "PeerRollouts",
    "Policy",
    "PolicyCarry",
    "R",
    "Reward",
    "Rollouts",
    "RunConfig",
    "Sampling",
    "Scored",
    "Select",
    "Source",
    "Task",
    "TaskBook",
    "Tasks",
    "Tensor",
    "TextPolicy",
    "TokenSequence",
    "Update",
    "__version__",
    "credit",
    "load",
    "open_run",
    "play",
    "replay",
    "score",
]
