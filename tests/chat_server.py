"""An OpenAI-compatible endpoint on loopback that follows a script and counts requests."""

import json
import select
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal

from local_server import LocalServer


@dataclass(frozen=True, slots=True)
class Step:
    """The reaction to one request: a response, no answer at all (`hang`), or a closed connection (`drop`)."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    act: Literal["answer", "hang", "drop"] = "answer"


HANG, DROP = Step(act="hang"), Step(act="drop")


def says(text: object, finish_reason: str = "stop") -> Step:
    """Return a well-formed chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return Step(body=json.dumps({"object": "chat.completion", "choices": [choice]}).encode())


def status(code: int, message: str = "", **headers: str) -> Step:
    """Return an error response; underscores in header names stand for hyphens (`Retry_After`)."""
    body = json.dumps({"error": {"message": message}}).encode()
    return Step(code, body, {name.replace("_", "-"): value for name, value in headers.items()})


@dataclass(frozen=True, slots=True)
class Seen:
    """One received request."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        """The last message."""
        return str(self.body["messages"][-1]["content"])


class ChatServer(LocalServer):
    """A server that answers `script(request, number of earlier requests with the same messages)`."""

    def __init__(self) -> None:
        self.script: Callable[[Seen, int], Step] = lambda seen, before: says("Score: 10")
        self.seen: list[Seen] = []
        self.in_flight = self.most_in_flight = 0
        self._lock = threading.Lock()
        super().__init__(_handler(self))

    @property
    def url(self) -> str:
        """The endpoint URL for a graph file."""
        return f"{super().url}/v1"

    def answers(self, plan: dict[str, list[Step]]) -> None:
        """Set the script: a prompt that contains a key gets the steps of that key, one after the other."""
        self.script = lambda seen, before: next(steps for key, steps in plan.items() if key in seen.prompt)[before]

    def take(self, seen: Seen) -> Step:
        """Count a request and return its step."""
        with self._lock:
            before = sum(other.body.get("messages") == seen.body.get("messages") for other in self.seen)
            self.seen.append(seen)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        return self.script(seen, before)

    def done(self) -> None:
        """Count a request as finished."""
        with self._lock:
            self.in_flight -= 1


def _handler(server: ChatServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            step = server.take(Seen(self.path, dict(self.headers), body))
            if step.act == "hang":
                select.select([self.connection], [], [], 30.0)  # until the client has gone
            server.done()  # before the answer leaves: the next request may come at once
            if step.act != "answer":
                self.close_connection = True
                return
            self.send_response(step.status)
            for name, value in step.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(step.body)))
            self.end_headers()
            self.wfile.write(step.body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
