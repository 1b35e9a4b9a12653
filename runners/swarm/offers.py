"""What peers announce to each other: which rows they offer to an exchange, and an inbox of what has come.

An announcement is a signed message: a JSON head of at most `MAX_HEAD` bytes, a zero byte, and the rows themselves
where they are small. Larger rows are fetched under `key`.
"""

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from genrl_graph.errors import PeerRefused

MAX_HEAD = 1024
MAX_INLINE = 128 * 1024
MAX_PEERS = 1024
SHA256 = re.compile(r"[0-9a-f]{64}")


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

    def to_bytes(self) -> bytes:
        """The body of the announcement."""
        head = {name: value for name, value in asdict(self).items() if name != "inline"}
        return json.dumps(head, separators=(",", ":")).encode() + b"\0" + (self.inline or b"")

    @classmethod
    def from_bytes(cls, body: bytes) -> "Offer":
        """The offer that a body announces; raises `PeerRefused` for one that is not written like this."""
        end = body.find(b"\0", 0, MAX_HEAD + 1)
        if end < 0:
            raise PeerRefused(f"head: no end within {MAX_HEAD} bytes")
        try:
            head = json.loads(body[:end])
        except (ValueError, RecursionError) as error:
            raise PeerRefused(f"head: is not JSON ({type(error).__name__})") from error
        inline = body[end + 1 :] or None
        kinds = {"peer": str, "round": int, "node": str, "protocol": str, "size": int, "sha256": str}
        if not isinstance(head, dict) or head.keys() != kinds.keys():
            raise PeerRefused(f"head: has not just the keys {', '.join(kinds)}")
        for name, kind in kinds.items():
            if type(head[name]) is not kind:
                raise PeerRefused(f"{name}: is {type(head[name]).__name__}, not {kind.__name__}")
        offer = cls(**head, inline=inline)
        if offer.round < 0 or offer.size < 1:
            raise PeerRefused(f"round {offer.round}, size {offer.size}: are out of range")
        if not SHA256.fullmatch(offer.sha256):
            raise PeerRefused("sha256: is not 64 hexadecimal digits")
        if inline is not None and len(inline) != offer.size:
            raise PeerRefused(f"size: {offer.size} announced, {len(inline)} bytes came")
        return offer


Refused = tuple[str, int, str]
"""Why an announcement was refused: the id of the peer, the round that was played, the reason."""


class Inbox:
    """Announcements by exchange, round and peer id, bounded in all of them.

    Taken are the first of each peer to each exchange of the rounds from `staleness` before the current one to one
    behind it; `heard` says in which round each peer was last known to be.
    """

    def __init__(
        self, protocol: str, nodes: Mapping[str, int], *, greet: Callable[[str, Offer], None] = lambda peer, offer: None
    ) -> None:
        self.changed = threading.Condition()
        self.round = 0
        self.heard: dict[str, int] = {}
        self._protocol, self._nodes, self._greet = protocol, nodes, greet
        self._offers: dict[tuple[str, int], dict[str, Offer]] = {}
        self._refused: list[Refused] = []
        self._refusals: Counter[str] = Counter()

    def take(self, peer_id: str, body: bytes) -> None:
        """Keep what a peer announces; what cannot be meant for this peer is refused and counted."""
        with self.changed:
            try:
                offer = Offer.from_bytes(body)
                self._require(peer_id, offer)
            except PeerRefused as error:
                self.refuse(peer_id, str(error))
                return
            self._offers.setdefault((offer.node, offer.round), {})[peer_id] = offer
            self.heard[peer_id] = max(self.heard.get(peer_id, -1), offer.round)
            self.changed.notify_all()
        self._greet(peer_id, offer)

    def refuse(self, peer_id: str, reason: str) -> None:
        """Count a refusal, and keep its reason while there are few."""
        self._refusals[peer_id] += 1
        if self._refusals[peer_id] <= 8 and len(self._refused) < 256:
            self._refused.append((peer_id, self.round, reason))

    def find(self, node: str, round: int, peer_id: str) -> Offer | None:
        """What a peer offered to an exchange in a round."""
        with self.changed:
            return self._offers.get((node, round), {}).get(peer_id)

    def refusals(self) -> list[Refused]:
        """What was refused since this was last asked."""
        with self.changed:
            found, self._refused = self._refused, []
            self._refusals.clear()
            return found

    def begin(self, round: int, *, staleness: int) -> None:
        """Forget what no exchange of this or a later round can take."""
        with self.changed:
            self.round = round
            self._offers = {key: offers for key, offers in self._offers.items() if key[1] >= round - staleness}

    def _require(self, peer_id: str, offer: Offer) -> None:
        if offer.protocol != self._protocol:
            raise PeerRefused(f"protocol: plays {offer.protocol[:12]!r}, this graph is {self._protocol[:12]!r}")
        if offer.node not in self._nodes:
            raise PeerRefused(f"node: no exchange {offer.node[:80]!r} in this graph")
        oldest = self.round - self._nodes[offer.node]
        if not oldest <= offer.round <= self.round + 1:
            raise PeerRefused(f"round: {offer.round} announced in round {self.round}")
        known = self._offers.get((offer.node, offer.round), {})
        if peer_id not in known and len(known) >= MAX_PEERS:
            raise PeerRefused(f"peers: {MAX_PEERS} have announced to this exchange already")
        if peer_id in known and known[peer_id].sha256 != offer.sha256:
            raise PeerRefused(f"sha256: {offer.node} of round {offer.round} was announced with other rows before")
