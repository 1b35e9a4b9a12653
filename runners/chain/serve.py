"""Serve a chain over JSON-RPC on loopback: HTTP POST, single requests and batches."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from genrl_graph.errors import ChainError
from genrl_graph.runners.chain.node import ChainNode

HOST = "127.0.0.1"
MAX_REQUEST_BYTES = 1 << 20
MAX_BATCH = 100


class _Handler(BaseHTTPRequestHandler):
    """Answers JSON-RPC requests; `node` is set by `serving`."""

    protocol_version = "HTTP/1.1"
    node: ChainNode

    def do_POST(self) -> None:  # the name that http.server wants
        """Answer one request, or a batch."""
        try:
            size = int(self.headers.get("Content-Length", ""))
        except ValueError:
            size = -1
        if not 0 <= size <= MAX_REQUEST_BYTES:
            self.close_connection = True
            self._reply(413, _error(None, -32600, f"a request of {size} bytes; at most {MAX_REQUEST_BYTES} are taken"))
            return
        try:
            request = json.loads(self.rfile.read(size))
        except ValueError:
            self._reply(400, _error(None, -32700, "is no JSON"))
            return
        if isinstance(request, list):
            self._reply(200, [self._answer(each) for each in request[:MAX_BATCH]])
        else:
            self._reply(200, self._answer(request))

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: requests hold nothing that an operator needs."""

    def _answer(self, request: Any) -> dict[str, Any]:
        if not (isinstance(request, dict) and isinstance(request.get("method"), str)):
            return _error(None, -32600, "is no request")
        params = request.get("params", [])
        if not isinstance(params, list):
            return _error(request.get("id"), -32602, "wants a list of params")
        return {"jsonrpc": "2.0", "id": request.get("id"), **self.node.handle(request["method"], params)}

    def _reply(self, status: int, answer: Any) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that hang up."""


@contextmanager
def serving(node: ChainNode, *, port: int = 0) -> Iterator[str]:
    """Serve a chain while the block runs, at a free port by default; yields its address.

    Raises `ChainError` where the port is taken.
    """
    handler = type("Handler", (_Handler,), {"node": node})
    try:
        server = _Server((HOST, port), handler)
    except OSError as error:
        raise ChainError(f"--port {port}: cannot be used: {error.strerror}; give another one, or 0 for any") from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _error(id: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}}
