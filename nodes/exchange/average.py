"""`exchange.average`: peers that want one policy average its weights every `every` rounds."""

from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np
from pydantic import Field

from genrl_graph.contract.node import Exchange, Packet
from genrl_graph.contract.policy import Policy
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.weights import Weights
from genrl_graph.nodes.exchange.outer_state import OuterState
from genrl_graph.nodes.exchange.outer_step import Combine, Vector, combine, norm, outer_step, to_bfloat16
from genrl_graph.nodes.exchange.weight_rows import (
    flat_weights,
    is_of_another_start,
    norms_of,
    refusal,
    refused_norms,
    replace_weights,
    vector_of,
    weight_rows,
)
from genrl_graph.nodes.update.steps.cadence import due

P = TypeVar("P", bound=Policy)

NEVER = 2**62


class Averaged(NamedTuple, Generic[P]):
    """The policy with the averaged weights, and the state of the next average."""

    policy: P
    outer: OuterState


class Average(Exchange, name="average"):
    """Averages the trained weights of a policy over peers in every `every`-th round (DiLoCo, arXiv 2311.08105).

    In the first average all peers send their weights, and each goes on with the combined ones. From then on they send
    how far they have moved since the last average, and take an outer step with the combined move: SGD with Nesterov
    momentum, the same on all peers. The state of the inner optimiser stays with its peer, and `version` increases by 1.

    Weights of another model, that are not finite, or that moved much further than those of most peers are refused with
    a reason; a peer that is late is left out. Peers whose last averages differ, since one of them was late or is new,
    refuse each other once, and begin anew in the next average, with weights and without momentum.
    """

    every: int = Field(default=10, ge=1, description="rounds from one average to the next")
    combine: Combine = Field(
        default="mean", description="how numbers of peers are combined; median and trimmed_mean hold against outliers"
    )
    trim: float = Field(
        default=0.25, ge=0, lt=0.5, description="share of the peers that trimmed_mean leaves out at each end"
    )
    outer_learning_rate: float = Field(default=0.7, gt=0, description="learning rate of the outer step")
    outer_momentum: float = Field(default=0.9, ge=0, lt=1, description="Nesterov momentum of the outer step")
    dtype: Literal["bfloat16", "float32"] = Field(
        default="bfloat16", description="precision in which peers send how far they have moved"
    )
    max_norm_ratio: float | None = Field(
        default=10.0,
        ge=1,
        description="largest norm of what a peer sends, in medians of the norms of all peers; null: unbounded",
    )
    max_payload_mb: int = Field(
        default=512, ge=1, le=2048, description="largest size of an offer in MiB; four times as much once unpacked"
    )

    def meets(self, round: int) -> bool:
        """Return True in every `every`-th round."""
        return due(round, self.every)

    def dry(self) -> "Average":
        """Return an average in which peers never meet: the weights of stand-ins mean nothing."""
        return self.model_copy(update={"every": NEVER})

    def offer(self, policy: P, outer: OuterState) -> Weights:
        """Return the weights, or how far they have moved since the last average.

        Inputs:
            policy: policy whose trained weights are averaged
            outer: weights after the last average and the outer momentum, a `carry.outer`
        """
        present, layout = flat_weights(policy)
        if outer.weights is None:
            return weight_rows(present, layout=layout, start="")
        moved = outer.weights - present
        sent = to_bfloat16(moved) if self.dtype == "bfloat16" else moved
        return weight_rows(sent, layout=layout, start=outer.start)

    def admit(
        self, packets: list[Packet[Weights]], policy: P, outer: OuterState, *, peer: str, log: Log
    ) -> Averaged[P]:
        """Return the policy with the weights after the outer step, and the state of the next average.

        Metrics: `averaged`, the number of peers whose weights count; `refused_weights`, the number of those refused;
        `distance`, the norm of the own weights minus the combined ones; `moved`, the norm of the step of this peer.
        """
        own = next(packet.rows for packet in packets if packet.peer == peer)
        refused = {p.peer: why for p in packets if (why := refusal(own, p.rows))}
        taken = [p for p in packets if p.peer not in refused and (self.include_self or p.peer != peer)]
        if self.max_norm_ratio is not None:
            refused |= refused_norms(norms_of(taken), self.max_norm_ratio)
            taken = [packet for packet in taken if packet.peer not in refused]
        log.fact("averaged", [packet.peer for packet in taken])
        log.fact("refused_weights", refused)
        log.metric("averaged", len(taken))
        log.metric("refused_weights", len(refused))
        if not taken:
            return Averaged(policy, outer)
        mine = vector_of(own)
        combined = combine([vector_of(packet.rows) for packet in taken], self.combine, trim=self.trim)
        weights, momentum = self._step(outer, combined)
        present, _ = flat_weights(policy)
        log.metric("distance", norm(mine - combined))
        log.metric("moved", norm(weights - present))
        replace_weights(policy, weights)
        differ = any(is_of_another_start(own, packet.rows) for packet in packets)
        return Averaged(policy, OuterState() if differ else OuterState(weights, momentum))

    def _step(self, outer: OuterState, combined: Vector) -> tuple[Vector, Vector]:
        """Return weights and momentum: the combined weights of a first average, else those after the outer step."""
        if outer.weights is None or outer.momentum is None:
            return combined, np.zeros_like(combined)
        rate, beta = self.outer_learning_rate, self.outer_momentum
        return outer_step(outer.weights, outer.momentum, combined, learning_rate=rate, beta=beta)
