"""A real chain in the process for tests: contracts, wallets, transactions."""

import re
from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from genrl_graph.runners.chain import abi
from genrl_graph.runners.chain.contract_client import Call, ContractClient
from genrl_graph.runners.chain.deploy import compile_vyper, creation_code
from genrl_graph.runners.chain.endpoint import Endpoint, Reverted
from genrl_graph.runners.chain.node import ChainNode, NodeProvider
from genrl_graph.runners.chain.sending import fees_of
from genrl_graph.runners.chain.wallet import Wallet

CONTRACTS = Path(__file__).parent / "contracts"
OWNER = 1001


def key(number: int) -> str:
    """Return a key that is unlike any other text: a call to a contract is full of zeros and small numbers."""
    return sha256(number.to_bytes(32)).hexdigest()


class Chain:
    """A chain and its wallets; `deploy` gives a contract to play with."""

    def __init__(self) -> None:
        self.owner = self.wallet(0)
        self.node = ChainNode(self.owner.address)
        self.endpoint = Endpoint(NodeProvider(self.node), where="test chain")

    @staticmethod
    def wallet(number: int) -> Wallet:
        """Return one of several wallets."""
        return Wallet.from_key(key(OWNER + number), where="test")

    @staticmethod
    def account(secret: str) -> str:
        """Return the address of a key."""
        return Wallet.from_key(secret, where="test").address

    def funded(self, number: int) -> Wallet:
        """Return a wallet with ether."""
        wallet = self.wallet(number)
        self.node.fund(wallet.address)
        return wallet

    def deploy(self, *, stages: int = 1) -> ContractClient:
        """Deploy our contract anew."""
        return ContractClient(self.endpoint, self.node.deploy(creation_code(self.owner.address, stages=stages)))

    def deploy_file(self, name: str, *, without: str = "", plain: Collection[str] = ()) -> ContractClient:
        """Deploy a test contract; of one function it may lack, it has another name, and `plain` are not indexed."""
        source = (CONTRACTS / name).read_text()
        for argument in plain:
            source = re.sub(rf"{argument}: indexed\((\w+)\)", rf"{argument}: \1", source)
        source = source.replace(f"def {without}(", "def another(") if without else source
        with TemporaryDirectory() as folder:
            file = Path(folder) / name
            file.write_text(source)
            return ContractClient(self.endpoint, self.node.deploy(compile_vyper(file)))

    def deploy_gas(self, code: bytes) -> int:
        """Return the gas of deploying a contract."""
        address = self.node.deploy(code)
        tester = self.node.tester
        (hash,) = tester.get_block_by_number("latest")["transactions"]
        receipt = tester.get_transaction_receipt(hash)
        assert receipt["contract_address"] == address
        return int(receipt["gas_used"])

    def send(self, client: ContractClient, wallet: Wallet, signature: Any, *arguments: Any) -> Mapping[str, Any]:
        """Send a call and return its receipt; raises `Reverted` where the contract refuses."""
        data = abi.encode_call(signature, arguments)
        transaction = {
            "to": client.address,
            "data": "0x" + data.hex(),
            "value": 0,
            "nonce": self.endpoint.nonce(wallet.address, pending=False),
            "gas": self.endpoint.gas(client.address, data, sender=wallet.address) * 5 // 4,
            "chainId": self.node.chain_id,
            **fees_of(self.endpoint),
        }
        raw, hash = wallet.sign(transaction)
        self.endpoint.send(raw)
        receipt = self.endpoint.receipt(hash)
        assert receipt is not None and receipt["status"] == 1
        return receipt


def refusal(client: ContractClient, wallet: Wallet, signature: str, *arguments: Any) -> str:
    """Return the reason for which the contract refuses a call, "" where it takes it."""
    try:
        client.endpoint.call(client.address, Call(signature, arguments).data, sender=wallet.address)
    except Reverted as reverted:
        return reverted.reason
    return ""
