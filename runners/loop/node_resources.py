"""The keyword-only parameters that a node asks for: its random stream, task book, log, round and peer."""

from collections.abc import Callable
from typing import Any

from genrl_graph import seeds
from genrl_graph.contract.node import Node, Source
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.task import TaskBook


def node_resources(
    node: Node, seed: int, round: int, peer: str, tasks: TaskBook, log: Log, *, evaluating: bool = False
) -> dict[str, Any]:
    """Return the resources that `run` or `admit` of a node names, and no others.

    `rng` is seeded from (run seed, round, node, peer); that of a source does not depend on the round, nor, when it is
    `shared`, on the peer. All evaluations of a run use the same streams and ask the same tasks.
    """
    name = node.place.node
    parts: tuple[seeds.Part, ...] = (round, name, peer)
    if isinstance(node, Source):
        round = 0 if evaluating else round
        parts = ("source", name) if node.shared else ("source", name, peer)
    elif evaluating:
        parts = (name, peer)
    parts = (seed, "eval", *parts) if evaluating else (seed, *parts)
    supply: dict[str, Callable[[], Any]] = {
        "rng": lambda: seeds.stream(*parts),
        "tasks": lambda: tasks,
        "log": lambda: log,
        "round": lambda: round,
        "peer": lambda: peer,
    }
    return {resource: supply[resource]() for resource in node.signature.resources}
