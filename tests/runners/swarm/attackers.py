"""Attackers of a swarm: `ATTACK=KIND genrl-graph run ... --runner swarm --import attackers.py`.

Each kind plays along like an honest peer but for one thing, which `ATTACKS` lists. Once it has offered rows of round
GATE_AT, there is a file of its kind in the folder ATTACKING.
"""

import asyncio
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from genrl_graph.contract.node import Exchange
from genrl_graph.edge_types.frame import Frame
from genrl_graph.runners.swarm.admission.rules import LEAST_ROWS_PER_TASK, USUAL_TIMES
from genrl_graph.runners.swarm.exchange import PeerSwarm
from genrl_graph.runners.swarm.host import Host
from genrl_graph.runners.swarm.offers import MAX_INLINE, Offer
from genrl_graph.runners.swarm.presence import Presence
from genrl_graph.runners.swarm.transport.dht import store_beat
from genrl_graph.runners.swarm.transport.heartbeat import Heartbeat
from genrl_graph.runners.swarm.transport.identity import Identity
from genrl_graph.runners.swarm.transport.streams import PUSH, Streams
from genrl_graph.seeds import rollout_id
from genrl_graph.wire.packet import encode

FAR = 10**9
SLOW_TEXT = r"\boxed{(x+y+z+w)^{60}}"  # short, and math-verify expands it until its limit
KEYS, SWARMS, STREAMS = 60, 300, 64

whole_open, whole_push, whole_beat = PeerSwarm.open, Host.push, Presence._beat


def offer_of(swarm: PeerSwarm, node: Exchange, round: int, data: bytes) -> Offer:
    """Return the announcement of these bytes as rows of this peer."""
    inline = data if len(data) <= MAX_INLINE else None
    return Offer(
        swarm._name, round, node.place.node, swarm._protocol, len(data), hashlib.sha256(data).hexdigest(), inline
    )


def sending(swap: Callable[[PeerSwarm, Exchange, int, str, Frame], bytes | None]) -> None:
    """Replace every announcement that this peer pushes by that of `swap`; None: push nothing."""

    def opening(self: PeerSwarm, node: Exchange, *, round: int, peer: str, offer: Frame) -> None:
        def pushing(host: Host, peer_id: str, data: bytes, *, timeout_s: float = 10.0) -> "Future[None]":
            sent = swap(self, node, round, peer_id, offer)
            return whole_push(host, peer_id, sent) if sent is not None else Future()

        Host.push = pushing  # type: ignore[method-assign,assignment]
        try:
            whole_open(self, node, round=round, peer=peer, offer=offer)
        finally:
            Host.push = whole_push  # type: ignore[method-assign]

    PeerSwarm.open = opening  # type: ignore[method-assign]
    Host.serve = lambda self, key, payload: None  # type: ignore[method-assign]


def beating(**changes: Callable[[Heartbeat], Any]) -> None:
    """Replace values of every heartbeat."""

    def beat(self: Presence, *, left: bool) -> Heartbeat:
        made = whole_beat(self, left=left)
        return made.model_copy(update={name: change(made) for name, change in changes.items()})

    Presence._beat = beat  # type: ignore[method-assign]


def more_rows(swarm: PeerSwarm, offer: Frame, count: int, completion: str) -> Frame:
    """Return many samples of the own rows with this text and valid ids."""
    rows, own = [], offer.rows()
    for at in range(count):
        row = own[at % len(own)] | {"sample": at, "completion": completion}
        where: dict[str, Any] = {
            name: row[name] for name in ("peer", "round", "node", "task_id", "parent_ids", "sample")
        }
        tokens: dict[str, Any] = {name: np.asarray(row[name], np.int32) for name in ("prompt_ids", "completion_ids")}
        rows.append(row | {"id": rollout_id(protocol=swarm._protocol, **where, **tokens)})
    return type(offer).from_rows(rows, marks=offer.marks)


def judge_eater() -> None:
    """Offer as many rows as a peer may, each of which takes a judge seconds; in every fourth round far more."""
    made: dict[int, bytes] = {}  # by round: all members get the same

    def swap(swarm: PeerSwarm, node: Exchange, round: int, peer_id: str, offer: Frame) -> bytes:
        if round not in made:
            most = max(LEAST_ROWS_PER_TASK * len(set(offer.values("task_id"))), USUAL_TIMES * len(offer))
            rows = more_rows(swarm, offer, most if round % 4 else node.max_rows, SLOW_TEXT)
            made[round] = offer_of(swarm, node, round, encode(rows)).announced(swarm._sign)
        return made[round]

    sending(swap)


def prophet() -> None:
    """Claim a round that is far ahead, in heartbeats and announcements."""
    beating(round=lambda beat: FAR)
    sending(lambda swarm, node, round, peer, offer: offer_of(swarm, node, FAR, encode(offer)).announced(swarm._sign))


def latecomer() -> None:
    """Be in every round, and announce only earlier ones."""
    sending(
        lambda swarm, node, round, peer, offer: offer_of(swarm, node, max(0, round - 1), encode(offer)).announced(
            swarm._sign
        )
    )


def thief() -> None:
    """Claim the name of another peer."""
    Presence._settle_name = lambda self: None  # type: ignore[method-assign]


def dripper() -> None:
    """Announce rows, and serve them byte by byte."""

    async def dripping(self: Streams, peer_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes([0]) + (10**5).to_bytes(8, "big"))
        for _ in range(600):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.2)

    Streams._fetched = dripping  # type: ignore[method-assign]

    def swap(swarm: PeerSwarm, node: Exchange, round: int, peer_id: str, offer: Frame) -> bytes:
        return replace(offer_of(swarm, node, round, encode(offer)), inline=None).announced(swarm._sign)

    sending(swap)


def splitter() -> None:
    """Send every member other rows, the first one none, and heartbeats of a clock that jumps."""
    first: list[str] = []

    def swap(swarm: PeerSwarm, node: Exchange, round: int, peer_id: str, offer: Frame) -> bytes | None:
        first.append(peer_id)
        if peer_id == first[0]:
            return None
        part = offer.take(range(1 + hash((peer_id, round)) % len(offer)))
        return offer_of(swarm, node, round, encode(part)).announced(swarm._sign)

    sending(swap)
    beating(time=lambda beat: beat.time + (600 if int(beat.time) % 2 else -20), expires=lambda beat: beat.time + 30)


def flooder() -> None:
    """Store heartbeats of invented keys in this swarm, and of the own key in invented swarms."""

    async def flood(self: Presence) -> None:
        folder = Path(tempfile.mkdtemp())
        for at in range(SWARMS):
            beat = whole_beat(self, left=False).model_copy(update={"swarm": f"swarm{at}"})
            await store_beat(
                self.point.dht, beat.swarm, self.identity.peer_id, beat.sealed(self.identity), beat.expires
            )
        for at in range(KEYS):
            identity = await asyncio.to_thread(Identity.load, folder / str(at))
            now = time.time()
            beat = whole_beat(self, left=False).model_copy(update={"name": f"new{at}", "expires": now + 290})
            await store_beat(self.point.dht, beat.swarm, identity.peer_id, beat.sealed(identity), beat.expires)

    whole_listen = Presence.open

    async def opening(self: Presence) -> None:
        await whole_listen(self)
        self._flood = asyncio.create_task(flood(self))  # type: ignore[attr-defined]  # keeps the task alive

    Presence.open = opening  # type: ignore[method-assign]


def caller() -> None:
    """Open streams to every member and say nothing, again and again."""

    async def hold(host: Host, peer_id: str) -> None:
        opened = [await host._presence.streams._stream(peer_id, PUSH) for _ in range(STREAMS)]
        await asyncio.sleep(5.0)
        for _, writer in opened:
            writer.close()

    def opening(self: PeerSwarm, node: Exchange, *, round: int, peer: str, offer: Frame) -> None:
        for member in self._where.others():
            self._host._thread.submit(hold(self._host, member.peer_id))
        whole_open(self, node, round=round, peer=peer, offer=offer)

    PeerSwarm.open = opening  # type: ignore[method-assign]


ATTACKS: dict[str, Callable[[], None]] = {
    each.__name__: each for each in (judge_eater, prophet, latecomer, thief, dripper, splitter, flooder, caller)
}


def announce(kind: str, folder: Path, *, at: int) -> None:
    """Leave a file of this name in the folder when the attacker opens an exchange of round `at`."""
    attacking = PeerSwarm.open

    def opening(self: PeerSwarm, node: Exchange, *, round: int, peer: str, offer: Frame) -> None:
        attacking(self, node, round=round, peer=peer, offer=offer)
        if round >= at:
            (folder / kind).touch()

    PeerSwarm.open = opening  # type: ignore[method-assign]


if kind := os.environ.get("ATTACK"):
    ATTACKS[kind]()
    announce(kind, Path(os.environ["ATTACKING"]), at=int(os.environ["GATE_AT"]))
    threading.current_thread().name = kind
