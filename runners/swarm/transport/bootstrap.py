"""A rendezvous peer: serves the DHT and relays for peers behind a NAT, but plays no game."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

from genrl_graph.errors import SwarmError
from genrl_graph.runners.swarm.transport.dht import HeartbeatValidator
from genrl_graph.runners.swarm.transport.identity import Identity
from genrl_graph.runners.swarm.transport.network import NetworkOptions
from genrl_graph.runners.swarm.transport.point import MeetingPoint


def serve_bootstrap(identity: Path, network: NetworkOptions, *, tell: Callable[[str], None]) -> None:
    """Run a rendezvous peer until SIGINT or SIGTERM; once it is up, pass each address to join to `tell`.

    Raises:
        SwarmError: the identity or a port cannot be used, the daemon does not start, or it has ended.
    """
    known = Identity.load(identity)
    with known.held(), asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(_serve(known, network, tell))


async def _serve(identity: Identity, network: NetworkOptions, tell: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    point = await MeetingPoint.open(identity, network, validator=HeartbeatValidator(), tell=tell)
    try:
        point.daemon.on_end(stop.set)
        for address in await point.addresses():
            tell(f"--join {address}")
        await stop.wait()
        if not point.daemon.running:
            raise SwarmError(f"libp2p daemon: has ended: {point.daemon.last_words()}")
    finally:
        await point.close()
