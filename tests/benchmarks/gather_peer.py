"""One peer of `bench_gather`: a process with a host and its libp2p daemon, which does what stands on its input.

Lines are JSON: `["peers", [ids]]`, `["gather", kB]` for an exchange with all, `["streams", kB]` for a request to every
other peer and an answer of so many bytes over a bare stream. Each is answered with a line once it is done.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gather_rows import EXCHANGE, SCHEDULE, rows_of_size
from hivemind.p2p import PeerID

from genrl_graph.edge_types.task import TaskBook
from genrl_graph.runners.loop.signals import Stop
from genrl_graph.runners.swarm.admission.rules import Admission, makers
from genrl_graph.runners.swarm.exchange import PeerSwarm
from genrl_graph.runners.swarm.host import Host, PeerIdentity
from genrl_graph.runners.swarm.offers import MAX_ANNOUNCEMENT, Inbox
from genrl_graph.runners.swarm.transport.identity import Identity
from genrl_graph.runners.swarm.transport.limits import TransportLimits
from genrl_graph.runners.swarm.transport.network import NetworkOptions
from genrl_graph.runners.swarm.transport.signed import sign_message

BARE = "/bench/1"
REQUEST = 8


class GatherPeer:
    """A peer that knows no game."""

    def __init__(self, name: str, folder: Path, join: Sequence[str]) -> None:
        identity = Identity.load(folder / f"{name}.key")
        inbox = Inbox(SCHEDULE.protocol, {"gathered": 0})
        self.host = Host.start(
            identity,
            PeerIdentity(swarm="bench", protocol=SCHEDULE.protocol, name=name),
            network=NetworkOptions(join=tuple(join)),
            limits=TransportLimits(push_bytes=MAX_ANNOUNCEMENT),
            on_push=inbox.take,
        )
        self._swarm = PeerSwarm(
            self.host,
            inbox,
            name=name,
            protocol=SCHEDULE.protocol,
            admissions={"gathered": Admission(EXCHANGE, makers(SCHEDULE, "gathered"))},
            staleness=0,
            sign=partial(sign_message, identity),
            stop=Stop(),
            tell=print,
        )
        self._name, self._round, self._others = name, 0, list[str]()
        self._rows = {size: rows_of_size(size, seed=0) for size in (1, 64, 1024, 16384)}
        self._payload = bytes(self._rows[16384].numpy("data").data)
        self._p2p = self.host._presence.point.p2p
        self.host._thread.run(self._p2p.add_binary_stream_handler(BARE, self._answer))

    def peers(self, ids: Sequence[str]) -> None:
        """Know all others."""
        assert {member.peer_id for member in self.host.look()} == set(ids)
        self._others = [id for id in ids if id != self.host.peer_id]

    def gather(self, size: int) -> None:
        """Meet the others; all of them must come."""
        rows = self._rows[size]
        self._swarm.begin(self._round)
        self._swarm.open(EXCHANGE, round=self._round, peer=self._name, offer=rows)
        met = self._swarm.close(EXCHANGE, round=self._round, peer=self._name, tasks=TaskBook({}), vocabularies={})
        assert len(met.packets) == len(self._others) + 1 and not met.refusals, (met.facts, met.refusals)
        assert all(len(packet.rows) == len(rows) for packet in met.packets)
        self._round += 1

    def streams(self, size: int) -> None:
        """Ask every other peer for so many bytes."""
        self.host._thread.run(self._ask_all(size << 10))

    async def _ask_all(self, size: int) -> None:
        await asyncio.gather(*(self._ask(other, size) for other in self._others))

    async def _ask(self, peer_id: str, size: int) -> None:
        """Ask, and ask again where libp2p resets the stream of a peer that is slow to read."""
        while not await self._answered(peer_id, size):
            pass

    async def _answered(self, peer_id: str, size: int) -> bool:
        _, reader, writer = await self._p2p.call_binary_stream_handler(PeerID.from_base58(peer_id), BARE)
        writer.write(size.to_bytes(REQUEST))
        while size:
            chunk = await reader.read(1 << 18)
            if not chunk:
                break
            size -= len(chunk)
        writer.close()
        return not size

    async def _answer(self, _: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(REQUEST))
        writer.write(self._payload[:size])
        await writer.drain()
        writer.close()


def main() -> None:
    name, folder, *join = sys.argv[1:]
    peer = GatherPeer(name, Path(folder), join)
    calls: dict[str, Callable[[Any], None]] = {"peers": peer.peers, "gather": peer.gather, "streams": peer.streams}
    with peer.host:
        print(json.dumps([peer.host.peer_id, peer.host.addresses]), flush=True)
        for line in sys.stdin:
            what, value = json.loads(line)
            calls[what](value)
            print("done", flush=True)


if __name__ == "__main__":
    main()
