"""`exchange.gather`: every peer receives the rows of all peers."""

import numpy as np
from pydantic import Field

from genrl_graph.contract.node import Exchange, Packet
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.edge_type import PEER
from genrl_graph.edge_types.rollouts import Peer, R


class Gather(Exchange, name="gather"):
    """Share rows with all peers and take theirs, sorted by peer name (rollout sharing: SAPO, arXiv 2509.08721).

    A row whose author is not the peer that sent it is refused. With `max_peers` a seeded draw selects the other peers.
    """

    max_peers: int | None = Field(
        default=None, ge=1, description="how many other peers' rows to take at most (seeded draw)"
    )

    def offer(self, rows: R) -> R:
        """Offer all rows unchanged.

        Inputs:
            rows: rows of this peer, which all others receive
        """
        return rows

    def admit(self, packets: list[Packet[R]], *, rng: np.random.Generator, peer: str, log: Log) -> Peer[R]:
        """Concatenate the rows that their sender authored; facts: the peers taken and the number of rows refused."""
        own = next(packet for packet in packets if packet.peer == peer)
        others = [packet for packet in packets if packet.peer != peer]
        if self.max_peers is not None and len(others) > self.max_peers:
            drawn = rng.choice(len(others), size=self.max_peers, replace=False)
            others = [others[at] for at in drawn]
        taken = sorted([*others, own] if self.include_self else others, key=lambda packet: packet.peer)
        frames = {packet.peer: _authored_by_sender(packet) for packet in taken}
        refused = {p.peer: len(p.rows) - len(frames[p.peer]) for p in taken if len(frames[p.peer]) < len(p.rows)}
        log.fact("taken", list(frames))
        log.fact("refused", refused)
        log.metric("refused", sum(refused.values()))
        empty = own.rows.take([])  # keeps the row type if no packet was taken
        return type(empty).concat([empty, *frames.values()]).marked(PEER)


def _authored_by_sender(packet: Packet[R]) -> R:
    """Return the rows whose author is their sender; rows without a `peer` column all pass."""
    if "peer" not in packet.rows.table.column_names:
        return packet.rows
    return packet.rows.where([name == packet.peer for name in packet.rows.values("peer")])
