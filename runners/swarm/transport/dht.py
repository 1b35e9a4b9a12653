"""The DHT of the swarm: hivemind's node on our loop, which keeps nothing but valid heartbeats.

Whoever stores a record checks it, so a forged record cannot push out a true one, and nobody fills our memory.
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
MAX_KEYS = 32  # of one call; hivemind's own searches ask for a few
DICTIONARY = 0x50  # hivemind's msgpack extension for a value with subkeys
CALL_TIMEOUT_S = 3.0


def key_of(swarm: str) -> str:
    """The DHT key of a swarm."""
    return f"genrl-graph/{swarm}"


class HeartbeatValidator(RecordValidatorBase):  # type: ignore[misc]
    """A record is a signed beat: under the key of its swarm, the subkey of its author, until it says."""

    def __init__(self) -> None:
        self._kept: dict[tuple[bytes, bytes], float] = {}

    def validate(self, record: DHTRecord) -> bool:
        """Whether to keep, or to believe, a record."""
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
    """Refuses calls that name more keys than hivemind's own do; signs nothing, the records are signed."""

    async def sign_request(self, request: Any, service_public_key: object) -> None:
        """Nothing to sign."""

    async def validate_request(self, request: Any) -> bool:
        """Whether to answer."""
        return len(getattr(request, "keys", ())) <= MAX_KEYS

    async def sign_response(self, response: Any, request: Any) -> None:
        """Nothing to sign."""

    async def validate_response(self, response: Any, request: Any) -> bool:
        """Whether to read the answer."""
        return response is not None


class FlatSerializer(MSGPackSerializer):  # type: ignore[misc]
    """Msgpack with one extension at the top: nested extensions, as hivemind reads them, overflow the stack."""

    @classmethod
    def loads(cls, buf: bytes) -> Any:
        """The value; raises `ValueError` for whatever else."""
        return msgpack.unpackb(buf, ext_hook=_dictionary, raw=False)


def _dictionary(code: int, data: bytes) -> DictionaryDHTValue:
    if code != DICTIONARY:
        raise ValueError(f"msgpack extension {code:#x} is not used here")
    _, latest, items = msgpack.unpackb(data, ext_hook=_no_extension, raw=False)
    with DictionaryDHTValue().freeze() as found:
        for subkey, value, expires in items:
            if not (isinstance(subkey, str) and isinstance(value, bytes) and isinstance(expires, float)):
                raise ValueError("a dictionary of the DHT maps text to bytes and a time")
            found.store(subkey, value, expires)
        found.latest_expiration_time = min(float(latest), time.time() + MAX_TTL_S + MAX_SKEW_S)
        return found


def _no_extension(code: int, data: bytes) -> object:
    raise ValueError(f"msgpack extension {code:#x} inside another one")


async def open_dht(p2p: P2P, *, client_mode: bool) -> DHTNode:
    """A node that knows nobody yet."""
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
    """Make oneself known to peers that are connected and learn their neighbours; returns how many answered."""
    answers = await asyncio.gather(*(node.protocol.call_ping(peer) for peer in peers))
    found = sum(answer is not None for answer in answers)
    if found:
        await node.find_nearest_nodes([node.node_id])
    return found


async def store_beat(node: DHTNode, swarm: str, peer_id: str, data: bytes, expires: float) -> bool:
    """Put a beat into the DHT; False where nobody, this peer included, took it."""
    return bool(await node.store(key_of(swarm), data, expires, subkey=peer_id))


async def read_beats(node: DHTNode, swarm: str) -> dict[object, object]:
    """What the DHT holds of a swarm: subkey to bytes, neither of them to be trusted."""
    found = await node.get(key_of(swarm), latest=True)
    if found is None or not isinstance(found.value, dict):
        return {}
    return {subkey: entry.value for subkey, entry in found.value.items()}
