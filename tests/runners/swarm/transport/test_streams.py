"""Raw streams: attempts of a hostile peer, and the refusals that an honest one records."""

import asyncio
import gc
import socket
import struct
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fixture_types import IdentityOf, StartHost
from hivemind.p2p import P2P, PeerID
from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo
from hivemind.utils.multiaddr import Multiaddr

from genrl_graph.errors import PeerRefused
from genrl_graph.runners.swarm.host import Host
from genrl_graph.runners.swarm.transport.daemon import dial
from genrl_graph.runners.swarm.transport.event_loop import LoopThread
from genrl_graph.runners.swarm.transport.limits import Meter, TransportLimits
from genrl_graph.runners.swarm.transport.network import NetworkOptions
from genrl_graph.runners.swarm.transport.streams import FETCH, PUSH, PayloadMissing, Unreachable

Refused = Callable[[], dict[tuple[str | None, str], str]]
NOBODY = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"
LIMITS = TransportLimits(push_bytes=64 << 10, streams_per_peer=4, request_s=1.0, push_bytes_per_s=1e6)


class Stranger:
    """A libp2p peer that sends arbitrary bytes."""

    def __init__(self) -> None:
        self.thread = LoopThread("stranger")
        self.p2p = self.thread.run(P2P.create(nat_port_map=False, auto_nat=False, use_relay=False))
        self.peer_id = str(self.p2p.peer_id)
        self.answer = b""
        self.thread.run(self.p2p.add_binary_stream_handler(FETCH, self._answer))

    def meet(self, host: Host) -> None:
        ((_, self.host, address),) = NetworkOptions(join=host.addresses).joined()
        self.thread.run(self.p2p._client.connect(self.host, [address]))

    def say(self, verb: str, data: bytes, *, answer: int = 64, wait_s: float = 15.0) -> bytes:
        """Send raw bytes on a new stream and return the answer; nothing if the stream ends while they are sent."""
        return self.thread.run(self._say(verb, data, answer, wait_s))

    async def _say(self, verb: str, data: bytes, answer: int, wait_s: float) -> bytes:
        _, reader, writer = await self.p2p.call_binary_stream_handler(self.host, verb)
        try:
            writer.write(data)
            async with asyncio.timeout(wait_s):
                return await reader.read(answer)
        except ConnectionError:  # refused before all was sent: whether the answer still arrives is a race
            return b""
        finally:
            writer.close()

    def hold(self, verb: str, count: int) -> list[Any]:
        """Open streams and leave them idle."""

        async def opened() -> list[Any]:
            return [(await self.p2p.call_binary_stream_handler(self.host, verb))[1:] for _ in range(count)]

        return self.thread.run(opened())

    async def _answer(self, info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(self.answer)
        await asyncio.sleep(0.5)
        writer.close()

    def close(self) -> None:
        self.thread.run(self.p2p.shutdown())
        self.thread.close()


@pytest.fixture(scope="module")
def heard() -> list[tuple[str, bytes]]:
    return []


@pytest.fixture(scope="module")
def honest(start_host: StartHost, heard: list[tuple[str, bytes]]) -> Host:
    def on_push(peer_id: str, data: bytes) -> None:
        if data == b"refuse me":
            raise PeerRefused("not like this")
        if data == b"break me":
            raise KeyError("ours")
        heard.append((peer_id, data))

    return start_host("honest", on_push=on_push, limits=LIMITS)


@pytest.fixture(scope="module")
def other(start_host: StartHost, honest: Host) -> Host:
    return start_host("other", honest)


@pytest.fixture(scope="module")
def stranger(honest: Host) -> Iterator[Stranger]:
    stranger = Stranger()
    stranger.meet(honest)
    yield stranger
    stranger.close()


@pytest.fixture
def refused(honest: Host) -> Refused:
    """Return a function that takes the refusals of one test: peer id and kind of message to reason."""
    honest.take_refusals()
    return lambda: {(refusal.peer_id, refusal.what): refusal.reason for refusal in honest.take_refusals()}


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.01)


@pytest.mark.parametrize("size", [0, 1, 1000, 60_000])
def test_an_announcement_arrives_with_its_senders_id(
    honest: Host, other: Host, heard: list[tuple[str, bytes]], size: int
) -> None:
    other.push(honest.peer_id, bytes(size)).result()

    assert heard[-1] == (other.peer_id, bytes(size))


@pytest.mark.parametrize("size", [0, 1000, 8 << 20])
def test_a_payload_is_fetched_until_it_is_forgotten(honest: Host, other: Host, size: int) -> None:
    payload = bytes(range(256)) * (size // 256) + b"end"
    honest.serve(f"round 1/{size}", payload)

    fetched = other.fetch(honest.peer_id, f"round 1/{size}", max_bytes=len(payload), timeout_s=20).result()
    assert fetched == payload

    honest.forget(f"round 1/{size}")
    with pytest.raises(PayloadMissing, match=rf"does not serve 'round 1/{size}'"):
        other.fetch(honest.peer_id, f"round 1/{size}", max_bytes=1, timeout_s=5).result()


def test_what_the_receiver_raises_is_told_and_recorded_and_ends_nothing(
    honest: Host, other: Host, heard: list[tuple[str, bytes]], refused: Refused
) -> None:
    with pytest.raises(PeerRefused, match=r"did not take a message of 9 bytes \(refused\)"):
        other.push(honest.peer_id, b"refuse me").result()
    assert refused() == {(other.peer_id, "push"): "not like this"}
    with pytest.raises(PeerRefused, match=r"\(failed\)"):
        other.push(honest.peer_id, b"break me").result()
    assert refused() == {(other.peer_id, "push"): "KeyError: 'ours'"}

    other.push(honest.peer_id, b"and on").result()
    assert heard[-1] == (other.peer_id, b"and on")


def test_a_payload_larger_than_allowed_is_not_sent(honest: Host, other: Host) -> None:
    honest.serve("large", bytes(1001))

    with pytest.raises(PeerRefused, match="'large' is larger than the 1000 bytes allowed"):
        other.fetch(honest.peer_id, "large", max_bytes=1000, timeout_s=5).result()


def test_nobody_is_reached_in_bounded_time(other: Host, key: IdentityOf) -> None:
    for peer_id in (key("never started").peer_id, "no peer id", ""):
        with pytest.raises(Unreachable, match=r"^peer .*cannot be reached|is no peer id"):
            other.push(peer_id, b"x", timeout_s=3).result()


@pytest.mark.parametrize(
    ("verb", "data", "reason"),
    [
        (PUSH, struct.pack(">I", 0xFFFFFFFF), "claims 4294967295 bytes, at most 65536"),
        (PUSH, struct.pack(">I", (64 << 10) + 1) + b"x", "claims 65537 bytes"),
        (FETCH, struct.pack(">H", 65535), "a key of 65535 bytes, at most 256"),
    ],
)
def test_a_length_bomb_is_refused_before_it_is_read(
    honest: Host, stranger: Stranger, refused: Refused, verb: str, data: bytes, reason: str
) -> None:
    assert stranger.say(verb, data) == b"\x01"

    (found,) = refused().values()
    assert reason in found


@pytest.mark.parametrize("verb", [PUSH, FETCH])
def test_a_stream_that_stalls_is_closed(honest: Host, stranger: Stranger, refused: Refused, verb: str) -> None:
    started = time.monotonic()
    assert stranger.say(verb, struct.pack(">I", 1000) + b"x") == b""

    assert time.monotonic() - started < 10
    assert "stalled for 1 s" in str(refused())


def test_one_peer_cannot_take_all_streams(honest: Host, other: Host, stranger: Stranger, refused: Refused) -> None:
    held = []

    def are_taken() -> bool:
        """Reopen idle streams on a slow machine: a stream that nothing is sent on ends after a second."""
        held.extend(stranger.hold(PUSH, LIMITS.streams_per_peer))
        return stranger.say(PUSH, struct.pack(">I", 0)) == b"\x01"

    try:
        until(are_taken)
        assert "4 streams of this peer are open" in str(refused())

        other.push(honest.peer_id, b"still served").result()
    finally:  # the host serves the tests after this one, too
        for _, writer in held:
            stranger.thread.loop.call_soon_threadsafe(writer.close)
    until(lambda: stranger.say(PUSH, struct.pack(">I", 0)) == b"\x00")


def test_one_peer_cannot_send_more_than_its_share(honest: Host, stranger: Stranger, refused: Refused) -> None:
    message = struct.pack(">I", 60_000) + bytes(60_000)
    answers: list[bytes] = []
    started = time.monotonic()
    while b"\x01" not in answers and len(answers) < 1000:  # a stream that is refused while it is sent may just end
        answers.append(stranger.say(PUSH, message))

    taken, seconds = answers.count(b"\x00") * len(message), time.monotonic() - started
    assert b"\x01" in answers and answers[:60] == [b"\x00"] * 60
    assert 3.6e6 <= taken <= 1e6 * (4 + seconds)
    assert "more than 1 MB/s" in str(refused())


def test_random_bytes_do_no_harm(
    honest: Host, other: Host, stranger: Stranger, refused: Refused, heard: list[tuple[str, bytes]]
) -> None:
    for at in range(20):
        stranger.say((PUSH, FETCH)[at % 2], struct.pack(">I", at) + bytes(range(at, at + 40)))

    other.push(honest.peer_id, b"as before").result()
    assert heard[-1] == (other.peer_id, b"as before")


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        (b"\x00" + struct.pack(">Q", 10 << 30), PeerRefused, "claims 10737418240 bytes, at most 1000"),
        (b"\x00" + struct.pack(">Q", 500) + b"short", Unreachable, "the stream was lost"),
        (b"\x2a", PeerRefused, r"did not serve 'x' \(status 42\)"),
        (b"", Unreachable, "the stream was lost"),
    ],
)
def test_a_lying_server_is_left(
    other: Host, stranger: Stranger, honest: Host, answer: bytes, error: type[Exception], reason: str
) -> None:
    stranger.answer = answer

    with pytest.raises(error, match=reason):
        other.fetch(stranger.peer_id, "x", max_bytes=1000, timeout_s=5).result()


def test_a_server_that_never_answers_costs_the_time_that_was_given(other: Host, stranger: Stranger) -> None:
    stranger.answer = b"\x00" + struct.pack(">Q", 5)

    with pytest.raises(Unreachable, match=r"no answer in 0.3 s"):
        other.fetch(stranger.peer_id, "x", max_bytes=1000, timeout_s=0.3).result()


def test_a_meter_refills() -> None:
    now = 0.0
    meter = Meter(100.0, clock=lambda: now)
    meter.spend("a", 400)
    with pytest.raises(PeerRefused):
        meter.spend("a", 1)
    meter.spend("b", 400)
    now = 1.0
    meter.spend("a", 100)
    with pytest.raises(PeerRefused):
        meter.spend("a", 1)


def test_a_dial_that_nobody_answers_leaves_no_connection_open(stranger: Stranger) -> None:
    async def give_up(address: Multiaddr) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await dial(stranger.p2p, PeerID.from_base58(NOBODY), [address])

    with socket.create_server(("127.0.0.1", 0)) as silent, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        stranger.thread.run(give_up(Multiaddr(f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}")))
        gc.collect()
    assert [str(warning.message) for warning in seen if warning.category is ResourceWarning] == []
