"""The job that launch files describe: ranks on machines, and what each of them needs."""

import math
import shlex
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

from genrl_graph.contract.data_path import local_paths
from genrl_graph.dag.graph import Graph
from genrl_graph.dag.schedule import compile_graph
from genrl_graph.errors import ParamError
from genrl_graph.messages import counted, one_line
from genrl_graph.runners.estimate.estimate import estimate
from genrl_graph.runners.loop.peers import peer_names, require_enough

PORT = 29500
RESTARTS = 3
GIB = 2**30
PER_PEER = ("weights", "optimiser")
"""Parts of an estimate that grow with the peers of a process; the others are those of one rank as they are."""


@dataclass(frozen=True, slots=True)
class Job:
    """Ranks of a torchrun job on some machines; `ranks` is their number on each, `replicas` of them are a peer.

    `graph` and `arguments` are what `genrl-graph run` gets, with `run` as the run folder. `gpus` and `cpus` are those
    of a rank, `memory_gib` its host memory, None where it is unknown, with the reason in `memory_note`. `reads` are the
    local files that the graph names, `asks` the endpoints that have to be there.
    """

    name: str
    graph: str
    arguments: tuple[str, ...]
    run: str
    nodes: int = 1
    ranks: int = 1
    replicas: int = 1
    gpus: int = 0
    cpus: int = 4
    hours: int = 24
    memory_gib: int | None = None
    memory_note: str = ""
    reads: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()

    @property
    def machine_memory_gib(self) -> int | None:
        """Host memory of the ranks of one machine."""
        return None if self.memory_gib is None else self.ranks * self.memory_gib

    @property
    def plays(self) -> str:
        """The module with its arguments that each rank runs, quoted for a shell; a restart resumes."""
        words = ["genrl_graph", "run", self.graph, *self.arguments, "--runner", "torch"]
        words += ["--backend", "nccl"] if self.gpus and self.replicas > 1 else []
        words += ["-o", self.run, "--resume"]
        return shlex.join(["-m", *words])

    @property
    def head(self) -> str:
        """The comments of a file, as lines of a shell script or of YAML."""
        return "\n".join(f"# {line}" for line in self.comments())

    def comments(self) -> list[str]:
        """Return what a reader of any of the files wants to know, one line each.

        Paths and URLs are those of the graph file, which may be a stranger's: a line ends nowhere but at its end.
        """
        machines = counted(self.nodes, "machine")
        peers = "each rank is a peer" if self.replicas == 1 else f"{self.replicas} ranks share the policies of a peer"
        lines = [f"{self.name}: {counted(self.nodes * self.ranks, 'rank')} on {machines}; {peers}."]
        memory = "unknown" if self.memory_gib is None else f"{self.memory_gib} GiB"
        lines.append(f"Host memory of a rank: {memory} ({self.memory_note}).")
        lines += [f"Reads on every machine: {path}" for path in self.reads]
        lines += [f"Asks an endpoint that this does not start: {url}" for url in self.asks]
        return [one_line(line) for line in lines]


def plan_job(
    graph: Graph,
    name: str,
    *,
    arguments: Sequence[str],
    run: str,
    nodes: int,
    ranks: int | None,
    gpus: int,
    cpus: int,
    hours: int,
    memory_gib: int | None,
    tell: Callable[[str], None] = lambda text: None,
) -> Job:
    """Return the job of a graph with `ranks` ranks in all (default: `run.replicas` for each of `run.peers`).

    Without `memory_gib`, memory is that of `plan --estimate`. Raises `ParamError` where the ranks do not fit the
    machines or a word fits on no line, and `ExchangeTimeout` where an exchange wants more peers.
    """
    replicas = graph.run.replicas
    total = graph.run.peers * replicas if ranks is None else ranks
    if total % replicas:
        raise ParamError(f"--ranks {total}: are no whole groups of run.replicas: {replicas}; give a multiple of it")
    if total % nodes:
        raise ParamError(f"--ranks {total}: cannot be shared out evenly over --nodes {nodes}; give a multiple of it")
    for word in (name, run, *arguments):
        if not word.isprintable():
            raise ParamError(f"{word!r}: has characters that no line of a script can hold; write it into the graph")
    require_enough(compile_graph(graph), peer_names(total // replicas))
    job = Job(
        name=graph.name,
        graph=name,
        arguments=tuple(arguments),
        run=run,
        nodes=nodes,
        ranks=total // nodes,
        replicas=replicas,
        gpus=gpus,
        cpus=cpus,
        hours=hours,
        reads=tuple(dict.fromkeys(str(path) for path in _paths(graph))),
        asks=tuple(dict.fromkeys(_endpoints(graph))),
    )
    if memory_gib is not None:
        return replace(job, memory_gib=memory_gib, memory_note="--memory-gib")
    return _with_estimate(job, graph, total // replicas, tell)


def _with_estimate(job: Job, graph: Graph, peers: int, tell: Callable[[str], None]) -> Job:
    """Return the job with the high end of the estimated memory of one rank."""
    played = copy(graph)
    played.run = graph.run.model_copy(update={"peers": peers})
    forecast = estimate(played, tell=tell)
    if forecast.memory is None:
        return replace(job, memory_note="; ".join(forecast.assumptions[:1]) or "the size of a model is unknown")
    parts = forecast.memory_parts
    shares = peers if job.replicas == 1 else 1  # with replicas the estimate is that of a rank already
    of_rank = sum(value / shares if part in PER_PEER else value for part, value in parts.items())
    gib = math.ceil((of_rank or forecast.memory.high) / GIB)
    return replace(job, memory_gib=gib, memory_note=f"high end of `plan --estimate`, on {forecast.device}")


def _paths(graph: Graph) -> list[Path]:
    parts = (*graph.carries.values(), *graph.nodes.values())
    return [path for part in parts if part.declared is not None for path in local_paths(part.declared)]


def _endpoints(graph: Graph) -> list[str]:
    """Return the URLs of the endpoints that policies and judges ask, and of the servers that sample for policies."""
    declared = [part.declared for part in (*graph.carries.values(), *graph.nodes.values())]
    urls = [getattr(each, "endpoint", None) for each in declared]
    engines = [getattr(each, "engine", None) for each in declared]
    return [str(url) for url in (*urls, *(url for engine in engines if engine for url in engine.urls)) if url]
