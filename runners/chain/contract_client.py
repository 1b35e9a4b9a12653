"""A client of every deployed version of the contract: six calls are known, the rest is probed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from eth_utils import keccak

from genrl_graph.errors import ChainError
from genrl_graph.runners.chain import abi
from genrl_graph.runners.chain.endpoint import Endpoint, Reverted

NOWHERE = "0x0000000000000000000000000000000000000000"
NOBODY = "0x000000000000000000000000000000000000dEaD"
FAR = 2**256 - 1  # a round that no contract has reached: every version refuses it

Outcome = Literal["open", "done", "later", "refused"]
_DONE = frozenset({"RewardAlreadySubmitted", "WinnerAlreadyVoted", "RootAlreadySubmitted"})
_LATER = frozenset({"InvalidRoundNumber", "InvalidStageNumber"})
_REFUSED = frozenset({"InvalidVote", "StageOutOfBounds", "OnlyStageManager", "OnlyBootnodeManager", "OnlyOwner"})


@dataclass(frozen=True, slots=True)
class Call:
    """A transaction of the contract: its signature and arguments."""

    signature: str
    arguments: tuple[Any, ...]

    @property
    def data(self) -> bytes:
        """The bytes of the call."""
        return abi.encode_call(self.signature, self.arguments)

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.signature.partition("(")[0]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of the contract to a call as of now: `open` to it, `done` already, possible `later`, or `refused`."""

    outcome: Outcome
    reason: str = ""


class ContractClient:
    """Reads one contract, and asks it what it would say of a call; sends nothing.

    `indexed` tells of the contract's ABI which arguments of its events are indexed, by topic.
    """

    def __init__(
        self, endpoint: Endpoint, address: str, *, indexed: Mapping[bytes, tuple[bool, ...]] | None = None
    ) -> None:
        self.endpoint, self.address, self._indexed = endpoint, address, indexed or {}

    @property
    def where(self) -> str:
        """The place that errors name."""
        return f"{self.endpoint.where}: contract {self.address}"

    def require(self, *, chain_id: int) -> None:
        """Raise `ChainError` where this is another chain, no contract, or one that lacks one of the six calls."""
        if (actual := self.endpoint.chain_id()) != chain_id:
            raise ChainError(f"{self.endpoint.where}: is chain {actual}, not {chain_id}; mend chain_id or endpoint")
        if not self.endpoint.code(self.address):
            raise ChainError(f"{self.where}: no code at this address on chain {chain_id}; deploy it, or mend contract")
        tried: Mapping[str, tuple[Any, ...]] = {
            abi.REGISTER: ("",),
            abi.REWARD: (FAR, 0, 0, ""),
            abi.WINNERS: (FAR, [""], ""),
        }
        lacking = [name for name, kinds in abi.SIX_CALLS.items() if not self._has(name, kinds, tried.get(name, ()))]
        if lacking:
            raise ChainError(f"{self.where}: has no {', '.join(lacking)}; is it a coordinator?")

    def read(self, signature: str, returns: Sequence[str], *arguments: Any) -> Any:
        """Call a view; raises `ChainError` where the contract does not have it."""
        try:
            return abi.decode_result(returns, self.endpoint.call(self.address, abi.encode_call(signature, arguments)))
        except (Reverted, ValueError) as error:
            raise ChainError(f"{self.where}: {signature}: {error}") from error

    def probe(self, signature: str, returns: Sequence[str], *arguments: Any) -> Any | None:
        """Call a view that not every version has; None where this one does not."""
        try:
            return abi.decode_result(returns, self.endpoint.call(self.address, abi.encode_call(signature, arguments)))
        except (Reverted, ValueError):
            return None

    def round(self) -> int:
        """Return the current round."""
        return int(self.read(abi.ROUND, ("uint256",)))

    def stage(self) -> int:
        """Return the current stage."""
        return int(self.read(abi.STAGE, ("uint256",)))

    def bootnodes(self) -> tuple[str, ...]:
        """Return the addresses at which new peers find the swarm."""
        return tuple(self.read(abi.BOOTNODES, ("string[]",)))

    @cached_property
    def stage_count(self) -> int:
        """The stages of a round; 1 where the contract does not say."""
        return int(self.probe("stageCount()", ("uint256",)) or 1)

    @cached_property
    def has_roots(self) -> bool:
        """True where the contract takes the roots of audited rounds; only ours does."""
        return self._has(abi.ROOT, (), (FAR, b"\1" * 32, 0, ""))

    def event(self, event: abi.Event) -> abi.Event:
        """Return an event as this contract declares it."""
        flags = self._indexed.get(event.topic)
        return event if flags is None else event.indexed_as(flags)

    def eoa(self, peer_id: str) -> str | None:
        """Return the account of a peer id, None where nobody has it or the contract does not say."""
        found = self.probe("getEoa(string[])", ("address[]",), [peer_id])
        return None if not found or found[0] == NOWHERE else str(found[0])

    def is_manager(self, account: str) -> bool | None:
        """Return whether an account may begin stages and rounds; None where the contract does not say."""
        role = bytes(keccak(text="STAGE_MANAGER_ROLE"))
        answer: bool | None = self.probe("hasRole(bytes32,address)", ("bool",), role, account)
        return answer

    def judge(self, call: Call, sender: str) -> Verdict:
        """Ask what the contract would say of a call now."""
        try:
            self.endpoint.call(self.address, call.data, sender=sender)
        except Reverted as reverted:
            return self._verdict(call, sender, reverted.reason)
        return Verdict("open")

    def _verdict(self, call: Call, sender: str, reason: str) -> Verdict:
        if reason in _DONE:
            return Verdict("done", reason)
        if reason == "PeerIdAlreadyRegistered":
            owner = self.eoa(call.arguments[0])
            taken = owner is not None and owner.lower() != sender.lower()
            return Verdict("refused", f"the peer id belongs to {owner}") if taken else Verdict("done", reason)
        if reason in _LATER:
            return Verdict("later", f"{reason}: the chain is in round {self.round()}, stage {self.stage()}")
        if reason == "InvalidVoterPeerId":
            owner = self.eoa(call.arguments[-1])
            if owner is None:
                return Verdict("later", f"{reason}: {call.arguments[-1]} is not registered yet")
            return Verdict("refused", f"{reason}: the peer id belongs to {owner}")
        if reason in _REFUSED:
            return Verdict("refused", reason)
        return Verdict("later", f"reverted: {reason or 'no reason given'}")

    def _has(self, signature: str, returns: Sequence[str], arguments: Sequence[Any]) -> bool:
        """Return whether the contract knows a call: an unknown one reverts without a word."""
        try:
            answer = self.endpoint.call(self.address, abi.encode_call(signature, arguments), sender=NOBODY)
            abi.decode_result(returns, answer) if returns else None
        except Reverted as reverted:
            return bool(reverted.reason)
        except ValueError:
            return False
        return True


def call_of(submission: Mapping[str, Any], peer_id: str) -> Call:
    """Return the call of a submission; raises `ValueError` for one that no node makes."""
    match submission:
        case {"call": "register"}:
            return Call(abi.REGISTER, (peer_id,))
        case {"call": "reward", "round": int(round), "stage": int(stage), "reward": int(reward)}:
            return Call(abi.REWARD, (round, stage, reward, peer_id))
        case {"call": "winners", "round": int(round), "winners": [*winners]}:
            return Call(abi.WINNERS, (round, [str(name) for name in winners], peer_id))
        case {"call": "root", "round": int(round), "root": str(root), "rows": int(rows)}:
            return Call(abi.ROOT, (round, bytes.fromhex(root), rows, peer_id))
        case {"call": "advance"}:
            return Call(abi.ADVANCE, ())
    raise ValueError(f"{str(dict(submission))[:120]} is no submission of a node")
