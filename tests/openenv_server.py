"""A server on loopback that speaks the protocol of OpenEnv, honestly or not; `OpenEnvServer.stop` kills it."""

import json
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, Self

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

LOST = object()
"""Reply that loses a session: its socket ends without a close frame."""
ACTION = {"type": "object", "properties": {"guess": {"type": "integer"}, "metadata": {}}, "required": ["guess"]}


class Environment(Protocol):
    """One session; both methods return a reply's data, a whole message as text or bytes, or `LOST`, or raise."""

    def reset(self, data: Mapping[str, Any]) -> Any: ...

    def step(self, data: Mapping[str, Any]) -> Any: ...


def observed(done: bool = False, reward: float | None = None, **observation: Any) -> dict[str, Any]:
    """Return the data of a reply."""
    return {"observation": observation, "reward": reward, "done": done}


class Digit:
    """Guess a digit that the seed decides, in at most four guesses; `<` says that it is lower."""

    def reset(self, data: Mapping[str, Any]) -> Any:
        self.secret, self.left = int(data["seed"]) * 7 % 10, 4
        return observed(prompt="?")

    def step(self, data: Mapping[str, Any]) -> Any:
        guess = int(data["guess"])
        self.left -= 1
        right = guess == self.secret
        return observed(right or not self.left, float(right), prompt="<" if guess > self.secret else ">")


class OpenEnvServer:
    """A server of one environment; `port` is kept when it begins again. `sessions` counts those that were opened."""

    def __init__(
        self,
        make: Callable[[], Environment] = Digit,
        *,
        most: int = 64,
        schema: str | None = json.dumps({"action": ACTION, "observation": {}, "state": {}}),
        pages: Mapping[str, int] | None = None,
    ) -> None:
        self.make, self.most, self.schema, self.pages = make, most, schema, dict(pages or {})
        self.opened: set[socket.socket] = set()
        self.sessions = self.most_at_once = 0
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.port = 0
        self._lock = threading.Lock()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen; after `stop` at the same port."""
        self._server = serve(
            self._play, "127.0.0.1", self.port, process_request=self._page, compression=None, ping_interval=None
        )
        self.port = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        """End as a killed process does: every socket at once, without a word."""
        self._server.socket.close()
        for one in list(self.opened):
            _cut(one)
        self._server.shutdown()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _page(self, connection: ServerConnection, request: Request) -> Response | None:
        self.headers.append({name.lower(): value for name, value in request.headers.raw_items()})
        if request.path in self.pages:
            return connection.respond(self.pages[request.path], "no")
        if request.path == "/schema" and self.schema is not None:
            return connection.respond(200, self.schema)
        return None if request.path == "/ws" else connection.respond(404, "not found")

    def _play(self, connection: ServerConnection) -> None:
        with self._lock:
            full = len(self.opened) >= self.most
            self.sessions += 1
            if not full:
                self.opened.add(connection.socket)
            self.most_at_once = max(self.most_at_once, len(self.opened))
        try:
            if full:
                connection.send(error("CAPACITY_REACHED", f"{self.most} of {self.most} sessions"))
            else:
                self._serve(connection)
        except (ConnectionClosed, OSError):
            pass
        finally:
            with self._lock:
                self.opened.discard(connection.socket)

    def _serve(self, connection: ServerConnection) -> None:
        environment = self.make()
        for text in connection:
            message = json.loads(text)
            self.seen.append(message)
            try:
                asked = environment.reset if message["type"] == "reset" else environment.step
                reply = asked(message["data"])
            except (KeyError, ValueError) as failure:
                reply = error("EXECUTION_ERROR", str(failure))
            if reply is LOST:
                _cut(connection.socket)
                return
            connection.send(json.dumps({"type": "observation", "data": reply}) if isinstance(reply, dict) else reply)


def error(code: str, message: str) -> str:
    """Return a message that reports an error."""
    return json.dumps({"type": "error", "data": {"message": message, "code": code}})


def _cut(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
