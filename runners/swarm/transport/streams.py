"""Messages between two peers over libp2p streams: push an announcement, fetch a payload, send a heartbeat.

A stream carries one request and one answer. Lengths come first, to be checked before anything is read or allocated.
The libp2p handshake proves the sender's peer id.

    push, beat   ->  u32 size, bytes                        <-  u8 status
    fetch        ->  u16 size, key (UTF-8), u64 max_bytes   <-  u8 status, and if it is OK: u64 size, bytes
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from enum import IntEnum

from hivemind.p2p import P2P, PeerID
from hivemind.p2p.p2p_daemon_bindings.control import P2PDaemonError
from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo
from hivemind.proto import p2pd_pb2

from genrl_graph.errors import PeerRefused, SwarmError
from genrl_graph.runners.swarm.transport.daemon import CHUNK, ask_daemon, dial
from genrl_graph.runners.swarm.transport.limits import Meter, OpenStreams, TransportLimits
from genrl_graph.runners.swarm.transport.network import dialable
from genrl_graph.runners.swarm.transport.payloads import MAX_KEY, PayloadStore
from genrl_graph.runners.swarm.transport.refusals import Refusals

PUSH, BEAT, FETCH = "/genrl-graph/push/1", "/genrl-graph/beat/1", "/genrl-graph/fetch/1"
SIZE16, SIZE32, SIZE64 = struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">Q")

Watch = Callable[[bytes], object]
OnBytes = Callable[[str, bytes], object]
CUT_SHORT = "stream: cut short"
Handler = Callable[[str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _ignore(chunk: bytes) -> None:
    """Watch a chunk and do nothing."""


class Status(IntEnum):
    """Status codes: the first byte of an answer."""

    OK = 0
    REFUSED = 1
    FAILED = 2
    NOT_HERE = 3
    TOO_LARGE = 4


class Unreachable(SwarmError):
    """A peer cannot be reached, or did not answer in time."""


class PayloadMissing(SwarmError):
    """The peer does not serve the requested key: not yet, or no longer."""


class Streams:
    """The streams of one daemon: pushes and fetches, and the answers to those of other peers.

    `on_push` and `on_beat` run on the event loop, so they must be quick; errors they raise are recorded as refusals.
    """

    def __init__(
        self,
        p2p: P2P,
        *,
        shelf: PayloadStore,
        limits: TransportLimits,
        refusals: Refusals,
        on_push: OnBytes,
        on_beat: OnBytes,
        addresses: Callable[[str], list[str]],
    ) -> None:
        self._p2p = p2p
        self._shelf = shelf
        self._limits = limits
        self._refusals = refusals
        self._on_push = on_push
        self._on_beat = on_beat
        self._addresses = addresses
        self._seats = OpenStreams(limits)
        self._meter = Meter(limits.push_bytes_per_s)

    async def open(self) -> None:
        """Start answering pushes, heartbeats and fetches."""
        for name, handler in ((PUSH, self._pushed), (BEAT, self._beaten), (FETCH, self._fetched)):
            await self._p2p.add_binary_stream_handler(name, self._guarded(name.split("/")[2], handler))

    async def push(self, peer_id: str, data: bytes, *, timeout_s: float, verb: str = PUSH) -> None:
        """Send a message and wait until the peer has accepted it.

        Raises:
            Unreachable: the peer cannot be reached, or does not answer in time.
            PeerRefused: the peer did not accept it.
        """
        async with _deadline(peer_id, timeout_s):
            reader, writer = await self._stream(peer_id, verb)
            with closing(writer):
                writer.write(SIZE32.pack(len(data)))
                await _write(writer, data, chunk_s=timeout_s)
                status = (await reader.readexactly(1))[0]
        if status != Status.OK:
            raise PeerRefused(f"peer {peer_id}: did not take a message of {len(data)} bytes ({_name(status)})")

    async def fetch(
        self, peer_id: str, key: str, *, max_bytes: int, timeout_s: float, watch: Watch = _ignore
    ) -> bytearray:
        """Fetch the payload that a peer serves under a key; `watch` is called with each chunk as it arrives.

        Raises:
            PayloadMissing: the peer does not serve the key: not yet, or no longer.
            Unreachable: the peer cannot be reached, or does not send the whole payload in time.
            PeerRefused: the payload exceeds `max_bytes`, or the peer breaks the protocol.
        """
        name = key.encode()
        async with _deadline(peer_id, timeout_s):
            reader, writer = await self._stream(peer_id, FETCH)
            with closing(writer):
                writer.write(SIZE16.pack(len(name)) + name + SIZE64.pack(max_bytes))
                await writer.drain()
                status = (await reader.readexactly(1))[0]
                if status == Status.NOT_HERE:
                    raise PayloadMissing(f"peer {peer_id}: does not serve {key!r}, not yet or no more")
                if status == Status.TOO_LARGE:
                    raise PeerRefused(f"peer {peer_id}: {key!r} is larger than the {max_bytes} bytes allowed")
                if status != Status.OK:
                    raise PeerRefused(f"peer {peer_id}: did not serve {key!r} ({_name(status)})")
                (size,) = SIZE64.unpack(await reader.readexactly(SIZE64.size))
                if size > max_bytes:
                    raise PeerRefused(f"peer {peer_id}: {key!r} claims {size} bytes, at most {max_bytes} are allowed")
                return await _read(reader, size, watch)

    async def _stream(self, peer_id: str, verb: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a stream to a peer; if libp2p finds no route, dial the addresses of its heartbeat first."""
        peer = _peer(peer_id)
        try:
            return await self._open_stream(peer, verb)
        except P2PDaemonError as error:
            known = [address for text in self._addresses(peer_id) if (address := dialable(text)) is not None]
            if not known:
                raise Unreachable(f"peer {peer_id}: cannot be reached: {_one_line(error)}") from error
        await dial(self._p2p, peer, known)
        return await self._open_stream(peer, verb)

    async def _open_stream(self, peer: PeerID, verb: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a stream as hivemind's `stream_open` does, but close the socket on failure and cancellation."""
        wanted = p2pd_pb2.StreamOpenRequest(peer=peer.to_bytes(), proto=[verb])
        return await ask_daemon(self._p2p, p2pd_pb2.Request(type=p2pd_pb2.Request.STREAM_OPEN, streamOpen=wanted))

    def _guarded(
        self, what: str, handler: Handler
    ) -> Callable[[StreamInfo, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        """Wrap a handler: apply the stream limits, and record a refusal instead of raising when the peer misbehaves."""

        async def handle(info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer_id = str(info.peer_id)
            with closing(writer):
                try:
                    with self._seats.seat(peer_id):
                        await handler(peer_id, reader, writer)
                except PeerRefused as error:
                    self._refusals.add(peer_id, what, error)
                    writer.write(bytes([Status.REFUSED]))
                except TimeoutError:
                    self._refusals.add(peer_id, what, f"stream: stalled for {self._limits.request_s:g} s")
                except (ConnectionError, asyncio.IncompleteReadError):
                    self._refusals.add(peer_id, what, CUT_SHORT)

        return handle

    async def _pushed(self, peer_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._receive(self._on_push, "push", peer_id, reader, writer)

    async def _beaten(self, peer_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._receive(self._on_beat, "beat", peer_id, reader, writer)

    async def _receive(
        self, take: OnBytes, what: str, peer_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async with asyncio.timeout(self._limits.request_s):
            (size,) = SIZE32.unpack(await reader.readexactly(SIZE32.size))
            if size > self._limits.push_bytes:
                raise PeerRefused(f"stream: claims {size} bytes, at most {self._limits.push_bytes} are allowed")
            self._meter.spend(peer_id, size)
            data = bytes(await _read(reader, size))
        status = Status.OK
        try:
            take(peer_id, data)
        except Exception as error:  # our fault or the callback's: the refusal record makes it visible
            is_refused = isinstance(error, PeerRefused)
            self._refusals.add(peer_id, what, error if is_refused else f"{type(error).__name__}: {error}")
            status = Status.REFUSED if is_refused else Status.FAILED
        writer.write(bytes([status]))
        await writer.drain()

    async def _fetched(self, peer_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(self._limits.request_s):
            (size,) = SIZE16.unpack(await reader.readexactly(SIZE16.size))
            if size > MAX_KEY:
                raise PeerRefused(f"stream: a key of {size} bytes, at most {MAX_KEY} are allowed")
            name = await reader.readexactly(size)
            (max_bytes,) = SIZE64.unpack(await reader.readexactly(SIZE64.size))
        payload = self._shelf.get(name.decode(errors="replace"))
        if payload is None or len(payload) > max_bytes:
            writer.write(bytes([Status.NOT_HERE if payload is None else Status.TOO_LARGE]))
            await writer.drain()
            return
        writer.write(bytes([Status.OK]) + SIZE64.pack(len(payload)))
        async with asyncio.timeout(self._limits.serve_s):
            await _write(writer, payload, chunk_s=self._limits.request_s)


@asynccontextmanager
async def _deadline(peer_id: str, timeout_s: float) -> AsyncIterator[None]:
    """Convert stream errors within the block, and a timeout, to `Unreachable`."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as error:
        raise Unreachable(f"peer {peer_id}: no answer in {timeout_s:g} s") from error
    except (P2PDaemonError, ConnectionError, asyncio.IncompleteReadError) as error:
        raise Unreachable(f"peer {peer_id}: the stream was lost: {_one_line(error)}") from error


async def _read(reader: asyncio.StreamReader, size: int, watch: Watch = _ignore) -> bytearray:
    """Read exactly `size` bytes; memory grows with the bytes that arrive, not with the claimed size."""
    data = bytearray()
    while len(data) < size:
        chunk = await reader.read(min(size - len(data), CHUNK))
        if not chunk:
            raise asyncio.IncompleteReadError(b"", size - len(data))
        watch(chunk)
        data += chunk
    return data


async def _write(writer: asyncio.StreamWriter, data: bytes, *, chunk_s: float) -> None:
    """Write all of the data; raises `TimeoutError` if the peer takes longer than `chunk_s` to read a chunk."""
    view = memoryview(data)
    for at in range(0, len(view), CHUNK):
        writer.write(view[at : at + CHUNK])
        async with asyncio.timeout(chunk_s):
            await writer.drain()


def _peer(peer_id: str) -> PeerID:
    try:
        return PeerID.from_base58(peer_id)
    except ValueError as error:
        raise Unreachable(f"peer {peer_id[:80]!r}: is no peer id") from error


def _name(status: int) -> str:
    return Status(status).name.lower().replace("_", " ") if status in list(Status) else f"status {status}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
