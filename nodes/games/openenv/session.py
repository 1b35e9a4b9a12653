"""A session of an OpenEnv server: a WebSocket over which one episode is played, within limits of bytes and seconds."""

import socket
import time
import weakref
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from json import dumps
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from genrl_graph.errors import DataError
from genrl_graph.messages import escaped
from genrl_graph.nodes.endpoint.client import read_key
from genrl_graph.nodes.games.game import EpisodeLost, GameError
from genrl_graph.nodes.games.openenv.params import OpenEnvParams
from genrl_graph.store.strict_json import bounded_json

if TYPE_CHECKING:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import ClientConnection

MOST_BYTES = 2**22
"""Largest message of a server that is read."""
SHOWN_CHARACTERS = 200
PAUSE_S = 0.1
"""Seconds before a server that does not let a session begin is tried again; doubled each time."""
MOST_PAUSE_S = 2.0
AGAIN_S = 1.0
"""Seconds for which a server is waited for that was waited for in vain before."""
CLOSE_S = 1.0
_BROKEN = (1002, 1007, 1009)  # codes with which our side closes: a frame, a text or a size that is not allowed
_unreachable: set[str] = set()  # servers that were waited for in vain, until they begin a session


class SessionRefused(GameError):
    """Raised if a server does not let a session begin; `waits` if it may do so later."""

    def __init__(self, reason: str, *, waits: bool) -> None:
        super().__init__(reason)
        self.waits = waits


class Session:
    """An open WebSocket, closed when this object is gone.

    Redirects are not followed, no proxy is used, and no message is compressed. A thread of the library answers pings
    while a policy speaks.
    """

    def __init__(self, params: OpenEnvParams, *, seconds: float) -> None:
        self._restarts, self._timeout_s = params.restarts, params.timeout_s
        stack = ExitStack()
        self.close = weakref.finalize(self, stack.close)
        self.close.atexit = False  # the end of the process closes them all at once
        self._socket = _connected(params, stack, seconds)

    def send(self, message: dict[str, Any]) -> None:
        """Send a request; if the connection is gone, `receive` tells, after what the server has said before."""
        from websockets.exceptions import ConnectionClosed

        with suppress(ConnectionClosed):
            self._socket.send(dumps(message))

    def receive(self, until: float) -> Any:
        """Return the JSON of the next message, at most until a monotonic time.

        Raises `EpisodeLost` if the connection is gone, and `GameError` for a message that is late, too long or no JSON.
        """
        from websockets.exceptions import ConnectionClosed

        try:
            data = self._socket.recv(timeout=max(until - time.monotonic(), 0.0))
        except TimeoutError:
            raise GameError(f"the server did not answer within {self._timeout_s:g} s") from None
        except ConnectionClosed as error:
            raise self._lost(error) from error
        try:
            return bounded_json(data)
        except ValueError as error:
            raise GameError(f"the server sends no JSON that is read ({error}): {preview(data)}") from error

    def _lost(self, error: "ConnectionClosed") -> GameError:
        if error.sent is not None and error.sent.code in _BROKEN and not error.rcvd_then_sent:
            return GameError(f"the server sends what is not read: {error.sent.reason} (at most {MOST_BYTES} bytes)")
        return EpisodeLost(f"the server closed the connection ({_shown(error)})", restarts=self._restarts)


def ask(params: OpenEnvParams, request: dict[str, Any], *, seconds: float) -> Session:
    """Return a new session to which a request was sent; raises `SessionRefused`."""
    session = Session(params, seconds=seconds)
    session.send(request)
    return session


def begin(
    params: OpenEnvParams, request: dict[str, Any], *, asked: Session | None = None, waits: bool = True
) -> tuple[Session, Any]:
    """Return a session, `asked` or a new one, and the reply to its first request.

    With `waits` a server that is away or full is waited for: `timeout_s`, or `AGAIN_S` after one that was waited for in
    vain. Raises `SessionRefused` if it stays so, and `GameError` as `Session` does.
    """
    seconds = min(AGAIN_S, params.timeout_s) if params.url in _unreachable else params.timeout_s
    until, pause_s = time.monotonic() + seconds, PAUSE_S
    while True:
        try:
            session = asked or ask(params, request, seconds=max(until - time.monotonic(), PAUSE_S))
            reply = _first_reply(params, session)
        except SessionRefused as error:
            asked = None
            if not (waits and error.waits and time.monotonic() + pause_s < until):
                _unreachable.add(params.url)
                raise
        else:
            _unreachable.discard(params.url)
            return session, reply
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, MOST_PAUSE_S)


def _first_reply(params: OpenEnvParams, session: Session) -> Any:
    """Return the reply to the first request of a session; raises `SessionRefused` if the server has none for it."""
    reply = session.receive(time.monotonic() + params.timeout_s)
    match reply:
        case {"type": "error", "data": {"code": "CAPACITY_REACHED" | "FACTORY_ERROR" as code, **rest}}:
            advice = "; lower num_envs, or raise its max_concurrent_envs" if code == "CAPACITY_REACHED" else ""
            reason = f"the server begins no session: {code}: {preview(rest.get('message', ''))}{advice}"
            raise SessionRefused(reason, waits=code == "CAPACITY_REACHED")
    return reply


def preview(data: object) -> str:
    """Return the beginning of what a server sent, for a message."""
    text = data.decode(errors="replace") if isinstance(data, bytes) else str(data)
    plain = escaped(" ".join(text[: 2 * SHOWN_CHARACTERS].split()))
    return repr(plain if len(plain) <= SHOWN_CHARACTERS else f"{plain[:SHOWN_CHARACTERS]}...")


def headers(params: OpenEnvParams) -> dict[str, str]:
    """Return the headers of a request to the server; raises `ParamError` if the variable of the key holds none."""
    key = read_key(params.api_key_env)
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def require_websockets(where: str) -> None:
    """Raise `DataError` if the library is not installed."""
    if find_spec("websockets") is None:
        raise DataError(f"{where}: websockets is not installed; pip install 'genrl-graph[openenv]'")


def _connected(params: OpenEnvParams, stack: ExitStack, seconds: float) -> "ClientConnection":
    """Connect, and let `stack` close the connection; raises `SessionRefused`."""
    from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidStatus
    from websockets.sync.client import connect

    parts = urlsplit(params.url)
    secure = parts.scheme == "https"
    try:
        # a socket of ours: the library follows no redirect with it, and asks no proxy
        plain = socket.create_connection((parts.hostname, parts.port or (443 if secure else 80)), timeout=seconds)
        stack.callback(plain.close)
        plain.settimeout(None)
        opening = connect(
            f"{'wss' if secure else 'ws'}://{parts.netloc}{parts.path}/ws",
            sock=plain,
            additional_headers=headers(params),
            compression=None,
            open_timeout=seconds,
            close_timeout=CLOSE_S,
            ping_interval=None,
            max_size=MOST_BYTES,
            max_queue=2,
        )
        return stack.enter_context(opening)
    except InvalidStatus as error:
        status = error.response.status_code
        raise SessionRefused(f"{params.url}/ws answers {status}, no WebSocket", waits=status >= 500) from error
    except InvalidHandshake as error:
        waits = isinstance(error, InvalidMessage)  # also where a server ends as it is asked
        raise SessionRefused(f"{params.url}/ws opens no WebSocket: {preview(error)}", waits=waits) from error
    except (OSError, ValueError) as error:  # of these a time-out
        reason = getattr(error, "strerror", None) or preview(error)
        raise SessionRefused(
            f"no server answers at {params.url} ({reason})", waits=isinstance(error, OSError)
        ) from error


def _shown(error: "ConnectionClosed") -> str:
    if error.rcvd is None:
        return "without a close frame"
    return f"{error.rcvd.code} {escaped(error.rcvd.reason[:SHOWN_CHARACTERS])}".strip()
