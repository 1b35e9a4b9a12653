"""What an endpoint does wrong is one line without its path; a proxy is asked as the contract would be."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from genrl_graph.runners.chain import abi
from genrl_graph.runners.chain.contract_client import Call, Verdict
from genrl_graph.runners.chain.endpoint import ChainDown, Endpoint
from genrl_graph.runners.chain.proxy import Proxy


class Answers(BaseHTTPRequestHandler):
    """Answers each path in its own way, and keeps what it was sent."""

    asked: list[tuple[str, dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        kind = self.path.split("/")[1]
        if kind == "slow":
            time.sleep(0.6)
        status, headers, text = {
            "limited": (429, {"Retry-After": "7"}, "no"),
            "broken": (503, {}, "no"),
            "garbage": (200, {}, "<html>"),
            "error": (
                200,
                {},
                json.dumps({"jsonrpc": "2.0", "id": body.get("id"), "error": {"code": 1, "message": "x"}}),
            ),
            "refusing": (500, {}, "execution reverted: WinnerAlreadyVoted"),
        }.get(kind, (200, {}, "{}"))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of a server that answers as `Answers` says."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("limited", "limits the rate (HTTP 429)"),
        ("broken", "answers HTTP 503"),
        ("garbage", "is no endpoint of a chain, it answers nonsense"),
        ("error", "answers with an error: x"),
        ("slow", "does not answer in time"),
    ],
)
def test_each_fault_is_one_line_without_the_path(url: str, kind: str, what: str) -> None:
    endpoint = Endpoint.at(f"{url}/{kind}/access-key-77", timeout_s=0.3)
    with pytest.raises(ChainDown) as down:
        endpoint.chain_id()
    text = str(down.value)
    assert text.startswith(f"{url}: {what}")
    assert "access-key-77" not in text
    assert "\n" not in text
    assert down.value.retry_after_s == (7.0 if kind == "limited" else 0.0)


def test_a_proxy_is_asked_for_what_the_contract_takes(url: str) -> None:
    proxy = Proxy(f"{url}/fine/key-5", "org-1", timeout_s=5.0)
    Answers.asked.clear()
    for call in (
        Call(abi.REGISTER, ("ann",)),
        Call(abi.REWARD, (3, 0, -7, "ann")),
        Call(abi.WINNERS, (3, ("bob",), "ann")),
    ):
        assert proxy.submit(call) == Verdict("open")
    assert Answers.asked == [
        ("/fine/key-5/register-peer", {"orgId": "org-1", "peerId": "ann"}),
        (
            "/fine/key-5/submit-reward",
            {"orgId": "org-1", "roundNumber": 3, "stageNumber": 0, "reward": -7, "peerId": "ann"},
        ),
        ("/fine/key-5/submit-winner", {"orgId": "org-1", "roundNumber": 3, "winners": ["bob"], "peerId": "ann"}),
    ]
    assert proxy.submit(Call(abi.ADVANCE, ())).outcome == "refused"


def test_what_a_proxy_refuses_is_told_apart_from_a_proxy_that_is_down(url: str) -> None:
    vote = Call(abi.WINNERS, (3, ("bob",), "ann"))
    assert Proxy(f"{url}/refusing", "o", timeout_s=5.0).submit(vote) == Verdict("later", "WinnerAlreadyVoted")
    with pytest.raises(ChainDown, match="answers HTTP 429") as down:
        Proxy(f"{url}/limited", "o", timeout_s=5.0).submit(vote)
    assert down.value.retry_after_s == 7.0
    with pytest.raises(ChainDown, match="cannot be reached"):
        Proxy("http://127.0.0.1:9", "o", timeout_s=5.0).submit(vote)
