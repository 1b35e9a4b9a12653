"""Hosts that join, leave and are refused, each with its own libp2p daemon."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fixture_types import IdentityOf, StartHost
from hivemind.dht.routing import DHTID
from hivemind.p2p import PeerID
from ranks import free_port

from genrl_graph.errors import ParamError, SwarmError
from genrl_graph.runners.swarm.host import Host, PeerIdentity
from genrl_graph.runners.swarm.transport import point
from genrl_graph.runners.swarm.transport.dht import MAX_KEYS, key_of, open_dht
from genrl_graph.runners.swarm.transport.heartbeat import Heartbeat, qualified
from genrl_graph.runners.swarm.transport.network import NetworkOptions


def names(host: Host) -> list[str]:
    return [member.name for member in host.roster()]


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return shown != "" and not shown.startswith("Z")


@pytest.fixture(scope="module")
def first(start_host: StartHost) -> Host:
    return start_host("ann", ttl_s=9.0)


@pytest.fixture(scope="module")
def second(start_host: StartHost, first: Host) -> Host:
    return start_host("bob", first, ttl_s=9.0)


@pytest.fixture(scope="module")
def third(start_host: StartHost, first: Host, second: Host) -> Host:
    return start_host("cat", first, ttl_s=9.0)


def test_the_first_peer_is_a_swarm_of_one(start_host: StartHost) -> None:
    alone = start_host("alone", swarm="alone")

    assert names(alone) == ["alone"] and alone.running
    assert all(address.startswith("/ip4/127.0.0.1/tcp/") for address in alone.addresses)
    alone.close()
    alone.close()
    assert not alone.running


def test_peers_that_joined_one_know_and_reach_each_other(first: Host, second: Host, third: Host) -> None:
    assert names(first) == names(second) == names(third) == ["ann", "bob", "cat"]

    second.serve("from bob", b"hello")
    assert third.fetch(second.peer_id, "from bob", max_bytes=5, timeout_s=5).result() == b"hello"


def test_a_new_round_is_told(first: Host, second: Host, third: Host) -> None:
    third.beat(12)

    until(lambda: {member.name: member.round for member in first.look()}["cat"] == 12)
    assert {member.name: member.round for member in third.roster()} == {"ann": 0, "bob": 0, "cat": 12}


def test_heartbeats_are_renewed_and_who_falls_silent_is_forgotten(
    first: Host, second: Host, start_host: StartHost
) -> None:
    silent = start_host("silent", first, ttl_s=2.0)
    until(lambda: "silent" in names(first) and "silent" in names(second))
    time.sleep(2.5)
    assert "silent" in [member.name for member in first.look()]

    os.kill(silent._presence.point.daemon.pid, signal.SIGSTOP)
    until(lambda: "silent" not in names(first))
    assert "bob" in names(first)

    pid = silent._presence.point.daemon.pid
    silent.close()
    assert not alive(pid), "a daemon that hangs is ended too"


def test_a_peer_that_closes_says_goodbye_and_leaves_no_process(first: Host, start_host: StartHost) -> None:
    leaving = start_host("leaving", first)
    until(lambda: "leaving" in names(first))
    pid = leaving._presence.point.daemon.pid

    leaving.close()

    until(lambda: "leaving" not in names(first), seconds=10.0)
    assert not alive(pid)
    with pytest.raises(RuntimeError):
        leaving.push(first.peer_id, b"x")


def test_a_daemon_that_dies_is_started_again(first: Host, start_host: StartHost) -> None:
    told: list[str] = []
    host = start_host("phoenix", first, tell=told.append)
    os.kill(host._presence.point.daemon.pid, signal.SIGKILL)

    until(lambda: told and host.running)
    assert "the libp2p daemon has ended (exit code -9" in told[0]
    until(lambda: host.running and "phoenix" in [member.name for member in first.look()])
    host.push(first.peer_id, b"again").result()
    host.close()


def test_forged_heartbeats_neither_count_nor_displace_true_ones(
    first: Host, second: Host, third: Host, key: IdentityOf
) -> None:
    """Store invalid records at all nodes of the key, as a hostile member would that skips its own checks."""
    now = time.time()
    true = Heartbeat(swarm="game", protocol="p1", name="bob", session="s", round=9, time=now, expires=now + 60)
    own = true.sealed(key("thief"))
    forged = [
        (own, second.peer_id, now + 60),
        (true.sealed(key("thief"))[:-20] + bytes(20), second.peer_id, now + 200),
        (bytes(100), second.peer_id, now + 1e9),
        (own, key("thief").peer_id, now + 1e9),
        (bytes(20_000), key("thief").peer_id, now + 60),
    ]

    async def store() -> tuple[list[Any], Any]:
        protocol = third._presence.point.dht.protocol
        answers = []
        for data, subkey, expires in forged:
            for host in (first, second):
                peer, at = PeerID.from_base58(host.peer_id), DHTID.generate(key_of("game"))
                value = protocol.serializer.dumps(data)
                answers.append(await protocol.call_store(peer, [at], [value], expires, subkeys=[subkey]))
        crowd = [DHTID.generate() for _ in range(MAX_KEYS + 1)]
        return answers, await protocol.call_find(PeerID.from_base58(first.peer_id), crowd)

    answers, found = third._thread.run(store())
    assert answers == [[False]] * len(answers) and found is None
    assert {member.name: member.peer_id for member in first.look()}["bob"] == second.peer_id

    async def store_clash() -> Any:
        at, value = DHTID.generate(key_of("game")), third._presence.point.dht.protocol.serializer.dumps(own)
        peer = PeerID.from_base58(first.peer_id)
        return await third._presence.point.dht.protocol.call_store(
            peer, [at], [value], now + 60, subkeys=[key("thief").peer_id]
        )

    first.take_refusals()
    assert third._thread.run(store_clash()) == [True], "a valid record of a peer that takes another's name"
    names = {member.peer_id: member.name for member in first.look()}
    assert names[key("thief").peer_id] == qualified("bob", key("thief").peer_id)
    assert names[second.peer_id] in ("bob", qualified("bob", second.peer_id))


def test_a_taken_name_gets_a_part_of_the_key_and_a_run_keeps_its_own(
    first: Host, second: Host, start_host: StartHost, key: IdentityOf
) -> None:
    told = list[str]()
    with start_host("bob", first, identity=key("not bob"), tell=told.append) as other:
        assert other.name == qualified("bob", key("not bob").peer_id)
        assert told[0].startswith("peer 'bob': the name is that of Qm")
        assert {member.peer_id: member.name for member in first.look()}[other.peer_id] == other.name
    with start_host("bob", first, identity=key("not bob"), fixed=True, tell=told.append) as again:
        assert again.name == "bob" and "claims this name, too" in told[-1]
        assert {member.peer_id: member.name for member in first.look()}[again.peer_id] == other.name


def test_another_graph_under_the_swarms_name_is_refused_at_the_start(
    first: Host, second: Host, start_host: StartHost
) -> None:
    with pytest.raises(SwarmError, match=r"another graph is played under this name: p1 \(.*but this peer's is p2"):
        start_host("dan", first, protocol="p2")


def test_an_identity_in_use_is_refused(first: Host, start_host: StartHost, key: IdentityOf) -> None:
    with pytest.raises(SwarmError, match="another running peer uses it"):
        start_host("double", first, identity=key("ann"))


@pytest.mark.parametrize("address", ["/ip4/127.0.0.1/tcp/1", "/ip4/10.255.255.1/tcp/4001"])
def test_a_peer_that_does_not_answer_is_named_in_bounded_time(
    start_host: StartHost, key: IdentityOf, address: str
) -> None:
    join = f"{address}/p2p/{key('nobody').peer_id}"
    started = time.monotonic()

    with pytest.raises(SwarmError, match=rf"--join {join}: cannot be reached: .*is that peer running") as caught:
        start_host("seeker", network=NetworkOptions(join=[join], join_timeout_s=2.0))

    assert time.monotonic() - started < 15 and "\n" not in str(caught.value)


@pytest.mark.parametrize("answers_before_s", [0.0, 2.0])
def test_a_peer_may_start_before_the_one_that_it_joins(
    start_host: StartHost, key: IdentityOf, monkeypatch: pytest.MonkeyPatch, answers_before_s: float
) -> None:
    """A daemon answers before its peer is a node of the DHT."""

    async def late_dht(*args: Any, **options: Any) -> Any:
        await asyncio.sleep(answers_before_s)
        return await open_dht(*args, **options)

    founder, early = f"founder{answers_before_s:g}", f"early{answers_before_s:g}"
    address = f"/ip4/127.0.0.1/tcp/{free_port()}"
    joins = NetworkOptions(join=[f"{address}/p2p/{key(founder).peer_id}"], join_timeout_s=60.0)
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(start_host, early, network=joins, swarm="other")
        time.sleep(1.0)
        assert not joining.done()
        monkeypatch.setattr(point, "open_dht", late_dht)
        start_host(founder, network=NetworkOptions(listen=[address]), swarm="other")
        host = joining.result()
    until(lambda: founder in names(host))


def test_one_answering_peer_of_several_is_enough(first: Host, start_host: StartHost, key: IdentityOf) -> None:
    told: list[str] = []
    dead = f"/ip4/127.0.0.1/tcp/1/p2p/{key('nobody').peer_id}"
    host = start_host("hopeful", network=NetworkOptions(join=[dead, *first.addresses]), tell=told.append)

    assert "ann" in names(host)
    assert len(told) == 1 and told[0].startswith(f"--join {dead}: cannot be reached: ")
    host.close()


def test_a_taken_port_is_named(start_host: StartHost) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SwarmError, match=f"--listen /ip4/127.0.0.1/tcp/{port}: port {port} is taken"):
            start_host("portless", network=NetworkOptions(listen=[f"/ip4/127.0.0.1/tcp/{port}"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"listen": ["localhost:80"]}, "--listen localhost:80: is no multiaddr"),
        ({"join": ["/ip4/127.0.0.1/tcp/1"]}, "--join /ip4/127.0.0.1/tcp/1: says not which peer is there"),
        ({"join": ["/ip4/127.0.0.1/tcp/1/p2p/0OIl"]}, "--join .*"),
        ({"announce": ["/ip4/127.0.0.1/tcp/0"]}, "--announce /ip4/127.0.0.1/tcp/0: port 0 says nothing"),
        ({"join": "/ip4/127.0.0.1/tcp/1"}, "wants a list of multiaddrs"),
        ({"trusted_relays": [f"/ip4/127.0.0.1/tcp/1/p2p/Qm{'a' * 44}"]}, "add --auto-relay"),
    ],
)
def test_addresses_that_cannot_work_are_refused_before_anything_starts(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamError, match=message):
        NetworkOptions(**options)


PEER = """
import sys, time
from genrl_graph.runners.swarm.host import Host, PeerIdentity
from genrl_graph.runners.swarm.transport.identity import Identity

host = Host.start(Identity.load(sys.argv[1]), PeerIdentity(swarm="game", protocol="p1", name="victim"))
print(host._presence.point.daemon.pid, flush=True)
if sys.argv[2] == "exit":
    sys.exit("forgot to close")
time.sleep(60)
"""


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_no_daemon_outlives_its_peer(key: IdentityOf, end: str) -> None:
    command = [sys.executable, "-c", PEER, str(key("victim").path), end]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as peer:
        assert peer.stdout is not None
        pid = int(peer.stdout.readline())
        if end == "kill":
            assert alive(pid)
            peer.kill()
        peer.wait(timeout=10)
        until(lambda: not alive(pid), seconds=5.0)


def test_the_loop_is_plain_asyncio_and_nothing_was_installed(first: Host) -> None:
    assert type(first._thread.loop) is asyncio.SelectorEventLoop
    assert "uvloop" not in type(asyncio.get_event_loop_policy()).__module__


def test_a_host_that_cannot_start_leaves_nothing(key: IdentityOf) -> None:
    before = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "pid="], capture_output=True, text=True).stdout
    join = [f"/ip4/127.0.0.1/tcp/1/p2p/{key('nobody').peer_id}"]

    with pytest.raises(SwarmError):
        Host.start(
            key("failing"),
            PeerIdentity(swarm="game", protocol="p1", name="failing"),
            network=NetworkOptions(join=join, join_timeout_s=0.5),
        )

    after = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "pid="], capture_output=True, text=True).stdout
    assert len(after.split()) == len(before.split())
    with key("failing").held():
        pass
