"""`exchange.gather`: every peer gets the rows of all peers."""

import numpy as np
from pydantic import Field

from genrl_graph.contract.node import Exchange, Packet
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.edge_type import PEER
from genrl_graph.edge_types.rollouts import Peer, R


class Gather(Exchange, name="gather"):
    """Share rows with all peers and take theirs, in the order of the sorted peer names.

    A row that names another peer than the one who sent it is refused; `max_peers` takes a seeded draw of the others.
    """

    max_peers: int | None = Field(None, ge=1, description="how many other peers' rows to take at most (seeded draw)")

    def offer(self, rows: R) -> R:
        """All rows, as they are."""
        return rows

    def admit(self, packets: list[Packet[R]], *, rng: np.random.Generator, peer: str, log: Log) -> Peer[R]:
        """The rows of the packets that speak for their sender; facts: who was taken and how many rows were refused."""
        own = next(packet for packet in packets if packet.peer == peer)
        others = [packet for packet in packets if packet.peer != peer]
        if self.max_peers is not None and len(others) > self.max_peers:
            drawn = rng.choice(len(others), size=self.max_peers, replace=False)
            others = [others[at] for at in drawn]
        taken = sorted([*others, own] if self.include_self else others, key=lambda packet: packet.peer)
        frames = {packet.peer: _speaking_for(packet) for packet in taken}
        refused = {p.peer: len(p.rows) - len(frames[p.peer]) for p in taken if len(frames[p.peer]) < len(p.rows)}
        log.fact("taken", list(frames))
        log.fact("refused", refused)
        log.metric("refused", sum(refused.values()))
        nothing = own.rows.take([])
        return type(nothing).concat([nothing, *frames.values()]).marked(PEER)


def _speaking_for(packet: Packet[R]) -> R:
    """The rows that name their sender as their author; rows without an author are taken as they are."""
    if "peer" not in packet.rows.table.column_names:
        return packet.rows
    return packet.rows.where([name == packet.peer for name in packet.rows.values("peer")])
