"""The DHT of the swarm: a hivemind node on our event loop that stores only valid heartbeats.

Each node checks a record before storing it: a forged record cannot replace a true one, and memory stays bounded.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgpack
from hivemind.dht import DHTNode
from hivemind.dht.routing import DHTID
from hivemind.dht.storage import DHTLocalStorage, DictionaryDHTValue
from hivemind.dht.validation import DHTRecord, RecordValidatorBase
from hivemind.p2p import P2P, PeerID
from hivemind.utils.auth import AuthorizerBase
from hivemind.utils.serializer import MSGPackSerializer

from genrl_graph.errors import PeerRefused
from genrl_graph.runners.swarm.transport.heartbeat import MAX_BEAT, MAX_SKEW_S, MAX_TTL_S, Heartbeat, open_beat

MAX_OWN = 448  # heartbeats of the own swarm: a call returns all in one message, of which the daemon takes 1 MiB
MAX_OTHERS = 256  # heartbeats of all other swarms together
MAX_AT_RENDEZVOUS = 2048  # the same where no swarm is the own one: 4 MB at most
MAX_PER_AUTHOR = 4  # swarms in which one key has a heartbeat here
MAX_KEYS = 32  # of one call; hivemind's own searches need only a few
DICTIONARY = 0x50  # hivemind's msgpack extension for a value with subkeys
CALL_TIMEOUT_S = 3.0


def key_of(swarm: str) -> str:
    """Return the DHT key of a swarm."""
    return f"genrl-graph/{swarm}"


class HeartbeatValidator(RecordValidatorBase):  # type: ignore[misc]
    """A validator that accepts only signed heartbeats with the key, the subkey and the expiry that they name.

    Heartbeats of the own `swarm` and those of all others have places of their own, and an author a few of the latter,
    so invented swarms displace nobody. Where all places are taken, a random heartbeat makes room, but none of a peer
    that `is_kept`: a flood of keys cannot keep a new peer out. `storage` is that of the DHT node.
    """

    def __init__(self, swarm: str | None = None, *, is_kept: Callable[[str], bool] = lambda peer_id: False) -> None:
        self.storage: DHTLocalStorage | None = None
        self._swarm, self._is_kept = swarm, is_kept
        self._own: dict[_Place, float] = {}
        self._others: dict[_Place, float] = {}

    def validate(self, record: DHTRecord) -> bool:
        """Return whether a record is a valid heartbeat and there is room for it."""
        now = time.time()
        if len(record.value) > MAX_BEAT + 8 or len(record.key) > 64 or len(record.subkey) > 128:
            return False
        try:
            peer_id, beat = open_beat(msgpack.unpackb(record.value, raw=False), now=now)
        except (PeerRefused, ValueError, msgpack.UnpackException):
            return False
        if record.subkey != MSGPackSerializer.dumps(peer_id) or record.expiration_time != beat.expires:
            return False
        at = _Place(DHTID.generate(key_of(beat.swarm)), peer_id)
        return record.key == at.key.to_bytes() and self._find_place(at, beat, now)

    def _find_place(self, at: "_Place", beat: Heartbeat, now: float) -> bool:
        """Keep a place for a heartbeat, if need be that of another one; returns whether there is one."""
        is_own = beat.swarm == self._swarm
        places = self._own if is_own else self._others
        most = MAX_OWN if is_own else MAX_OTHERS if self._swarm is not None else MAX_AT_RENDEZVOUS
        if at not in places:
            for gone in [place for place, expires in places.items() if expires <= now]:
                del places[gone]
            if not is_own and sum(place.peer_id == at.peer_id for place in places) >= MAX_PER_AUTHOR:
                return False
            if len(places) >= most:
                movable = [place for place in places if not (is_own and self._is_kept(place.peer_id))]
                if not movable:
                    return False
                self._drop(places, random.choice(movable))
        places[at] = max(beat.expires, places.get(at, 0.0))
        return True

    def _drop(self, places: "dict[_Place, float]", at: "_Place") -> None:
        """Forget a heartbeat, in the storage of the node as well."""
        del places[at]
        kept = None if self.storage is None else self.storage.get(at.key)
        if kept is not None and isinstance(kept.value, DictionaryDHTValue):
            del kept.value[at.peer_id]


class _Place(NamedTuple):
    """The place of a heartbeat: the key of its swarm and the peer id of its author."""

    key: DHTID
    peer_id: str


class RequestSizeLimit(AuthorizerBase):  # type: ignore[misc]
    """An authorizer that refuses calls with more than `MAX_KEYS` keys; calls are unsigned, the records are signed."""

    async def sign_request(self, request: Any, service_public_key: object) -> None:
        """Nothing to sign."""

    async def validate_request(self, request: Any) -> bool:
        """Return whether to answer a request."""
        return len(getattr(request, "keys", ())) <= MAX_KEYS

    async def sign_response(self, response: Any, request: Any) -> None:
        """Nothing to sign."""

    async def validate_response(self, response: Any, request: Any) -> bool:
        """Return whether there is a response to read."""
        return response is not None


class FlatSerializer(MSGPackSerializer):  # type: ignore[misc]
    """Msgpack with at most one extension, at the top level: hivemind's recursive decoding could overflow the stack."""

    @classmethod
    def loads(cls, buf: bytes) -> Any:
        """Decode a value; raises `ValueError` for other extensions and malformed bytes."""
        return msgpack.unpackb(buf, ext_hook=_dictionary, raw=False)


def _dictionary(code: int, data: bytes) -> DictionaryDHTValue:
    if code != DICTIONARY:
        raise ValueError(f"msgpack extension {code:#x} is not used here")
    _, latest, items = msgpack.unpackb(data, ext_hook=_no_extension, raw=False)
    with DictionaryDHTValue().freeze() as values:
        for subkey, value, expires in items:
            if not (isinstance(subkey, str) and isinstance(value, bytes) and isinstance(expires, float)):
                raise ValueError("a dictionary of the DHT maps text to bytes and a time")
            values.store(subkey, value, expires)
        values.latest_expiration_time = min(float(latest), time.time() + MAX_TTL_S + MAX_SKEW_S)
        return values


def _no_extension(code: int, data: bytes) -> object:
    raise ValueError(f"msgpack extension {code:#x} inside another one")


async def open_dht(p2p: P2P, validator: HeartbeatValidator, *, client_mode: bool) -> DHTNode:
    """Create a DHT node that knows no other node yet and stores what the validator accepts."""
    node = await DHTNode.create(
        p2p=p2p,
        client_mode=client_mode,
        record_validator=validator,
        authorizer=RequestSizeLimit(),
        cache_locally=False,
        cache_nearest=0,
        cache_on_store=False,
        cache_refresh_before_expiry=0,
        wait_timeout=CALL_TIMEOUT_S,
        blacklist_time=2.0,
    )
    node.protocol.serializer = FlatSerializer
    validator.storage = node.protocol.storage
    return node


async def greet(node: DHTNode, peers: Sequence[PeerID]) -> int:
    """Ping connected peers and look up our nearest nodes; returns the number of peers that answered."""
    answers = await asyncio.gather(*(node.protocol.call_ping(peer) for peer in peers))
    answered = sum(answer is not None for answer in answers)
    if answered:
        await node.find_nearest_nodes([node.node_id])
    return answered


async def store_beat(node: DHTNode, swarm: str, peer_id: str, data: bytes, expires: float) -> bool:
    """Store a heartbeat in the DHT; False if no node stored it, this one included."""
    return bool(await node.store(key_of(swarm), data, expires, subkey=peer_id))


async def read_beats(node: DHTNode, swarm: str) -> dict[object, object]:
    """Read the heartbeats of a swarm from the DHT: subkey to bytes, both untrusted."""
    entries = await node.get(key_of(swarm), latest=True)
    if entries is None or not isinstance(entries.value, dict):
        return {}
    return {subkey: entry.value for subkey, entry in entries.value.items()}
