"""`select.swarm_sapo`: some of a peer's own groups and some of the swarm's."""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from genrl_graph.contract.node import Select
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Credited, R
from genrl_graph.nodes.groups import group_codes
from genrl_graph.seeds import substream


class SwarmSapo(Select, name="swarm_sapo"):
    """Keeps `own_groups` of the peer's own groups and `external_groups` of all other peers' (SAPO, arXiv 2509.08721).

    Groups without a non-zero advantage are dropped before the draws, which are uniform, without replacement, and
    independent of each other; of the others, rows without a finite advantage go. Where there are fewer groups than
    asked for, all of them are kept. What a peer says its completions earn counts for nothing as long as rewards and
    advantages stand between the exchange and this node, so that they are its reader's.
    """

    own_groups: int = Field(ge=0, description="I of the paper")
    external_groups: int = Field(ge=0, description="J of the paper; drawn over the groups of all other peers together")

    @model_validator(mode="after")
    def _keeps_something(self) -> "SwarmSapo":
        if self.own_groups + self.external_groups == 0:
            raise ValueError("own_groups and external_groups are both 0, so nothing is ever kept; raise one of them")
        return self

    def run(self, rows: Credited[R], *, rng: np.random.Generator, peer: str, log: Log) -> Credited[R]:
        """The rows kept, in their order; raises `ColumnError` for rows without groups and peers."""
        codes = group_codes(rows, "group")
        groups, first = np.unique(codes, return_index=True)
        advantage = rows.numpy("advantage")
        finite = np.isfinite(advantage)
        teaches = np.isin(groups, codes[finite & (advantage != 0.0)])
        authors = np.asarray(rows.values("peer"), dtype=object)[first]
        own = _drawn(groups[teaches & (authors == peer)], self.own_groups, substream(rng, "own"))
        external = _drawn(groups[teaches & (authors != peer)], self.external_groups, substream(rng, "external"))
        kept = rows.where(finite & np.isin(codes, np.concatenate([own, external])))
        log.metric("own_groups", len(own))
        log.metric("external_groups", len(external))
        log.metric("external_peers", len(set(authors[np.isin(groups, external)])))
        log.metric("zero_advantage", 1.0 - teaches.mean() if len(groups) else 0.0)
        log.metric("kept", len(kept) / len(rows) if len(rows) else 0.0)
        return kept


def _drawn(groups: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """At most so many of the groups, each as likely as any other."""
    return groups if len(groups) <= most else rng.choice(groups, size=most, replace=False)
