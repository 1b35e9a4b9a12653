"""A peer that plays along and lies: `genrl-graph run ... --runner swarm --import hostile.py`.

It meets the others as a good peer does, but what it sends is forged: with each exchange that it opens, every member
of the roster gets another kind of payload or announcement from `PAYLOADS`, and before it something from `NOISE`.
Kinds come one after the other, so a run of the same graph lies in the same way; the log says what was sent to whom.
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
    """What is forged: the own offer, as a good peer would announce it, and its rows."""

    offer: Offer
    rows: Frame

    @property
    def data(self) -> bytes:
        """The rows as they would be sent."""
        return encode(self.rows)

    def announcing(self, data: bytes, **head: Any) -> Offer:
        """An announcement of these bytes, with other values in its head."""
        sha256 = hashlib.sha256(data).hexdigest()
        inline = data if len(data) <= MAX_INLINE else None
        return replace(self.offer, **{"size": len(data), "sha256": sha256, "inline": inline, **head})


def bad_rows(lie: Lie) -> Offer:
    """Among good rows one for every rule about rows."""
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
    """A head that claims 10 GB for the body."""
    return lie.announcing(HEAD.pack(MAGIC, VERSION, ZSTD, 2, 2, 10 * GB) + b"{}{}")


def bomb(lie: Lie) -> Offer:
    """64 MB of zeros in a few kB, under a head that says otherwise; the claim is within the limits."""
    data = lie.data
    header = data[HEAD.size : HEAD.size + HEAD.unpack_from(data)[3]]
    packed = pa.Codec("zstd").compress(bytes(1 << 26), asbytes=True)
    return lie.announcing(HEAD.pack(MAGIC, VERSION, ZSTD, len(header), len(packed), 1 << 20) + header + packed)


def ragged(lie: Lie) -> Offer:
    """Lengths of lists that point behind the end: the last bytes of the body are cut off, and the head agrees."""
    data = lie.data
    _, _, _, header, _, size = HEAD.unpack_from(data)
    body = data[HEAD.size + header :]
    if HEAD.unpack_from(data)[2] == ZSTD:
        body = pa.Codec("zstd").decompress(body, decompressed_size=size, asbytes=True)
    body = body[: -len(body) // 3]
    head = HEAD.pack(MAGIC, VERSION, 0, header, len(body), len(body))
    return lie.announcing(head + data[HEAD.size : HEAD.size + header] + body)


def other_bytes(lie: Lie) -> Offer:
    """Rows that are not those that were announced."""
    return lie.announcing(lie.data, sha256="0" * 64)


def ten_gigabytes(lie: Lie) -> Offer:
    return lie.announcing(lie.data, size=10 * GB, inline=None)


def other_name(lie: Lie) -> Offer:
    return lie.announcing(lie.data, peer="peer0000")


def unserved(lie: Lie) -> Offer:
    """Rows that nobody can fetch."""
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
    """What another peer has said and signed."""
    return heard[-1] if heard else not_signed(swarm, lie)


NOISE: Mapping[str, Callable[[PeerSwarm, Lie], bytes]] = {
    each.__name__: each
    for each in (not_signed, cut_short, no_head, old_round, other_game, other_exchange, replay, far_round)
}
CLAIM = "four_gigabytes_claimed"

heard: list[bytes] = []
turn = 0


async def _claim(host: Host, peer_id: str) -> None:
    """Open a stream, claim 4 GB, and send some."""
    _, writer = await host._presence.streams._stream(peer_id, PUSH)
    writer.write(struct.pack(">I", 2**32 - 1) + bytes(1000))
    await writer.drain()
    await asyncio.sleep(0.5)
    writer.close()


def lying_to(swarm: PeerSwarm, lie: Lie, send: Callable[..., Future[None]], host: Host, peer_id: str) -> Future[None]:
    """Send one member what it is its turn to get."""
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

    Host.push = pushing  # type: ignore[method-assign]
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
