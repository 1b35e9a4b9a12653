"""Announcements of the rows that a peer offers to an exchange, and the inbox of those received.

An announcement is a signed JSON head of at most `MAX_HEAD` bytes, followed by the rows if they are small:

    u16 size, signed head, rows

The head contains the hash of the rows. The rows are also served under `key`, the announcement under
`announcement_key`, and a peer's newest announcement to an exchange under `newest_key`.
"""

import json
import re
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from genrl_graph.errors import PeerRefused
from genrl_graph.runners.swarm.transport.signed import OVERHEAD, open_message

MAX_HEAD = 1024
MAX_INLINE = 5 << 18  # one trip instead of three; larger rows are fetched
SIZE = struct.Struct(">H")
MAX_ANNOUNCEMENT = SIZE.size + MAX_HEAD + OVERHEAD + MAX_INLINE
MAX_PEERS = 1024
MAX_INLINE_TOTAL = 256 << 20  # bytes of inline rows in the inbox; beyond that, rows are dropped and fetched when needed
MAX_ROUND = 1 << 53
MAX_REFUSALS_PER_PEER = 8  # reasons of one peer between two calls of `refusals`
SHA256 = re.compile(r"[0-9a-f]{64}")
KINDS = {"peer": str, "round": int, "node": str, "protocol": str, "size": int, "sha256": str}


@dataclass(frozen=True, slots=True)
class Offer:
    """The offer of one peer to an exchange in a round; `size` and `sha256` are those of the encoded rows."""

    peer: str
    round: int
    node: str
    protocol: str
    size: int
    sha256: str
    inline: bytes | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        """Return the key under which the rows are served."""
        return f"{self.round}/{self.node}"

    @property
    def announcement_key(self) -> str:
        """Return the key under which the announcement is served to peers that missed the push."""
        return announcement_key(self.node, self.round)

    def announced(self, sign: Callable[[bytes], bytes]) -> bytes:
        """Encode and sign the announcement of this offer."""
        head = json.dumps({name: getattr(self, name) for name in KINDS}, separators=(",", ":"))
        signed = sign(head.encode())
        return b"".join([SIZE.pack(len(signed)), signed, self.inline or b""])

    @classmethod
    def from_announcement(cls, data: bytes) -> tuple[str, "Offer"]:
        """Verify an announcement; returns the peer id of its author and the offer.

        The hash of inline rows is not checked here.

        Raises:
            PeerRefused: the signature is invalid, or the announcement is malformed.
        """
        if len(data) < SIZE.size:
            raise PeerRefused(f"announcement: cut short at {len(data)} bytes")
        end = SIZE.size + SIZE.unpack_from(data)[0]
        message = open_message(data[SIZE.size : end], max_bytes=MAX_HEAD)
        return message.peer_id, cls._read(message.body, data[end:] or None)

    @classmethod
    def _read(cls, text: bytes, inline: bytes | None) -> "Offer":
        try:
            head = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PeerRefused(f"head: is not JSON ({type(error).__name__})") from error
        if not isinstance(head, dict) or head.keys() != KINDS.keys():
            raise PeerRefused(f"head: has not just the keys {', '.join(KINDS)}")
        for name, kind in KINDS.items():
            if type(head[name]) is not kind:
                raise PeerRefused(f"{name}: is {type(head[name]).__name__}, not {kind.__name__}")
        offer = cls(**head, inline=inline)
        if not 0 <= offer.round < MAX_ROUND or not 0 < offer.size < MAX_ROUND:
            raise PeerRefused(f"round {offer.round}, size {offer.size}: are out of range"[:200])
        if not SHA256.fullmatch(offer.sha256):
            raise PeerRefused("sha256: is not 64 hexadecimal digits")
        if inline is not None and len(inline) != offer.size:
            raise PeerRefused(f"size: {offer.size} announced, {len(inline)} bytes came")
        return offer


def announcement_key(node: str, round: int) -> str:
    """Return the key under which a peer serves its announcement to an exchange."""
    return f"{round}/{node}/offer"


def newest_key(node: str) -> str:
    """Return the key under which a peer serves its newest announcement to an exchange, whatever its round."""
    return f"newest/{node}/offer"


@dataclass(frozen=True, slots=True)
class MessageRefused:
    """The reason of a refused announcement; it is an `offence` if no honest peer would send it."""

    peer_id: str
    reason: str
    offence: bool


class Inbox:
    """Announcements by exchange, round and peer id, bounded in number and in bytes; thread-safe.

    `nodes` maps exchanges to the staleness they allow, in rounds. The inbox keeps the first announcement of each peer
    to each exchange and round, if it is neither too old nor more than one round ahead. Every valid one increments
    `count` and notifies `changed`; `watch` is called for those in time.
    """

    def __init__(self, protocol: str, nodes: Mapping[str, int]) -> None:
        self.changed = threading.Condition()
        self.count = 0
        self.watch: Callable[[str, Offer], None] = lambda peer_id, offer: None
        self._round = 0
        self._protocol, self._nodes = protocol, nodes
        self._heard: dict[str, tuple[int, float]] = {}
        self._offers: dict[tuple[str, int], dict[str, Offer]] = {}
        self._inline_bytes = 0
        self._refused: list[MessageRefused] = []
        self._refusals_of: Counter[str] = Counter()

    def take(self, peer_id: str, data: bytes) -> None:
        """Verify and keep the announcement of a peer; refuse it if it is invalid or of another graph."""
        with self.changed:
            try:
                author, offer = Offer.from_announcement(data)
                if author != peer_id:
                    raise PeerRefused(f"announcement: sent by {peer_id}, but {author} has signed it")
                self._require(peer_id, offer)
            except PeerRefused as error:
                self.refuse(peer_id, str(error))
                return
            if self._is_in_time(peer_id, offer):
                self._keep(peer_id, offer)
                self.watch(peer_id, offer)
            self.wake()

    def refuse(self, peer_id: str, reason: str, *, offence: bool = True) -> None:
        """Record the reason of a refusal, up to a limit per peer and in total."""
        with self.changed:
            if len(self._refused) < 256 and self._refusals_of[peer_id] < MAX_REFUSALS_PER_PEER:
                self._refusals_of[peer_id] += 1
                self._refused.append(MessageRefused(peer_id, reason, offence))

    def find(self, node: str, round: int, peer_id: str) -> Offer | None:
        """Return the offer of a peer to an exchange in a round, or None."""
        with self.changed:
            return self._offers.get((node, round), {}).get(peer_id)

    def round_of(self, peer_id: str) -> int:
        """Return the latest round that a peer has announced; -1 if none."""
        return self._heard.get(peer_id, (-1, 0.0))[0]

    def heard_at(self, peer_id: str) -> float:
        """Return the monotonic time of a peer's last announcement; 0 if none."""
        return self._heard.get(peer_id, (-1, 0.0))[1]

    def refusals(self) -> list[MessageRefused]:
        """Return and clear the refusals since the last call."""
        with self.changed:
            refused, self._refused = self._refused, []
            self._refusals_of.clear()
            return refused

    def begin(self, round: int) -> None:
        """Begin a round: drop announcements that are too old for it."""
        with self.changed:
            self._round = round
            oldest = round - max(self._nodes.values(), default=0)
            self._offers = {key: offers for key, offers in self._offers.items() if key[1] >= oldest}
            self._inline_bytes = sum(len(o.inline or b"") for offers in self._offers.values() for o in offers.values())
            self._heard = {id: heard for id, heard in self._heard.items() if heard[0] >= oldest - 1}

    def wake(self) -> None:
        """Wake all threads in `wait`."""
        with self.changed:
            self.count += 1
            self.changed.notify_all()

    def wait(self, seen: int, *, timeout_s: float) -> None:
        """Wait until `count` differs from `seen`, at most `timeout_s`."""
        with self.changed:
            self.changed.wait_for(lambda: self.count != seen, timeout_s)

    def _require(self, peer_id: str, offer: Offer) -> None:
        if offer.protocol != self._protocol:
            raise PeerRefused(f"protocol: plays {offer.protocol[:12]!r}, this graph is {self._protocol[:12]!r}")
        if offer.node not in self._nodes:
            raise PeerRefused(f"node: no exchange {offer.node[:80]!r} in this graph")
        known = self._offers.get((offer.node, offer.round), {})
        if peer_id not in known and len(known) >= MAX_PEERS:
            raise PeerRefused(f"peers: {MAX_PEERS} have announced to this exchange already")
        if peer_id in known and known[peer_id].sha256 != offer.sha256:
            raise PeerRefused(f"sha256: {offer.node} of round {offer.round} was announced with other rows before")

    def _is_in_time(self, peer_id: str, offer: Offer) -> bool:
        """Return whether the round of an offer is recent enough; a late or early one is refused, but is no offence."""
        if peer_id in self._heard or len(self._heard) < 4 * MAX_PEERS:
            self._heard[peer_id] = (max(self.round_of(peer_id), offer.round), time.monotonic())
        if self._round - self._nodes[offer.node] <= offer.round <= self._round + 1:
            return True
        self.refuse(peer_id, f"round: {offer.round} announced in round {self._round}", offence=False)
        return False

    def _keep(self, peer_id: str, offer: Offer) -> None:
        known = self._offers.setdefault((offer.node, offer.round), {})
        size = len(offer.inline or b"")
        if peer_id not in known:
            fits = self._inline_bytes + size <= MAX_INLINE_TOTAL
            known[peer_id] = offer if fits else replace(offer, inline=None)
            self._inline_bytes += size if fits else 0
