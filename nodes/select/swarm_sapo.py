"""`select.swarm_sapo`: sample groups of this peer and of the other peers."""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from genrl_graph.contract.node import Select
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Credited, R
from genrl_graph.nodes.groups import group_codes
from genrl_graph.seeds import substream


class SwarmSapo(Select, name="swarm_sapo"):
    """Samples `own_groups` of this peer's groups and `external_groups` of all other peers' (SAPO, arXiv 2509.08721).

    Groups without a non-zero advantage are dropped first, and in the other groups rows without a finite advantage. The
    two draws are uniform, without replacement and independent; if there are fewer groups than asked for, all are taken.
    Wire rewards and advantages between the exchange and this node, so that this peer's own judgement decides.
    """

    own_groups: int = Field(ge=0, description="I of the paper")
    external_groups: int = Field(ge=0, description="J of the paper; drawn over the groups of all other peers together")

    @model_validator(mode="after")
    def _keeps_something(self) -> "SwarmSapo":
        if self.own_groups + self.external_groups == 0:
            raise ValueError("own_groups and external_groups are both 0, so nothing is ever kept; raise one of them")
        return self

    def run(self, rows: Credited[R], *, rng: np.random.Generator, peer: str, log: Log) -> Credited[R]:
        """Return the selected rows in order; raises `ColumnError` for rows without groups or peers.

        Inputs:
            rows: rows of this peer and of others, with the advantages that this peer computed
        """
        codes = group_codes(rows, "group")
        groups, first = np.unique(codes, return_index=True)
        advantage = rows.numpy("advantage")
        finite = np.isfinite(advantage)
        has_signal = np.isin(groups, codes[finite & (advantage != 0.0)])
        authors = np.asarray(rows.values("peer"), dtype=object)[first]
        own = _sample(groups[has_signal & (authors == peer)], self.own_groups, substream(rng, "own"))
        external = _sample(groups[has_signal & (authors != peer)], self.external_groups, substream(rng, "external"))
        selected = rows.where(finite & np.isin(codes, np.concatenate([own, external])))
        log.metric("own_groups", len(own))
        log.metric("external_groups", len(external))
        log.metric("external_peers", len(set(authors[np.isin(groups, external)])))
        log.metric("zero_advantage", 1.0 - has_signal.mean() if len(groups) else 0.0)
        log.metric("kept", len(selected) / len(rows) if len(rows) else 0.0)
        return selected


def _sample(groups: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Sample at most `most` groups uniformly without replacement."""
    return groups if len(groups) <= most else rng.choice(groups, size=most, replace=False)
