"""A hostile peer that joins a swarm and sends forged data: `genrl-graph run ... --runner swarm --import hostile.py`.

It joins like an honest peer, but for each exchange that it opens, it sends every member of the roster a message from
`NOISE` and then an announcement from `PAYLOADS`. It cycles through both in order, so runs of the same graph send the
same forgeries; the log lists each with its receiver.
"""

import asyncio
import hashlib
import json
import struct
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from genrl_graph.contract.node import Exchange
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.rollouts import Tasks
from genrl_graph.runners.swarm.exchange import PeerSwarm
from genrl_graph.runners.swarm.host import Host
from genrl_graph.runners.swarm.offers import MAX_INLINE, SIZE, Inbox, Offer
from genrl_graph.runners.swarm.transport.streams import PUSH
from genrl_graph.wire.packet import HEAD, MAGIC, VERSION, ZSTD, encode

GB = 1 << 30


@dataclass(frozen=True)
class Lie:
    """The honest offer and rows from which a forgery is made."""

    offer: Offer
    rows: Frame

    @property
    def data(self) -> bytes:
        """Return the honest rows, encoded."""
        return encode(self.rows)

    def announcing(self, data: bytes, **head: Any) -> Offer:
        """Return an offer of these bytes, with values of its head replaced by `head`."""
        sha256 = hashlib.sha256(data).hexdigest()
        inline = data if len(data) <= MAX_INLINE else None
        return replace(self.offer, **{"size": len(data), "sha256": sha256, "inline": inline, **head})


def bad_rows(lie: Lie) -> Offer:
    """Forge one row for each rule about rows, and keep the others honest."""
    rows = lie.rows.table.to_pylist()
    edits: list[Mapping[str, Any]] = [
        {"peer": "peer0000"},
        {"round": 10**6},
        {"node": "final"},
        {"logprobs": [float("nan")] * len(rows[3]["logprobs"])},
        {"logprobs": [*rows[4]["logprobs"], -1.0]},
        {"completion_ids": [2**30]},
        {"completion": "9", "id": "0" * 64},
        {"task_id": "tasks/no-such-task"},
        {"temperature": float("inf")},
        {"id": rows[0]["id"]},
        {"parent_ids": ["x" * 10**4]},
    ]
    forged = [row | edit for row, edit in zip(rows, edits, strict=False)]
    return lie.announcing(encode(type(lie.rows).from_rows(forged + rows[len(edits) :], marks=lie.rows.marks)))


def random_bytes(lie: Lie) -> Offer:
    return lie.announcing(np.random.default_rng(lie.offer.round).bytes(1000))


def truncated(lie: Lie) -> Offer:
    return lie.announcing(lie.data[: len(lie.data) // 2])


def wrong_schema(lie: Lie) -> Offer:
    return lie.announcing(encode(Tasks.empty()))


def ten_gigabytes_inside(lie: Lie) -> Offer:
    """Claim 10 GB for the body in the head of the packet."""
    return lie.announcing(HEAD.pack(MAGIC, VERSION, ZSTD, 2, 2, 10 * GB) + b"{}{}")


def bomb(lie: Lie) -> Offer:
    """Compress 64 MB of zeros into a few kB, while the head claims 1 MB, which is within the limits."""
    data = lie.data
    header = data[HEAD.size : HEAD.size + HEAD.unpack_from(data)[3]]
    packed = pa.Codec("zstd").compress(bytes(1 << 26), asbytes=True)
    return lie.announcing(HEAD.pack(MAGIC, VERSION, ZSTD, len(header), len(packed), 1 << 20) + header + packed)


def ragged(lie: Lie) -> Offer:
    """Cut off the end of the body, with a matching head, so list offsets point beyond the end."""
    data = lie.data
    _, _, _, header, _, size = HEAD.unpack_from(data)
    body = data[HEAD.size + header :]
    if HEAD.unpack_from(data)[2] == ZSTD:
        body = pa.Codec("zstd").decompress(body, decompressed_size=size, asbytes=True)
    body = body[: -len(body) // 3]
    head = HEAD.pack(MAGIC, VERSION, 0, header, len(body), len(body))
    return lie.announcing(head + data[HEAD.size : HEAD.size + header] + body)


def other_bytes(lie: Lie) -> Offer:
    """Announce a hash that does not match the rows."""
    return lie.announcing(lie.data, sha256="0" * 64)


def ten_gigabytes(lie: Lie) -> Offer:
    return lie.announcing(lie.data, size=10 * GB, inline=None)


def other_name(lie: Lie) -> Offer:
    return lie.announcing(lie.data, peer="peer0000")


def unserved(lie: Lie) -> Offer:
    """Announce rows that are not served."""
    return lie.announcing(lie.data, inline=None)


PAYLOADS = {
    each.__name__: each
    for each in (
        bad_rows,
        random_bytes,
        truncated,
        wrong_schema,
        ten_gigabytes_inside,
        bomb,
        ragged,
        other_bytes,
        ten_gigabytes,
        other_name,
        unserved,
    )
}


def not_signed(swarm: PeerSwarm, lie: Lie) -> bytes:
    return np.random.default_rng(1).bytes(5000)


def cut_short(swarm: PeerSwarm, lie: Lie) -> bytes:
    return lie.announcing(lie.data).announced(swarm._sign)[:600]


def no_head(swarm: PeerSwarm, lie: Lie) -> bytes:
    signed = swarm._sign(json.dumps({"round": [[[]]]}).encode())
    return SIZE.pack(len(signed)) + signed


def far_round(swarm: PeerSwarm, lie: Lie) -> bytes:
    return lie.announcing(lie.data, round=10**9).announced(swarm._sign)


def old_round(swarm: PeerSwarm, lie: Lie) -> bytes:
    return lie.announcing(lie.data, round=max(0, lie.offer.round - 2)).announced(swarm._sign)


def other_game(swarm: PeerSwarm, lie: Lie) -> bytes:
    return lie.announcing(lie.data, protocol="0" * 64).announced(swarm._sign)


def other_exchange(swarm: PeerSwarm, lie: Lie) -> bytes:
    return lie.announcing(lie.data, node="prizes").announced(swarm._sign)


def replay(swarm: PeerSwarm, lie: Lie) -> bytes:
    """Return the last announcement received from another peer, if any."""
    return heard[-1] if heard else not_signed(swarm, lie)


NOISE: Mapping[str, Callable[[PeerSwarm, Lie], bytes]] = {
    each.__name__: each
    for each in (not_signed, cut_short, no_head, old_round, other_game, other_exchange, replay, far_round)
}
CLAIM = "four_gigabytes_claimed"

heard: list[bytes] = []
turn = 0


async def _claim(host: Host, peer_id: str) -> None:
    """Open a stream, claim 4 GB, and send 1000 bytes."""
    _, writer = await host._presence.streams._stream(peer_id, PUSH)
    writer.write(struct.pack(">I", 2**32 - 1) + bytes(1000))
    await writer.drain()
    await asyncio.sleep(0.5)
    writer.close()


def lying_to(swarm: PeerSwarm, lie: Lie, send: Callable[..., Future[None]], host: Host, peer_id: str) -> Future[None]:
    """Send one member the next noise and the next forged payload."""
    global turn
    noise, payload = [*NOISE, CLAIM][turn % (len(NOISE) + 1)], list(PAYLOADS)[turn % len(PAYLOADS)]
    turn += 1
    print(
        f"hostile: round {lie.offer.round} {lie.offer.node} {peer_id}: {noise}, {payload}", file=sys.stderr, flush=True
    )
    if noise == CLAIM:
        host._thread.submit(_claim(host, peer_id))
    else:
        send(host, peer_id, NOISE[noise](swarm, lie))
    return send(host, peer_id, PAYLOADS[payload](lie).announced(swarm._sign))


whole_open, whole_push, whole_serve, whole_take = PeerSwarm.open, Host.push, Host.serve, Inbox.take


def opening(self: PeerSwarm, node: Exchange, *, round: int, peer: str, offer: Frame) -> None:
    own = Offer(peer, round, node.place.node, self._protocol, 1, "0" * 64)

    def pushing(host: Host, peer_id: str, data: bytes, *, timeout_s: float = 10.0) -> Future[None]:
        return lying_to(self, Lie(own, offer), whole_push, host, peer_id)

    Host.push = pushing  # type: ignore[method-assign,assignment]  # its `self` is called `host`
    try:
        whole_open(self, node, round=round, peer=peer, offer=offer)
    finally:
        Host.push = whole_push  # type: ignore[method-assign]


def taking(self: Inbox, peer_id: str, data: bytes) -> None:
    heard[:] = [*heard[-3:], data]
    whole_take(self, peer_id, data)


PeerSwarm.open = opening  # type: ignore[method-assign]
Host.serve = lambda self, key, payload: None  # type: ignore[method-assign]
Inbox.take = taking  # type: ignore[method-assign]
