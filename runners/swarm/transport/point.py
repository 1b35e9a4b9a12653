"""One peer's connection to the swarm: a libp2p daemon and a DHT node, joined to the peers that answer."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence

from hivemind.dht import DHTNode
from hivemind.p2p import P2P, PeerID
from hivemind.p2p.p2p_daemon_bindings.control import P2PDaemonError
from hivemind.utils.multiaddr import Multiaddr

from genrl_graph.errors import SwarmError
from genrl_graph.runners.swarm.transport.daemon import Daemon, dial
from genrl_graph.runners.swarm.transport.dht import HeartbeatValidator, greet, open_dht
from genrl_graph.runners.swarm.transport.identity import Identity
from genrl_graph.runners.swarm.transport.network import NetworkOptions, dialable

DIAL_AGAIN_S = 0.5
MAX_PLACES = 8
Tell = Callable[[str], None]


class MeetingPoint:
    """A libp2p daemon with a DHT node; opened and closed on one event loop, and `close` ends the daemon process."""

    def __init__(self, network: NetworkOptions, daemon: Daemon, dht: DHTNode) -> None:
        self.network = network
        self.daemon = daemon
        self.dht = dht
        self.joined: list[PeerID] = []

    @classmethod
    async def open(
        cls, identity: Identity, network: NetworkOptions, *, validator: HeartbeatValidator, tell: Tell
    ) -> "MeetingPoint":
        """Start a daemon and join the swarm through the peers in `network.join`; `validator` guards its DHT node.

        Raises:
            SwarmError: none of them can be reached in time, or the daemon does not start.
        """
        if "HIVEMIND_LOGLEVEL" not in os.environ:
            logging.getLogger("hivemind").setLevel(
                logging.CRITICAL
            )  # it logs failures of peers, which we report in one line
        daemon = await Daemon.start(identity, network)
        try:
            if str(daemon.p2p.peer_id) != identity.peer_id:
                raise SwarmError(f"identity {identity.path}: libp2p reads it as {daemon.p2p.peer_id}")
            point = cls(network, daemon, await open_dht(daemon.p2p, validator, client_mode=network.client_mode))
            await point._join(tell)
        except BaseException:
            await daemon.stop()
            raise
        return point

    @property
    def p2p(self) -> P2P:
        """The hivemind client of the daemon."""
        return self.daemon.p2p

    async def addresses(self) -> tuple[str, ...]:
        """Return the addresses, with peer id, for others to join: the announced ones, or else the detected ones."""
        announced = [Multiaddr(address) for address in self.network.announce]
        _, detected = await self.p2p._client.identify()
        return tuple(f"{address}/p2p/{self.p2p.peer_id}" for address in announced or detected)

    async def connect(self, peer: PeerID, addresses: list[Multiaddr], *, timeout_s: float) -> str | None:
        """Connect to a peer; returns the reason of a failure, or None."""
        try:
            async with asyncio.timeout(timeout_s):
                await dial(self.p2p, peer, addresses)
        except TimeoutError:
            return f"no answer in {timeout_s:g} s"
        except (P2PDaemonError, OSError, asyncio.IncompleteReadError) as error:
            return _reason(str(error))
        return None

    async def rejoin(self, places: Mapping[str, Sequence[str]]) -> int:
        """Dial the peers to join and those of `places` again, for instance after a lost network.

        `places` maps peer ids to addresses; the first `MAX_PLACES` are dialled. Returns the number that answer.
        """
        wanted = [(peer, [address]) for _, peer, address in self.network.joined()]
        for peer_id, texts in list(places.items())[:MAX_PLACES]:
            wanted.append((PeerID.from_base58(peer_id), [address for text in texts if (address := dialable(text))]))
        timeout_s = self.network.join_timeout_s
        failures = await asyncio.gather(*(self.connect(peer, at, timeout_s=timeout_s) for peer, at in wanted))
        reached = [peer for (peer, _), failure in zip(wanted, failures, strict=True) if failure is None]
        return await greet(self.dht, reached)

    async def close(self) -> None:
        """Leave the network and end the daemon."""
        self.dht.is_alive = False  # its `shutdown` also calls the daemon, and waits for ever if that hangs
        await self.daemon.stop()

    async def _join(self, tell: Tell) -> None:
        """Dial the peers to join, which may be starting, too, until one of them greets this one or the time is up."""
        wanted = self.network.joined()
        until = time.monotonic() + self.network.join_timeout_s
        first = failures = await self._dial_all(wanted)
        strangers = any(peer != self.p2p.peer_id for _, peer, _ in wanted)
        while not (greeted := await self._greet(wanted, failures)) and strangers:
            if time.monotonic() >= until - DIAL_AGAIN_S:
                break
            await asyncio.sleep(DIAL_AGAIN_S)
            failures = await self._dial_all(wanted)
        # the first reasons: later ones may only say that libp2p waits before it dials again
        reasons = [failure and (reason or failure) for failure, reason in zip(failures, first, strict=True)]
        if wanted and None not in failures:
            others = f" (nor {len(wanted) - 1} more)" if len(wanted) > 1 else ""
            raise SwarmError(
                f"--join {wanted[0][0]}: cannot be reached{others}: {reasons[0]}"
                "; is that peer running, and is this its present address and id?"
            )
        if wanted and not greeted:
            raise SwarmError(f"--join {wanted[0][0]}: answers, but is no peer of a swarm (no hivemind DHT there)")
        for (text, _, _), reason in zip(wanted, reasons, strict=True):
            if reason is not None:
                tell(f"--join {text}: cannot be reached: {reason}")

    async def _dial_all(self, wanted: Sequence[tuple[str, PeerID, Multiaddr]]) -> list[str | None]:
        """Dial peers; returns the reason of failure of each, None for those that answer."""
        return await asyncio.gather(*(self._dial(peer, address) for _, peer, address in wanted))

    async def _greet(self, wanted: Sequence[tuple[str, PeerID, Multiaddr]], failures: Sequence[str | None]) -> bool:
        """Greet the peers that answer; returns whether one of them is in a swarm: its DHT starts after its daemon."""
        self.joined = [peer for (_, peer, _), failure in zip(wanted, failures, strict=True) if failure is None]
        return bool(self.joined) and await greet(self.dht, self.joined) > 0

    async def _dial(self, peer: PeerID, address: Multiaddr) -> str | None:
        if peer == self.p2p.peer_id:
            return "this is the peer's own address; has its identity file been copied?"
        return await self.connect(peer, [address], timeout_s=self.network.join_timeout_s)


def _reason(text: str) -> str:
    """Shorten a libp2p error to one line: its last part names the cause."""
    line = " ".join(text.split()).removeprefix("Connect failed. msg=").rpartition("all dials failed * ")[-1]
    return line if len(line) <= 240 else f"{line[:120]} ... {line[-100:]}"
