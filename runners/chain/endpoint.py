"""A JSON-RPC endpoint of a chain through web3; whatever goes wrong there is one line of two kinds."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from web3 import Web3
from web3.exceptions import ContractLogicError, TransactionNotFound, Web3Exception, Web3RPCError
from web3.providers.base import BaseProvider

from genrl_graph.errors import ChainError
from genrl_graph.runners.chain.abi import named_in, reason_of

T = TypeVar("T")
MAX_RETRY_AFTER_S = 60.0


class ChainDown(ChainError):
    """The endpoint cannot be used at the moment; `retry_after_s` is what it asked for, 0 if nothing."""

    def __init__(self, text: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class Reverted(Exception):
    """The contract refuses a call; `reason` is the name of its error, a text, or "" where it says nothing."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason or "no reason given")
        self.reason = reason


class Refused(Exception):
    """The endpoint refuses a transaction: its nonce, its fee, or the balance of the wallet."""


class Endpoint:
    """Asks one endpoint. `where` names it in errors: without path and query, which may hold an access key.

    Methods raise `ChainDown` where it is unreachable, slow, limits the rate or answers nonsense, and `Reverted` where
    the contract refuses.
    """

    def __init__(self, provider: BaseProvider, *, where: str) -> None:
        self._eth = Web3(provider).eth
        self.where = where

    @classmethod
    def at(cls, url: str, *, timeout_s: float) -> "Endpoint":
        """Return the endpoint at an http address."""
        provider = Web3.HTTPProvider(url, request_kwargs={"timeout": timeout_s}, exception_retry_configuration=None)
        return cls(provider, where=shown(url))

    def chain_id(self) -> int:
        """Return the id of the chain."""
        return self._ask(lambda: int(self._eth.chain_id))

    def block_number(self) -> int:
        """Return the number of the newest block."""
        return self._ask(lambda: int(self._eth.block_number))

    def code(self, address: str) -> bytes:
        """Return the code at an address, empty where no contract is."""
        return self._ask(lambda: bytes(self._eth.get_code(_checked(address))))

    def call(self, to: str, data: bytes, *, sender: str | None = None) -> bytes:
        """Call a contract without a transaction, as if `sender` did; raises `Reverted`."""
        return self._ask(lambda: bytes(self._eth.call(_transaction(to, data, sender))))

    def gas(self, to: str, data: bytes, *, sender: str) -> int:
        """Estimate the gas of a transaction; raises `Reverted`."""
        return self._ask(lambda: int(self._eth.estimate_gas(_transaction(to, data, sender))))

    def fees(self) -> tuple[int, int]:
        """Return the base fee of the newest block, and a tip for the next one, in wei per gas."""

        def ask() -> tuple[int, int]:
            block = self._eth.get_block("latest")
            base = int(block.get("baseFeePerGas", 0) or self._eth.gas_price)
            try:
                tip = int(self._eth.max_priority_fee)
            except (Web3Exception, ValueError, NotImplementedError):
                tip = 10**9
            return base, tip

        return self._ask(ask)

    def nonce(self, address: str, *, pending: bool) -> int:
        """Return the nonce of the next transaction: after those that are mined, or also after the waiting ones."""
        at = "pending" if pending else "latest"
        return self._ask(lambda: int(self._eth.get_transaction_count(_checked(address), at)))

    def balance(self, address: str) -> int:
        """Return the balance of an account in wei."""
        return self._ask(lambda: int(self._eth.get_balance(_checked(address))))

    def send(self, raw: bytes) -> None:
        """Send a signed transaction; one that is known already is no error. Raises `Refused`."""
        try:
            self._ask(lambda: self._eth.send_raw_transaction(raw))
        except Refused as refused:
            if "already known" not in str(refused) and "known transaction" not in str(refused).lower():
                raise

    def receipt(self, hash: str) -> Mapping[str, Any] | None:
        """Return the receipt of a transaction, None where it is not mined."""
        return self._ask(lambda: _or_none(lambda: self._eth.get_transaction_receipt(hash)))

    def is_known(self, hash: str) -> bool:
        """Return whether the endpoint has the transaction, mined or waiting."""
        return self._ask(lambda: _or_none(lambda: self._eth.get_transaction(hash))) is not None

    def logs(self, address: str, topic: bytes, first: int, last: int) -> list[Mapping[str, Any]]:
        """Return the logs of a contract with a first topic, in the blocks `first` to `last`."""
        wanted = {"address": _checked(address), "topics": ["0x" + topic.hex()], "fromBlock": first, "toBlock": last}
        return self._ask(lambda: list(self._eth.get_logs(wanted)))

    def _ask(self, ask: Callable[[], T]) -> T:
        with self._errors():
            return ask()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the many errors of web3 and requests into those of this module."""
        try:
            yield
        except ContractLogicError as error:
            raise Reverted(_revert_reason(error)) from None
        except requests.exceptions.Timeout as error:
            raise ChainDown(f"{self.where}: does not answer in time") from error
        except requests.exceptions.HTTPError as error:
            raise _http_error(self.where, error) from error
        except requests.exceptions.RequestException as error:
            raise ChainDown(f"{self.where}: cannot be reached") from error
        except Web3RPCError as error:
            raise _rpc_error(self.where, error) from None
        except (Web3Exception, ValueError, TypeError, KeyError, AttributeError) as error:
            what = " ".join(str(error).split())[:160]
            raise ChainDown(f"{self.where}: is no endpoint of a chain, it answers nonsense: {what}") from error


def shown(url: str) -> str:
    """Return an address without user, path and query."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}"


def _transaction(to: str, data: bytes, sender: str | None) -> Any:
    return {"to": _checked(to), "data": "0x" + data.hex(), **({"from": _checked(sender)} if sender else {})}


def _checked(address: str) -> Any:
    return Web3.to_checksum_address(address)


def _or_none(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except TransactionNotFound:
        return None


def _revert_reason(error: ContractLogicError) -> str:
    data = error.data
    text = data.get("data", "") if isinstance(data, dict) else data
    if isinstance(text, str) and text.startswith("0x") and len(text) > 2:
        try:
            return reason_of(bytes.fromhex(text[2:]))
        except ValueError:
            return text[:80]
    message = str(error.message or "")
    reason = message.removeprefix("execution reverted").strip(": ")
    return named_in(message) or ("" if reason == "no data" else reason)


def _http_error(where: str, error: requests.exceptions.HTTPError) -> ChainDown:
    response = error.response
    status = response.status_code if response is not None else 0
    if status == 429:
        try:
            seconds = float(response.headers.get("Retry-After", 0))
        except ValueError:
            seconds = 0.0
        seconds = min(max(seconds, 0.0), MAX_RETRY_AFTER_S)
        return ChainDown(f"{where}: limits the rate (HTTP 429)", retry_after_s=seconds)
    return ChainDown(f"{where}: answers HTTP {status}")


def _rpc_error(where: str, error: Web3RPCError) -> Exception:
    """Return the error of a JSON-RPC answer: a revert, a refused transaction, or a fault of the endpoint."""
    response: Any = error.rpc_response or {}
    details = response.get("error", {}) if isinstance(response, dict) else {}
    message = str(details.get("message", error.message) if isinstance(details, dict) else details)
    message = " ".join(message.split())[:160]
    lowered = message.lower()
    if "revert" in lowered:
        return Reverted(named_in(message) or "")
    if isinstance(details, dict) and details.get("code") in (-32005, 429):
        return ChainDown(f"{where}: limits the rate: {message}")
    if any(word in lowered for word in ("nonce", "underpriced", "insufficient funds", "known", "fee", "gas")):
        return Refused(message)
    return ChainDown(f"{where}: answers with an error: {message}")
