"""Sign, send and await single transactions: fees, refusals, receipts."""

import time
from collections.abc import Mapping
from typing import Any

from genrl_graph.errors import ChainError
from genrl_graph.runners.chain.endpoint import Endpoint, Refused
from genrl_graph.runners.chain.wallet import Wallet

POLL_S = 0.2


def fees_of(endpoint: Endpoint, *, above: int = 0) -> dict[str, int]:
    """Return the fees of a transaction: a tip, and at most twice the base fee; for a replacement, 25 % `above` a tip.

    Nodes replace a waiting transaction by one that pays at least 10 % more.
    """
    base, tip = endpoint.fees()
    tip = max(tip, above + above // 4)
    return {"maxPriorityFeePerGas": tip, "maxFeePerGas": 2 * base + tip + above // 4}


def send_signed(endpoint: Endpoint, raw: bytes, wallet: Wallet) -> None:
    """Send a transaction; raises `ChainError` where the wallet cannot pay for it."""
    try:
        endpoint.send(raw)
    except Refused as refused:
        if "insufficient funds" in str(refused).lower():
            raise ChainError(empty_wallet(endpoint, wallet)) from refused
        raise


def empty_wallet(endpoint: Endpoint, wallet: Wallet) -> str:
    """Return the line on a wallet that cannot pay for its transactions."""
    wei = endpoint.balance(wallet.address)
    return f"{endpoint.where}: wallet {wallet.address} has {wei / 1e18:g} ether, too little for gas; send it some"


def await_receipt(endpoint: Endpoint, hash: str, *, timeout_s: float) -> Mapping[str, Any]:
    """Wait for a receipt; raises `ChainError` where there is none in time."""
    until = time.monotonic() + timeout_s
    while (receipt := endpoint.receipt(hash)) is None:
        if time.monotonic() > until:
            raise ChainError(
                f"{endpoint.where}: transaction {hash} is not mined after {timeout_s:g} s; look it up later"
            )
        time.sleep(POLL_S)
    return receipt
