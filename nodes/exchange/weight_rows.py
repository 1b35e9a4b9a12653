"""Trained weights as rows that peers exchange, and the reasons for which those of a peer are refused."""

import math
from collections.abc import Mapping, Sequence
from statistics import median_low

import numpy as np
import pyarrow as pa

from genrl_graph.contract.node import Packet
from genrl_graph.contract.policy import Policy
from genrl_graph.edge_types.weights import ROW_VALUES, Weights
from genrl_graph.errors import ParamError
from genrl_graph.messages import short
from genrl_graph.nodes.exchange.outer_step import Vector, norm
from genrl_graph.seeds import digest


def flat_weights(policy: Policy) -> tuple[Vector, str]:
    """Return the trained weights as one vector, sorted by name, and the digest of their names and shapes."""
    values = dict(sorted(policy.trained_values().items()))
    if not values:
        raise ParamError(f"policy {policy.name!r}: has no trained weights to average; leave out the average")
    layout = digest([part for name, array in values.items() for part in (name, str(array.shape))])
    return np.concatenate([array.reshape(-1) for array in values.values()]).astype(np.float32, copy=False), layout


def replace_weights(policy: Policy, flat: Vector) -> None:
    """Replace the trained weights of a policy by those of a vector in the order of `flat_weights`."""
    values, at = {}, 0
    for name, array in sorted(policy.trained_values().items()):
        values[name] = flat[at : at + array.size].reshape(array.shape)
        at += array.size
    policy.replace_trained(values)


def weight_rows(flat: Vector, *, layout: str, start: str) -> Weights:
    """Return a vector as rows of at most `ROW_VALUES` numbers."""
    firsts = np.arange(0, len(flat), ROW_VALUES)
    ends = np.append(firsts, len(flat))
    return Weights.from_columns(
        {
            "layout": [layout] * len(firsts),
            "start": [start] * len(firsts),
            "first": firsts,
            "values": pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(flat, pa.float32())),
        }
    )


def vector_of(rows: Weights) -> Vector:
    """Return the numbers of all rows as one vector."""
    return np.concatenate(rows.ragged("values"))


def is_of_another_start(own: Weights, rows: Weights) -> bool:
    """Return whether a peer names another start than the own one, whatever its numbers are."""
    return len(rows) > 0 and rows.values("start")[0] != own.values("start")[0]


def refusal(own: Weights, rows: Weights) -> str:
    """Return why the rows of a peer cannot be averaged with the own ones, as `<rule>: <reason>`; "" if they can."""
    if rows.table.select(["first"]) != own.table.select(["first"]) or _lengths(rows) != _lengths(own):
        return f"shape: {len(rows)} rows of {sum(_lengths(rows))} numbers, ours are {len(own)} of {sum(_lengths(own))}"
    for column, what in (("layout", "the weights are those of another model"), ("start", "its last average was")):
        ours, theirs = own.values(column)[0], set(rows.values(column))
        if theirs != {ours}:
            other = "" if column == "layout" else f" {_shown(min(theirs))}, ours was {_shown(ours)}"
            return f"{column}: {what}{other}"
    if not np.isfinite(vector_of(rows)).all():
        return "finite: some numbers are not finite"
    return ""


def refused_norms(norms: Mapping[str, float], ratio: float) -> dict[str, str]:
    """Return the reason for each peer whose norm is above `ratio` times the median of the norms that are not 0.

    Of two in the middle the lower one is the median.
    """
    moved = [value for value in norms.values() if value > 0]
    most = ratio * median_low(moved) if moved else math.inf
    return {
        peer: f"norm: {value:.4g}, above {most:.4g} ({ratio:g} times the median)"
        for peer, value in norms.items()
        if value > most
    }


def norms_of(packets: Sequence[Packet[Weights]]) -> dict[str, float]:
    """Return the norm of the vector of each packet, by peer."""
    return {packet.peer: norm(vector_of(packet.rows)) for packet in packets}


def _shown(start: str) -> str:
    return short(start) if start else "none"


def _lengths(rows: Weights) -> list[int]:
    lengths: list[int] = rows.table.column("values").combine_chunks().value_lengths().to_pylist()
    return lengths
