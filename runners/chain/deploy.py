"""Compile our contract with the vyper package, and deploy it."""

from functools import cache
from pathlib import Path

import eth_abi
import vyper

from genrl_graph.errors import ChainError
from genrl_graph.runners.chain.endpoint import Endpoint, Refused, Reverted
from genrl_graph.runners.chain.sending import await_receipt, fees_of, send_signed
from genrl_graph.runners.chain.wallet import Wallet

SOURCE = Path(__file__).parent / "contract" / "coordinator.vy"


@cache
def compiled() -> bytes:
    """Return the creation code of our contract, without the arguments of its constructor."""
    return bytes.fromhex(vyper.compile_code(SOURCE.read_text(), output_formats=["bytecode"])["bytecode"][2:])


def creation_code(owner: str, *, stages: int) -> bytes:
    """Return the data of the transaction that deploys our contract."""
    return compiled() + bytes(eth_abi.encode(["address", "uint256"], [owner, stages]))


def deploy_contract(endpoint: Endpoint, wallet: Wallet, *, owner: str, stages: int, timeout_s: float) -> str:
    """Deploy our contract from a wallet and return its address; raises `ChainError` where the chain refuses."""
    code = creation_code(owner, stages=stages)
    try:
        raw, hash = wallet.sign(
            {
                "nonce": endpoint.nonce(wallet.address, pending=True),
                "data": "0x" + code.hex(),
                "value": 0,
                "gas": 6_000_000,
                "chainId": endpoint.chain_id(),
                **fees_of(endpoint),
            }
        )
        send_signed(endpoint, raw, wallet)
        receipt = await_receipt(endpoint, hash, timeout_s=timeout_s)
    except (Refused, Reverted) as error:
        raise ChainError(f"{endpoint.where}: refuses the contract: {error}") from error
    if not receipt.get("status") or not receipt.get("contractAddress"):
        raise ChainError(f"{endpoint.where}: did not take the contract (transaction {hash})")
    return str(receipt["contractAddress"])
