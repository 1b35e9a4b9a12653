"""The coordinator that `run.coordinator` names: a contract on a chain, and how this peer reaches it."""

import re
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from genrl_graph.contract.exact_numbers import ExactNumbers

EMBEDDED = "embedded"
"""The endpoint that is a chain in the process of the run, with our contract on it."""
ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")


class CoordinatorConfig(ExactNumbers):
    """A contract on a chain. A key has no place here: it is in the keystore file, or in `GENRL_GRAPH_CHAIN_KEY`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str = Field(
        description="JSON-RPC address, such as http://127.0.0.1:8545; `embedded`: a chain that ends with the run"
    )
    contract: str | None = Field(
        default=None, description="address of the contract, 0x and 40 hexadecimal digits (embedded: none)"
    )
    chain_id: int | None = Field(
        default=None, ge=1, description="id of the chain; another one is refused (embedded: none)"
    )
    abi: str | None = Field(
        default=None,
        description="JSON file with the contract's ABI, which tells what its events index; null: as version 0.6.0",
    )
    keystore: str | None = Field(
        default=None, description="file with the encrypted key of the wallet; null: GENRL_GRAPH_CHAIN_KEY"
    )
    proxy: str | None = Field(
        default=None, description="HTTP address of a service that submits on this peer's behalf; it needs no wallet"
    )
    organisation: str | None = Field(default=None, description="id of the organisation that the proxy asks for")
    game_rounds: int = Field(
        default=1,
        ge=1,
        le=1_000_000,
        description="rounds of the game in one round of the contract, which gets their sums with the last of them",
    )
    on_later: Literal["wait", "drop"] = Field(
        default="wait", description="what to do with reports of a round that the chain has not begun"
    )
    from_block: int = Field(default=0, ge=0, description="block from which leaderboards read events")
    timeout_s: float = Field(default=10.0, gt=0, le=600, description="seconds for one answer of the endpoint")
    drain_s: float = Field(
        default=10.0, ge=0, description="seconds at the end of a run in which pending reports are still sent"
    )
    stuck_s: float = Field(
        default=120.0, gt=0, description="seconds after which a transaction that is not mined is sent with a higher fee"
    )

    @field_validator("endpoint", "proxy")
    @classmethod
    def _is_plain_address(cls, value: str | None) -> str | None:
        if value is None or value == EMBEDDED:
            return value
        host = re.fullmatch(r"https?://([^/?#]*)(?:[/?#].*)?", value)
        if host is None or not host[1]:
            raise ValueError("is no http:// or https:// address")
        if "@" in host[1]:
            raise ValueError("has a password in it, which would be recorded; leave it out")
        return value

    @field_validator("contract")
    @classmethod
    def _is_contract(cls, value: str | None) -> str | None:
        if value is not None and not ADDRESS.fullmatch(value):
            raise ValueError("is no address, 0x and 40 hexadecimal digits")
        return value

    @model_validator(mode="after")
    def _names_a_contract(self) -> Self:
        missing = [name for name in ("contract", "chain_id") if getattr(self, name) is None]
        if self.endpoint != EMBEDDED and missing:
            raise ValueError(f"names no {missing[0]}; `genrl-graph chain deploy` says it")
        return self

    @model_validator(mode="after")
    def _one_submitter(self) -> Self:
        if self.proxy is not None and self.keystore is not None:
            raise ValueError("names a keystore and a proxy; with a proxy, leave the keystore out")
        if self.proxy is not None and self.organisation is None:
            raise ValueError("names a proxy, but no organisation; the proxy asks for its id")
        return self


def from_name(value: Any) -> Any:
    """Return the options that the name `embedded` stands for, and any other value as it is."""
    return {"endpoint": EMBEDDED} if value == EMBEDDED else value
