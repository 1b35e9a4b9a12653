"""Network options of a peer: addresses, relays and NAT traversal of the libp2p daemon."""

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Literal

from hivemind.p2p import PeerID
from hivemind.utils.multiaddr import Multiaddr

from genrl_graph.errors import ParamError, SwarmError

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
EXAMPLE = "/ip4/203.0.113.5/tcp/31337"
PEER_EXAMPLE = f"{EXAMPLE}/p2p/Qm..."


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkOptions:
    """Network options of one peer; addresses are libp2p multiaddrs, and the defaults stay on this machine.

    `listen` is loopback by default: a training peer should not open a public port unasked. `/ip4/0.0.0.0/tcp/0`
    listens on all interfaces, at a free port.
    """

    listen: Sequence[str] = (LOOPBACK,)
    """If empty, the peer only dials others; they reach it over those connections, and through relays."""
    join: Sequence[str] = ()
    """Addresses of peers of the swarm, ending in `/p2p/<peer id>`; if empty, this peer is the first one."""
    announce: Sequence[str] = ()
    """Addresses to tell others instead of the detected ones, such as a forwarded port."""
    auto_nat: bool = True
    """Ask other peers whether they can reach this one, and answer their questions."""
    use_relay: bool = True
    """Reach peers behind a NAT through relays."""
    use_auto_relay: bool = False
    """Let others reach this peer through relays when it is behind a NAT."""
    trusted_relays: Sequence[str] = ()
    """Relays for auto-relay; the joined peers by default."""
    nat_port_map: bool = False
    """Ask the router for a port (UPnP, NAT-PMP)."""
    client_mode: bool = False
    """Store no part of the DHT: for a peer that comes and goes."""
    reachability: Literal["auto", "public", "private"] = "auto"
    """Reachability from outside: detected by auto-NAT, or forced. A public peer relays for others."""
    start_timeout_s: float = 20.0
    join_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if isinstance(value, str) and option.name != "reachability":
                raise ParamError(f"{option.name}={value!r}: wants a list of multiaddrs, such as [{value!r}]")
        _parsed("--listen", self.listen, example=LOOPBACK)
        for text, address in zip(self.announce, _parsed("--announce", self.announce, example=EXAMPLE), strict=True):
            if 0 in _ports(address):
                raise ParamError(f"--announce {text}: port 0 says nothing to others; give the port, such as {EXAMPLE}")
        for flag, texts in (("--join", self.join), ("--trusted-relay", self.trusted_relays)):
            for text, address in zip(texts, _parsed(flag, texts, example=PEER_EXAMPLE), strict=True):
                _peer_of(flag, text, address)

        if self.trusted_relays and not self.use_auto_relay:
            raise ParamError(f"--trusted-relay {self.trusted_relays[0]}: is used by auto-relay only; add --auto-relay")

    def joined(self) -> list[tuple[str, PeerID, Multiaddr]]:
        """Return the peers to join: the address as written, the peer id, and the address without the id."""
        peers = []
        for text in self.join:
            address = Multiaddr(text)
            peer = _peer_of("--join", text, address)
            peers.append((text, peer, address.decapsulate(Multiaddr(f"/p2p/{peer}"))))
        return peers

    def require_free_ports(self) -> None:
        """Raise `SwarmError` if a port to listen on is taken: libp2p would share it and miss half the calls."""
        for text in self.listen:
            for kind, port in _sockets(Multiaddr(text)):
                _require_free(text, kind, port)


def dialable(address: str) -> Multiaddr | None:
    """Parse an address that another peer claims for itself; None if it is malformed or leads through a relay.

    Hivemind encodes relay ids in a way that the daemon cannot read; the daemon's own routing finds such peers.
    """
    try:
        parsed = Multiaddr(address)
    except ValueError:
        return None
    return None if "p2p" in parsed else parsed


def _parsed(flag: str, texts: Sequence[str], *, example: str) -> list[Multiaddr]:
    addresses = []
    for text in texts:
        try:
            addresses.append(Multiaddr(text))
        except (ValueError, TypeError) as error:
            raise ParamError(f"{flag} {text}: is no multiaddr ({error}); such as {example}") from error
    return addresses


def _peer_of(flag: str, text: str, address: Multiaddr) -> PeerID:
    if "p2p" not in address:
        raise ParamError(f"{flag} {text}: says not which peer is there; such as {PEER_EXAMPLE}")
    try:
        return PeerID.from_base58(address["p2p"])
    except ValueError as error:
        raise ParamError(f"{flag} {text}: has no peer id behind /p2p/ ({error}); such as {PEER_EXAMPLE}") from error


def _ports(address: Multiaddr) -> Iterator[int]:
    for kind in ("tcp", "udp"):
        if kind in address:
            yield int(address[kind])


def _sockets(address: Multiaddr) -> Iterator[tuple[socket.SocketKind, int]]:
    for kind, type in (("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)):
        if kind in address and int(address[kind]):
            yield type, int(address[kind])


def _require_free(text: str, kind: socket.SocketKind, port: int) -> None:
    address = Multiaddr(text)
    family, host = (socket.AF_INET6, address["ip6"]) if "ip6" in address else (socket.AF_INET, address["ip4"])
    with suppress(OSError), socket.socket(family, kind) as probe:
        if kind is socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise SwarmError(f"--listen {text}: port {port} {reason}; give another one, or 0 for any") from error
