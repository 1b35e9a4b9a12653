"""Compile our contract with the vyper package, and deploy it."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import eth_abi

from genrl_graph.errors import ChainError
from genrl_graph.runners.chain.endpoint import Endpoint, Refused, Reverted
from genrl_graph.runners.chain.sending import await_receipt, fees_of, send_signed
from genrl_graph.runners.chain.wallet import Wallet

COMPILE_S = 120.0
SOURCE = Path(__file__).parent / "contract" / "coordinator.vy"


@cache
def compiled() -> bytes:
    """Return the creation code of our contract, without the arguments of its constructor."""
    return compile_vyper(SOURCE)


def compile_vyper(source: Path) -> bytes:
    """Return the creation code of a contract; raises `ChainError` if it cannot be compiled.

    The compiler runs in a process of its own: it forbids the process that imports it to change the decimal precision.
    """
    command = [sys.executable, "-W", "ignore", "-m", "vyper.cli.vyper_compile", "-f", "bytecode", source.name]
    done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True, timeout=COMPILE_S, check=False)
    if done.returncode:
        raise ChainError(f"{source}: cannot be compiled: {(done.stderr.strip() or 'no reason').splitlines()[-1]}")
    return bytes.fromhex(done.stdout.strip().removeprefix("0x"))


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
