"""The DHT of the swarm: a hivemind node on our event loop that stores only valid heartbeats.

Each node checks a record before storing it: a forged record cannot replace a true one, and memory stays bounded.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgpack
from hivemind.dht import DHTNode
from hivemind.dht.routing import DHTID
from hivemind.dht.storage import DictionaryDHTValue
from hivemind.dht.validation import DHTRecord, RecordValidatorBase
from hivemind.p2p import P2P, PeerID
from hivemind.utils.auth import AuthorizerBase
from hivemind.utils.serializer import MSGPackSerializer

from genrl_graph.errors import PeerRefused
from genrl_graph.runners.swarm.transport.heartbeat import MAX_BEAT, MAX_SKEW_S, MAX_TTL_S, open_beat

MAX_RECORDS = 2048  # 4 MB at most
MAX_KEYS = 32  # of one call; hivemind's own searches need only a few
DICTIONARY = 0x50  # hivemind's msgpack extension for a value with subkeys
CALL_TIMEOUT_S = 3.0


def key_of(swarm: str) -> str:
    """Return the DHT key of a swarm."""
    return f"genrl-graph/{swarm}"


class HeartbeatValidator(RecordValidatorBase):  # type: ignore[misc]
    """A validator that accepts only signed heartbeats with the key, the subkey and the expiry that they name."""

    def __init__(self) -> None:
        self._kept: dict[tuple[bytes, bytes], float] = {}

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
        return record.key == DHTID.generate(key_of(beat.swarm)).to_bytes() and self._room(record, now)

    def _room(self, record: DHTRecord, now: float) -> bool:
        at = (record.key, record.subkey)
        if at not in self._kept and len(self._kept) >= MAX_RECORDS:
            self._kept = {known: expires for known, expires in self._kept.items() if expires > now}
            if len(self._kept) >= MAX_RECORDS:
                return False
        self._kept[at] = max(record.expiration_time, self._kept.get(at, 0.0))
        return True


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


async def open_dht(p2p: P2P, *, client_mode: bool) -> DHTNode:
    """Create a DHT node that knows no other node yet."""
    node = await DHTNode.create(
        p2p=p2p,
        client_mode=client_mode,
        record_validator=HeartbeatValidator(),
        authorizer=RequestSizeLimit(),
        cache_locally=False,
        cache_nearest=0,
        cache_on_store=False,
        cache_refresh_before_expiry=0,
        wait_timeout=CALL_TIMEOUT_S,
        blacklist_time=2.0,
    )
    node.protocol.serializer = FlatSerializer
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
