"""What peers announce to each other: which rows they offer to an exchange, and an inbox of what has come.

An announcement is a JSON head of at most `MAX_HEAD` bytes, signed, and the rows themselves where they are small:

    u16 size, signed head, rows

The head has the hash of the rows. They are also served under `key`, and the announcement under `announcement_key`.
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
MAX_KEPT = 256 << 20  # bytes of rows that came with announcements; more are fetched when they are wanted
MAX_ROUND = 1 << 53
MAX_TOLD = 8  # reasons of one peer, until they are asked for
SHA256 = re.compile(r"[0-9a-f]{64}")
KINDS = {"peer": str, "round": int, "node": str, "protocol": str, "size": int, "sha256": str}


@dataclass(frozen=True, slots=True)
class Offer:
    """What one peer offers to an exchange in a round; `size` and `sha256` are those of the encoded rows."""

    peer: str
    round: int
    node: str
    protocol: str
    size: int
    sha256: str
    inline: bytes | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        """Under which name the rows are served."""
        return f"{self.round}/{self.node}"

    @property
    def announcement_key(self) -> str:
        """Under which name the announcement is served, for those whom it did not reach."""
        return announcement_key(self.node, self.round)

    def announced(self, sign: Callable[[bytes], bytes]) -> bytes:
        """The announcement."""
        head = json.dumps({name: getattr(self, name) for name in KINDS}, separators=(",", ":"))
        signed = sign(head.encode())
        return b"".join([SIZE.pack(len(signed)), signed, self.inline or b""])

    @classmethod
    def from_announcement(cls, data: bytes) -> tuple[str, "Offer"]:
        """Who has signed an announcement, and the offer; raises `PeerRefused` for one that is not written like this.

        Whether the rows that came with it have the hash is not looked at.
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
    """Under which name a peer serves its announcement to an exchange."""
    return f"{round}/{node}/offer"


@dataclass(frozen=True, slots=True)
class MessageRefused:
    """Why something that a peer said was refused; an `offence` is what no honest peer would say."""

    peer_id: str
    reason: str
    offence: bool


class Inbox:
    """Announcements by exchange, round and peer id, bounded in all of them and in bytes; thread-safe.

    Taken are the first of each peer to each exchange, `nodes` with the rounds that rows may be old, and at most one
    round ahead. `changed` is notified of all that comes, and `count` counts it; `watch` hears of it.
    """

    def __init__(self, protocol: str, nodes: Mapping[str, int]) -> None:
        self.changed = threading.Condition()
        self.count = 0
        self.watch: Callable[[str, Offer], None] = lambda peer_id, offer: None
        self._round = 0
        self._protocol, self._nodes = protocol, nodes
        self._heard: dict[str, tuple[int, float]] = {}
        self._offers: dict[tuple[str, int], dict[str, Offer]] = {}
        self._kept = 0
        self._refused: list[MessageRefused] = []
        self._told: Counter[str] = Counter()

    def take(self, peer_id: str, data: bytes) -> None:
        """Keep what a peer announces, with its signature; what cannot be meant for this peer is refused."""
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
        """Keep a reason, while there are few."""
        with self.changed:
            if len(self._refused) < 256 and self._told[peer_id] < MAX_TOLD:
                self._told[peer_id] += 1
                self._refused.append(MessageRefused(peer_id, reason, offence))

    def find(self, node: str, round: int, peer_id: str) -> Offer | None:
        """What a peer offered to an exchange in a round."""
        with self.changed:
            return self._offers.get((node, round), {}).get(peer_id)

    def round_of(self, peer_id: str) -> int:
        """The latest round of which a peer has spoken; -1 where it has not."""
        return self._heard.get(peer_id, (-1, 0.0))[0]

    def heard_at(self, peer_id: str) -> float:
        """When a peer has last announced something, by the monotonic clock; 0 where it has not."""
        return self._heard.get(peer_id, (-1, 0.0))[1]

    def refusals(self) -> list[MessageRefused]:
        """What was refused since this was last asked."""
        with self.changed:
            found, self._refused = self._refused, []
            self._told.clear()
            return found

    def begin(self, round: int) -> None:
        """Forget what no exchange of this or a later round can take."""
        with self.changed:
            self._round = round
            oldest = round - max(self._nodes.values(), default=0)
            self._offers = {key: offers for key, offers in self._offers.items() if key[1] >= oldest}
            self._kept = sum(len(o.inline or b"") for offers in self._offers.values() for o in offers.values())
            self._heard = {id: heard for id, heard in self._heard.items() if heard[0] >= oldest - 1}

    def wake(self) -> None:
        """Let those who wait look again."""
        with self.changed:
            self.count += 1
            self.changed.notify_all()

    def wait(self, seen: int, *, timeout_s: float) -> None:
        """Wait until more has come than `seen`."""
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
        """Whether an exchange can still, or soon, take it; who is late or far ahead need not be hostile."""
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
            fits = self._kept + size <= MAX_KEPT
            known[peer_id] = offer if fits else replace(offer, inline=None)
            self._kept += size if fits else 0
