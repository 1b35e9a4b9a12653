"""Multi-agent, multi-stage reinforcement learning where a game is a declared, typed graph."""

import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

# Ctrl-C while the command line imports what follows ends it without a traceback; its `main` sets the handler again
if Path(*sys.argv[:1]).name in ("-m", "genrl-graph") and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from genrl_graph.arrow.cast import Tensor
from genrl_graph.contract.node import (
    Advantage,
    Carry,
    Coordinate,
    Eval,
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
from genrl_graph.contract.tool import Tool, ToolError
from genrl_graph.dag.graph import Graph
from genrl_graph.dag.run_config import Mode, RunConfig
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.rollouts import Credited, Peer, PeerRollouts, R, Rollouts, Scored, Tasks, credit, score
from genrl_graph.edge_types.task import Task, TaskBook
from genrl_graph.errors import GenrlGraphError, GraphError, NodeError, NodeFailed, ParamError
from genrl_graph.version import VERSION as __version__

if TYPE_CHECKING:
    from genrl_graph.comparison.history import Unit
    from genrl_graph.comparison.result import Comparison
    from genrl_graph.dag.coordinator_config import CoordinatorConfig
    from genrl_graph.records.stored_run import StoredRun
    from genrl_graph.runners.loop.runner import Runner
    from genrl_graph.runners.play import Run
    from genrl_graph.runners.replay.replay import Replay
    from genrl_graph.runners.sweep.play import Sweep


def play(
    graph: Graph,
    *,
    out: "Path | str | None" = None,
    rounds: int | None = None,
    seed: int | None = None,
    peers: int | None = None,
    threads: int | None = None,
    checkpoint_every: int | None = None,
    mode: Mode | None = None,
    eval_every: int | None = None,
    quiet: bool = False,
    resume: bool = False,
    runner: "Runner | None" = None,
    roles: Sequence[str] | None = None,
    coordinator: "CoordinatorConfig | Mapping[str, Any] | Literal['embedded'] | None" = None,
) -> "Run":
    """Play a graph from a script or notebook and return the run; options given here override the graph's `run:`.

    With `resume` an interrupted run in `out` continues from its newest checkpoint. `runner` says how peers meet: by
    default all play in this process; `genrl_graph.runners.torchrun.TorchRunner()` plays a rank of torchrun, and
    `roles` are those that it plays, by default all. `coordinator` is the contract that `coordinate` nodes report to, as
    under `run.coordinator`.

    Raises:
        GraphError: The graph cannot be played; nothing has been loaded yet.
        NodeFailed: A node failed; the run folder stays readable.
    """
    from genrl_graph.runners.play import play as play_graph

    return play_graph(
        graph,
        out=out,
        rounds=rounds,
        seed=seed,
        peers=peers,
        threads=threads,
        checkpoint_every=checkpoint_every,
        mode=mode,
        eval_every=eval_every,
        quiet=quiet,
        resume=resume,
        runner=runner,
        roles=roles,
        coordinator=coordinator,
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


def sweep(
    graph: "Graph | Path | str",
    overrides: Sequence[str] = (),
    *,
    seeds: Sequence[int] | None = None,
    zips: Sequence[Sequence[str]] = (),
    out: "Path | str | None" = None,
    jobs: int | None = None,
    resume: bool = False,
    goal: str | None = None,
    keep: int | None = None,
    trials: int | None = None,
    imports: Sequence[str] = (),
    quiet: bool = False,
) -> "Sweep":
    """Play a graph with every setting of some axes and every seed, each in a process of its own; returns the sweep.

    Its `cells` are a data frame. Failed cells do not end the others: `failed` lists them.

    Args:
        graph: Graph file, name of a shipped graph, or a graph that has a YAML form; the latter needs `out`.
        overrides: Axes in Hydra's grammar, such as `nodes.update.params.learning_rate=1e-3,3e-3`.
        seeds: Seeds of every setting; by default the graph's one.
        zips: Keys that change together instead of being crossed.
        out: Folder of the sweep; by default a new `sweeps/<graph>-<n>`.
        jobs: Cells side by side; by default as many as processors and free memory allow.
        resume: Go on with the sweep in `out`.
        goal: What a search wants most of: METRIC, max:METRIC or min:METRIC.
        keep: Stop settings on the way: after each rung one in so many goes on.
        trials: Draw so many settings from `key=interval(low,high)`.
        imports: Python files or modules that define nodes, as `--import` takes them.
        quiet: Print nothing.

    Raises:
        GraphError, ParamError: A setting cannot be played; nothing was started.
        StoreError: The folder holds anything but the sweep to resume.
    """
    from genrl_graph.runners.sweep.play import sweep as play_settings

    return play_settings(
        graph,
        overrides,
        seeds=seeds,
        zips=zips,
        out=out,
        jobs=jobs,
        resume=resume,
        goal=goal,
        keep=keep,
        trials=trials,
        imports=imports,
        quiet=quiet,
    )


def compare(
    *what: "Path | str",
    at: "Unit" = "rounds",
    metrics: Sequence[str] = (),
    smooth: int | None = None,
    baseline: str | None = None,
    expect: Sequence[str] = (),
    out: "Path | str | None" = None,
) -> "Comparison":
    """Compare runs and sweeps over seeds; `summary`, `pairs` and `curves` of the result are data frames.

    Args:
        what: Run folders, sweeps, folders of runs, or `LABEL=PATTERN`.
        at: What is equal where runs are compared: rounds, sampled_tokens, trained_tokens or seconds.
        metrics: Names or patterns such as `eval/*`; by default results of stages and evaluations.
        smooth: Rounds that training metrics are averaged over; by default a twentieth of them.
        baseline: The setting that the others are compared with.
        expect: Expectations such as `eval/reward(a) > eval/reward(b)`; `met` says whether all are.
        out: Folder for table.md, summary.parquet, curves.png and curves.svg.

    Raises:
        ParamError: Nothing is named, or what an option names is unknown.
        StoreError: A run cannot be read, or a file cannot be written.
    """
    from genrl_graph.comparison.compare import compare as compare_runs

    return compare_runs(what, at=at, metrics=metrics, smooth=smooth, baseline=baseline, expect=expect, out=out)


def load(path: "Path | str", overrides: Sequence[str] = ()) -> Graph:
    """Load a graph from a YAML file and apply `key=value` overrides; raises `GraphError` that lists every problem.

    If the path does not exist, it is the name of a shipped graph, such as `multistage_math/gsm8k`.
    """
    from genrl_graph.graph_file.read import load as load_file

    return load_file(Path(path), overrides)


def open_run(path: "Path | str") -> "StoredRun":
    """Open a run for reading, even while another process writes it; raises `StoreError` if the path holds no run.

    In a notebook the run shows itself: its picture with numbers, its curves, its last transcripts.
    """
    from genrl_graph.view.notebook import open_run as open_folder

    return open_folder(path)


__all__ = [
    "Advantage",
    "Carried",
    "Carry",
    "Completion",
    "Coordinate",
    "Credited",
    "Eval",
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
    "Tool",
    "ToolError",
    "Update",
    "__version__",
    "compare",
    "credit",
    "load",
    "open_run",
    "play",
    "replay",
    "score",
    "sweep",
]
