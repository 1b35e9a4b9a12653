"""Signed messages: a body, the public key of its author and the signature, in one byte string."""

import struct
from typing import NamedTuple

from genrl_graph.errors import PeerRefused
from genrl_graph.runners.swarm.transport.identity import MAX_KEY_BITS, MAX_PUBLIC_KEY, Identity, peer_id_of, verify

MAGIC = b"GGS1"
HEADER = struct.Struct(">4sHH")
OVERHEAD = HEADER.size + MAX_PUBLIC_KEY + MAX_KEY_BITS // 8  # bytes that header, key and signature may add to a body


class SignedMessage(NamedTuple):
    """The body of a verified message and the peer id of its author."""

    peer_id: str
    body: bytes


def sign_message(identity: Identity, body: bytes, *, purpose: str = "message") -> bytes:
    """Return the body with key and signature; a signature for one purpose is invalid for another."""
    signature = identity.sign(_signed(purpose, body))
    return HEADER.pack(MAGIC, len(identity.public_key), len(signature)) + identity.public_key + signature + body


def open_message(data: bytes, *, max_bytes: int, purpose: str = "message") -> SignedMessage:
    """Verify a signed message and return its author and body.

    Raises:
        PeerRefused: the body exceeds `max_bytes`, the message is truncated or of another format, or the signature
            is invalid; the error says which.
    """
    if len(data) > max_bytes + OVERHEAD:
        raise PeerRefused(f"signed message: {len(data)} bytes, but at most {max_bytes} may be signed")
    if len(data) < HEADER.size:
        raise PeerRefused(f"signed message: cut short at {len(data)} bytes")
    magic, key_size, signature_size = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise PeerRefused(f"signed message: begins with {magic!r}, not {MAGIC!r}")
    at = HEADER.size + key_size
    start = at + signature_size
    if start > len(data) or key_size > MAX_PUBLIC_KEY:
        raise PeerRefused(f"signed message: {len(data)} bytes cannot hold a key of {key_size} and its signature")
    if len(data) - start > max_bytes:
        raise PeerRefused(f"signed message: a body of {len(data) - start} bytes, but at most {max_bytes} may be signed")
    key, signature, body = data[HEADER.size : at], data[at:start], data[start:]
    peer_id = peer_id_of(key)
    if not verify(peer_id, key, _signed(purpose, body), signature):
        raise PeerRefused(f"signed message: not signed by the key in it ({peer_id})")
    return SignedMessage(peer_id, body)


def _signed(purpose: str, body: bytes) -> bytes:
    return b"genrl-graph\0" + purpose.encode() + b"\0" + body
