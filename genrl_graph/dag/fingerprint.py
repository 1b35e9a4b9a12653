"""The two fingerprints of a graph: `protocol` hashes what peers must agree on, `full` hashes everything."""

import json
from typing import Any

from genrl_graph.contract.node import Carry, Exchange, Source
from genrl_graph.dag.graph import Graph, Part
from genrl_graph.dag.infer import infer
from genrl_graph.dag.run_config import RunConfig
from genrl_graph.edge_types.frame import Frame
from genrl_graph.seeds import digest

_NEWER = ("roles", "pipeline_depth")
"""Run options that 0.1 did not have; at their defaults a run is as it was then."""


def protocol_fingerprint(graph: Graph) -> str:
    """Hash the topology, exchanges, edge schemas, and sources with their params.

    Peers may differ in the rest: run options, models, the params of generators, rewards and updates, and what they
    evaluate.
    """
    graph = graph.played_in("rounds")
    schemas = {
        ref: [str(kind), kind.base.version, {name: str(column) for name, column in kind.base.declared().items()}]
        for ref, kind in infer(graph).items()
        if issubclass(kind.base, Frame)
    }
    parts = [_describe(part, params=_agreed(part)) for part in (*graph.carries.values(), *graph.nodes.values())]
    parts.sort(key=lambda part: part["name"])  # peers may list parts in any order
    return _hash("protocol", [graph.name, parts, schemas])


def full_fingerprint(graph: Graph) -> str:
    """Hash every part with all params, and the run options but for those that change no row.

    These say where reports go, and how many ranks compute.
    """
    parts = [_describe(part, params=True) for part in (*graph.carries.values(), *graph.nodes.values())]
    left_out = {"coordinator", "replicas"}
    left_out |= {name for name in _NEWER if getattr(graph.run, name) == RunConfig.model_fields[name].default}
    return _hash("full", [graph.name, parts, graph.run.model_dump(mode="json", exclude=left_out)])


def _agreed(part: Part) -> bool:
    return part.cls is not None and issubclass(part.cls, Source | Exchange)


def _describe(part: Part, *, params: bool) -> dict[str, Any]:
    edges = [[edge.socket, edge.key, edge.ref] for edge in sorted(part.edges(), key=lambda edge: edge.socket)]
    cls = part.cls
    kind = str(cls.edge) if cls is not None and issubclass(cls, Carry) and not params else part.type_name
    described: dict[str, Any] = {"name": part.name, "type": kind, "edges": edges, "next": part.next}
    if part.role:
        described["role"] = part.role
    if params:
        described["params"] = dict(part.portable_params())
        described["version"] = cls.class_version if cls is not None else None
    return described


def _hash(kind: str, content: Any) -> str:
    return digest((kind, json.dumps(content, sort_keys=True, default=str)))
