"""A chain in this process: eth-tester behind the interface of a JSON-RPC endpoint, for laptops and tests.

Everything on it is gone with the process, unless its transactions are written to a file that the next one replays.
"""

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eth.vm.spoof import SpoofTransaction as EVMSpoofTransaction
from eth_tester import EthereumTester, PyEVMBackend
from eth_tester.exceptions import TransactionFailed
from web3 import EthereumTesterProvider, Web3
from web3.providers.base import BaseProvider

from genrl_graph.errors import ParamError
from genrl_graph.runners.chain.deploy import creation_code

FUNDS = 10**20  # wei of a funded account: 100 ether, of which a report costs a hundred-thousandth
READ_ONLY = frozenset(
    {"eth_chainId", "eth_blockNumber", "eth_call", "eth_estimateGas", "eth_feeHistory", "eth_gasPrice"}
    | {"eth_getBalance", "eth_getBlockByNumber", "eth_getBlockByHash", "eth_getCode", "eth_getLogs"}
    | {"eth_getTransactionByHash", "eth_getTransactionCount", "eth_getTransactionReceipt", "eth_maxPriorityFeePerGas"}
    | {"net_version", "web3_clientVersion"}
)


class _Backend(PyEVMBackend):  # type: ignore[misc]  # has no types
    """py-evm whose calls cost nothing, as on every node, and whose reverts keep the bytes that the contract gave."""

    def call(self, transaction: dict[str, Any], block_number: Any = "latest") -> bytes:
        """Return what a call gives; raises `TransactionFailed` with the bytes of a revert."""
        computation = self._executed(transaction, block_number)[1]
        if computation.is_error:
            raise TransactionFailed(computation.output)
        return bytes(computation.output)

    def estimate_gas(self, transaction: dict[str, Any], block_number: Any = "latest") -> int:
        """Return the gas that a transaction uses, before refunds; one execution, where py-evm searches by halves."""
        unsigned, computation = self._executed(transaction, block_number)
        if computation.is_error:
            raise TransactionFailed(computation.output)
        return int(unsigned.intrinsic_gas + computation.get_gas_used())

    def _executed(self, transaction: dict[str, Any], block_number: Any) -> tuple[Any, Any]:
        """Execute a transaction without its costs and effects; returns it as py-evm has it, and what came of it."""
        unpaid = {name: value for name, value in transaction.items() if not name.startswith("max_")}
        wanted = {"gas": self._max_available_gas(), "gas_price": 0, **unpaid}
        unsigned = self._get_normalized_and_unsigned_evm_transaction(wanted, block_number)
        spoofed = EVMSpoofTransaction(unsigned, from_=transaction["from"])
        with self.chain.get_vm().in_costless_state() as state:
            return unsigned, state.costless_execute_transaction(spoofed)


class ChainNode:
    """A chain with our contract on it, whose owner is `owner`; thread-safe.

    `handle` answers as a JSON-RPC server does. With `state`, a file, accepted transactions are written to it, and a
    node that opens the same file again has the same chain.
    """

    def __init__(self, owner: str, *, stages: int = 1, state: Path | None = None) -> None:
        self.tester = EthereumTester(_Backend())
        self._provider = EthereumTesterProvider(self.tester)
        self._lock = threading.RLock()
        w3 = Web3(self._provider, middleware=[])
        self._ask: Callable[[Any, Any], Any] = self._provider.request_func(w3, w3.middleware_onion)
        self._bank = self.tester.get_accounts()[0]
        self._state: int | None = None
        self._funded: set[str] = set()
        self.chain_id = int(w3.eth.chain_id)
        known = [] if state is None else _read_state(state)
        if known:
            owner, stages = known[0]["owner"], known[0]["stages"]
        self.owner = owner
        self.contract = self.deploy(creation_code(owner, stages=stages))
        for line in known[1:]:
            self._again(line)
        if state is not None:
            self._state = os.open(state, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            os.ftruncate(self._state, _whole_bytes(state))
            if not known:
                self._write({"owner": owner, "stages": stages})
        self.fund(owner)

    def fund(self, address: str) -> None:
        """Give an account some ether, once."""
        address = Web3.to_checksum_address(address)
        with self._lock:
            if address not in self._funded:
                self._funded.add(address)
                self._pay(address)
                self._write({"fund": address})

    def deploy(self, code: bytes) -> str:
        """Deploy the code of a contract, and return its address."""
        with self._lock:
            sent = {"from": self._bank, "data": "0x" + code.hex(), "gas": 12_000_000, "gas_price": 10**11}
            receipt = self.tester.get_transaction_receipt(self.tester.send_transaction(sent))
            assert receipt["status"] == 1, "our contract can be deployed"
            return str(receipt["contract_address"])

    def handle(self, method: str, params: Sequence[Any]) -> dict[str, Any]:
        """Return the `result` or the `error` of a request, in the types of JSON."""
        if method not in READ_ONLY and method != "eth_sendRawTransaction":
            return {"error": {"code": -32601, "message": f"the method {method[:60]} does not exist here"}}
        with self._lock:
            try:
                answer = self._ask(method, list(params))
            except TransactionFailed as error:
                return {"error": _reverted(error)}
            except Exception as error:  # of many libraries, about what a client sent: an answer, as on every node
                return {"error": {"code": -32000, "message": _named(" ".join(str(error).split()))}}
            if "error" in answer:
                return {"error": {"code": -32000, "message": _named(str(answer["error"]))}}
            if method == "eth_sendRawTransaction":
                self._write({"raw": params[0]})
            return {"result": _plain(answer.get("result"))}

    def close(self) -> None:
        """Close the file of transactions."""
        if self._state is not None:
            os.close(self._state)
            self._state = None

    def _pay(self, address: str) -> None:
        sent = {"from": self._bank, "to": address, "value": FUNDS, "gas": 21_000, "gas_price": 10**11}
        self.tester.send_transaction(sent)

    def _again(self, line: Mapping[str, Any]) -> None:
        if "fund" in line:
            self._funded.add(line["fund"])
            self._pay(line["fund"])
        else:
            self._ask("eth_sendRawTransaction", [line["raw"]])

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._state is not None:
            os.write(self._state, (json.dumps(line) + "\n").encode())
            os.fsync(self._state)


class NodeProvider(BaseProvider):  # type: ignore[misc]  # has no types
    """Lets web3 ask a chain of this process."""

    def __init__(self, node: ChainNode) -> None:
        super().__init__()
        self._node = node

    def make_request(self, method: Any, params: Any) -> Any:
        """Return the answer to a request."""
        return {"jsonrpc": "2.0", "id": 1, **self._node.handle(str(method), params)}

    def is_connected(self, show_traceback: bool = False) -> bool:
        """Return true: it is in this process."""
        return True


def _read_state(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of transactions; a last line that a crash tore is left out."""
    if not path.exists():
        return []
    try:
        lines = [json.loads(line) for line in path.read_bytes()[: _whole_bytes(path)].splitlines()]
    except ValueError as error:
        raise ParamError(f"--state {path}: is no file of transactions; name another one") from error
    if lines and not {"owner", "stages"} <= lines[0].keys():
        raise ParamError(f"--state {path}: is no file of transactions; name another one")
    return lines


def _whole_bytes(path: Path) -> int:
    """Return the size of a file up to its last whole line."""
    return path.read_bytes().rfind(b"\n") + 1


def _reverted(error: TransactionFailed) -> dict[str, Any]:
    """Return the error of a revert as nodes give it: with the bytes that the contract gave."""
    data: Any = getattr(error.__context__, "args", [b""])[0]
    data = data.args[0] if isinstance(data, Exception) and data.args else data
    data = data if isinstance(data, bytes) else b""
    return {"code": 3, "message": "execution reverted", "data": "0x" + data.hex()}


def _named(message: str) -> str:
    """Return the words that other nodes have for an error, where a client has to tell it from others."""
    if "cannot afford" in message or "Sender account balance" in message or "insufficient" in message.lower():
        return f"insufficient funds: {message}"[:300]
    return message[:300]


def _plain(value: Any) -> Any:
    """Return a value of eth-tester as JSON-RPC has it: numbers and bytes in hexadecimal."""
    if isinstance(value, bool) or value is None or isinstance(value, str | float):
        return value
    if isinstance(value, int):
        return hex(value)
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value]
