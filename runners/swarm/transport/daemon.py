"""The libp2p daemon (p2pd) of one peer: a child process that never outlives the peer."""

import asyncio
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.resources import as_file, files
from pathlib import Path

from hivemind.p2p import P2P, PeerID
from hivemind.p2p.p2p_daemon_bindings.utils import raise_if_failed, read_pbmsg_safe, write_pbmsg
from hivemind.proto import p2pd_pb2
from hivemind.utils.multiaddr import Multiaddr

from genrl_graph.errors import SwarmError
from genrl_graph.messages import escaped
from genrl_graph.runners.swarm.transport.identity import Identity
from genrl_graph.runners.swarm.transport.network import NetworkOptions
from genrl_graph.runners.swarm.transport.sockets import new_socket, remove_dead_sockets

MAX_DHT_MESSAGE = 1 << 20  # bytes; the daemon drops longer calls of the DHT unread
STOP_S = 2.0
CHUNK = 1 << 18  # bytes that a stream writes at a time
LAUNCH = """
import ctypes, os, signal, sys
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: the kernel kills the daemon when its peer dies
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the peer has ended")
os.execv(sys.argv[2], sys.argv[2:])
"""


async def ask_daemon(p2p: P2P, request: p2pd_pb2.Request) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request to the daemon and check its response; return the connection, which is the caller's to close.

    hivemind's client does the same, but leaves the connection open on failure and cancellation. Raises
    `P2PDaemonError` where the daemon refuses.
    """
    reader, writer = await asyncio.open_unix_connection(p2p.daemon_listen_maddr["unix"], limit=4 * CHUNK)
    try:
        await write_pbmsg(writer, request)
        response = p2pd_pb2.Response()
        await read_pbmsg_safe(reader, response)
        raise_if_failed(response)
    except BaseException:
        writer.close()
        raise
    return reader, writer


async def dial(p2p: P2P, peer: PeerID, addresses: Iterable[Multiaddr]) -> None:
    """Connect to a peer at one of its addresses; raises `P2PDaemonError` where none answers."""
    wanted = p2pd_pb2.ConnectRequest(peer=peer.to_bytes(), addrs=[address.to_bytes() for address in addresses])
    _, writer = await ask_daemon(p2p, p2pd_pb2.Request(type=p2pd_pb2.Request.CONNECT, connect=wanted))
    writer.close()


class Daemon:
    """A running p2pd and its client; call `start` and `stop` on the same event loop."""

    def __init__(self, child: asyncio.subprocess.Process, socket: Path) -> None:
        self._child = child
        self._socket = socket
        self._said: deque[str] = deque(maxlen=20)
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read())
        self.p2p: P2P = None

    @classmethod
    async def start(cls, identity: Identity, network: NetworkOptions) -> "Daemon":
        """Start the daemon and connect to it.

        Raises:
            SwarmError: a port is taken, or the daemon did not start in time; the message quotes its last output.
        """
        network.require_free_ports()
        remove_dead_sockets()
        socket = new_socket()
        with as_file(files("hivemind.hivemind_cli") / "p2pd") as binary:
            command = [sys.executable, "-I", "-S", "-c", LAUNCH, str(os.getpid()), str(binary)]
            child = await asyncio.create_subprocess_exec(
                *command,
                *_flags(identity, network, socket),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=os.environ | {"GOLOG_LOG_LEVEL": os.environ.get("GOLOG_LOG_LEVEL", "error")},
                process_group=0,  # Ctrl-C in a terminal must reach the peer only, which still has to say goodbye
            )
        daemon = cls(child, socket)
        try:
            async with asyncio.timeout(network.start_timeout_s):
                await daemon._ready
                daemon.p2p = await P2P.replicate(Multiaddr(f"/unix{socket}"))
        except TimeoutError as error:
            await daemon.stop()
            raise SwarmError(
                f"libp2p daemon: not ready after {network.start_timeout_s:g} s ({daemon.last_words()})"
                "; is the machine overloaded? raise start_timeout_s"
            ) from error
        except BaseException:
            await daemon.stop()
            raise
        return daemon

    @property
    def running(self) -> bool:
        """Return whether the process is running."""
        return self._child.returncode is None

    @property
    def pid(self) -> int:
        """The process id of p2pd."""
        return self._child.pid

    def on_end(self, callback: Callable[[], object]) -> None:
        """Call `callback` on the loop once the process has ended, for whatever reason."""
        self._reader.add_done_callback(lambda _: callback())

    def last_words(self) -> str:
        """Return the exit code, if it has ended, with its last panic or its last line of output."""
        panics = [line for line in self._said if line.startswith("panic:")]
        code = "" if self._child.returncode is None else f"exit code {self._child.returncode}: "
        return code + (panics or list(self._said) or ["it said nothing"])[-1]

    async def stop(self) -> None:
        """End the process and remove its sockets, also while a process that it started holds its output open."""
        if self.p2p is not None:
            await self.p2p.shutdown()
        if self.running:
            self._child.terminate()
        for end in (self._child.kill, self._reader.cancel):
            if (await asyncio.wait({self._reader}, timeout=STOP_S))[0]:
                break
            with suppress(ProcessLookupError):
                end()
        self._socket.unlink(missing_ok=True)

    async def _read(self) -> None:
        """Read the output of the daemon until it ends: a full pipe would block it."""
        output = self._child.stdout
        assert output is not None
        while True:
            try:
                line = await output.readline()
            except ValueError:  # longer than the reader's limit; the next read returns the rest
                continue
            if not line:
                break
            text = line.decode(errors="replace").strip()
            if text:
                self._said.append(escaped(text))
            if text.startswith("Peer ID:") and not self._ready.done():
                self._ready.set_result(None)
        await self._child.wait()
        if not self._ready.done():
            self._ready.set_exception(SwarmError(f"libp2p daemon: did not start: {self.last_words()}"))
            self._ready.exception()  # marks it as retrieved, since a cancelled start never awaits it


def _flags(identity: Identity, network: NetworkOptions, socket: Path) -> list[str]:
    """Return the daemon's flags, without bootstrap peers: `MeetingPoint` dials them and reports failures."""
    relays = (network.trusted_relays or network.join) if network.use_auto_relay else ()  # else p2pd panics
    values: dict[str, object] = {
        "listen": f"/unix{socket}",
        "id": identity.path.resolve(),
        "hostAddrs": ",".join(network.listen),
        "announceAddrs": ",".join(network.announce),
        "trustedRelays": ",".join(relays),
        "autonat": int(network.auto_nat),
        "autoRelay": int(network.use_auto_relay),
        "relay": int(network.use_relay),
        "relayService": int(network.use_relay),
        "natPortMap": int(network.nat_port_map),
        "connManager": 1,
        "tls": 1,
        "idleTimeout": "30s",
        "persistentConnMaxMsgSize": MAX_DHT_MESSAGE,
        "dhtClient" if network.client_mode else "dhtServer": 1,
    }
    if not network.listen:
        values["noListenAddrs"] = 1
    if network.reachability != "auto":
        values[f"forceReachability{network.reachability.capitalize()}"] = 1
    return [f"-{name}={value}" for name, value in values.items() if value != ""]
