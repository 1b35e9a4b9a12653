"""The served chain: what it answers over HTTP, and that a file keeps it through a restart."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from chains import Chain

from genrl_graph.runners.chain import abi
from genrl_graph.runners.chain.contract_client import ContractClient
from genrl_graph.runners.chain.endpoint import Endpoint
from genrl_graph.runners.chain.node import ChainNode, NodeProvider
from genrl_graph.runners.chain.sending import fees_of
from genrl_graph.runners.chain.serve import serving


def ask(url: str, body: bytes) -> Any:
    """Post a body and return the JSON of the answer, also of an HTTP error."""
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.load(error)


def request(method: str, *params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": list(params)}


def test_it_answers_as_json_rpc_does(chain: Chain) -> None:
    client = chain.deploy()
    register = "0x" + abi.encode_call(abi.ADVANCE, ()).hex()
    call = {"to": client.address, "data": register, "from": "0x" + "11" * 20}
    with serving(chain.node) as url:
        assert ask(url, json.dumps(request("eth_chainId")).encode())["result"] == hex(chain.node.chain_id)
        reverted = ask(url, json.dumps(request("eth_call", call, "latest")).encode())["error"]
        assert reverted["data"] == "0x" + abi.selector("OnlyStageManager()").hex()
        batch = [request("eth_blockNumber"), request("evm_mine"), "nonsense"]
        answers = ask(url, json.dumps(batch).encode())
        assert [answer.get("error", {}).get("code") for answer in answers] == [None, -32601, -32600]
        assert ask(url, b"{")["error"]["code"] == -32700
        assert ask(url, json.dumps(request("eth_sendRawTransaction", "0x00")).encode())["error"]["code"] == -32000


def test_a_file_keeps_the_chain(tmp_path: Path) -> None:
    wallet, state = Chain.wallet(9), tmp_path / "state"
    for peer in ("ann", "bob"):
        node = ChainNode(wallet.address, state=state)
        endpoint = Endpoint(NodeProvider(node), where="node")
        client = ContractClient(endpoint, node.contract)
        data = abi.encode_call(abi.REGISTER, (peer,))
        nonce = endpoint.nonce(wallet.address, pending=True)
        sent = {"to": client.address, "data": "0x" + data.hex(), "value": 0, "nonce": nonce, "gas": 500_000}
        endpoint.send(wallet.sign(sent | {"chainId": node.chain_id, **fees_of(endpoint)})[0])
        node.close()
    assert client.read("peerCount()", ("uint256",)) == 2
    with state.open("ab") as file:
        file.write(b'{"raw": "0x')  # a crash tore the last line
    again = ChainNode("0x" + "22" * 20, state=state)
    assert again.owner == wallet.address
    assert again.contract == client.address


@pytest.mark.parametrize(
    "used",
    [
        "import genrl_graph.runners.chain.node",
        "from genrl_graph.cli import run_command; assert run_command(['chain', 'status', 'nowhere'])",
    ],
    ids=["module", "command"],
)
def test_the_libraries_leave_the_limit_of_recursion(used: str) -> None:
    script = f"import sys; limit = sys.getrecursionlimit(); {used}; assert sys.getrecursionlimit() == limit"
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=120)
