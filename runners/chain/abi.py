"""Calls, errors and events of the coordination contract by their signatures, as bytes and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import eth_abi
from eth_abi.exceptions import DecodingError
from eth_utils import keccak

ROUND = "currentRound()"
STAGE = "currentStage()"
BOOTNODES = "getBootnodes()"
REGISTER = "registerPeer(string)"
REWARD = "submitReward(uint256,uint256,int256,string)"
WINNERS = "submitWinners(uint256,string[],string)"
SIX_CALLS: Mapping[str, tuple[str, ...]] = {
    ROUND: ("uint256",),
    STAGE: ("uint256",),
    BOOTNODES: ("string[]",),
    REGISTER: (),
    REWARD: (),
    WINNERS: (),
}
"""The calls that every version has, with what each returns; one is overloaded, so signatures are full."""

ADVANCE = "updateStageAndRound()"
ROOT = "submitRoot(uint256,bytes32,uint256,string)"

ERRORS = (
    *("InvalidRoundNumber", "InvalidStageNumber", "StageOutOfBounds", "InvalidVote", "InvalidVoterPeerId"),
    *("OnlyOwner", "OnlyStageManager", "OnlyBootnodeManager", "InvalidBootnodeIndex"),
    *("PeerIdAlreadyRegistered", "RewardAlreadySubmitted", "WinnerAlreadyVoted", "RootAlreadySubmitted"),
)


def selector(signature: str) -> bytes:
    """Return the first four bytes of the hash of a signature, by which a contract knows a call or an error."""
    return bytes(keccak(text=signature)[:4])


def encode_call(signature: str, arguments: Sequence[Any]) -> bytes:
    """Return the data of a call."""
    return selector(signature) + bytes(eth_abi.encode(_types(signature), list(arguments)))


def decode_result(types: Sequence[str], data: bytes) -> Any:
    """Return what a call gave, one value or a tuple; raises `ValueError` for bytes that are none of these types."""
    try:
        values = eth_abi.decode(list(types), data)
    except (DecodingError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"{len(data)} bytes that are no ({', '.join(types)})") from error
    return values[0] if len(types) == 1 else values


def reason_of(data: bytes) -> str:
    """Return why a call was reverted: the name of an error of the contract, the text of a `require`, or hex."""
    if (name := _ERRORS.get(data[:4])) is not None:
        return name
    if data[:4] == _TEXT_ERROR:
        try:
            text = str(decode_result(("string",), data[4:]))
        except ValueError:
            return f"0x{data[:36].hex()}"
        return named_in(text) or text
    return f"0x{data[:36].hex()}" if data else ""


def named_in(text: str) -> str | None:
    """Return the error of the contract that a text names: older versions and proxies give words."""
    return max((name for name in ERRORS if name in text), key=len, default=None)  # one is the beginning of another


@dataclass(frozen=True, slots=True)
class Event:
    """An event: its name and, in order, the name and type of each argument and whether it is indexed."""

    name: str
    arguments: tuple[tuple[str, str, bool], ...]

    @classmethod
    def of(cls, declaration: str) -> "Event":
        """Read a declaration, such as `PeerRegistered(address indexed eoa, string peerId)`."""
        name, _, rest = declaration.partition("(")
        parts = [text.split() for text in rest.removesuffix(")").split(",")]
        return cls(name, tuple((words[-1], words[0], "indexed" in words) for words in parts))

    def indexed_as(self, flags: Sequence[bool]) -> "Event":
        """Return this event with other arguments indexed."""
        each = zip(self.arguments, flags, strict=True)
        return Event(self.name, tuple((name, kind, flag) for (name, kind, _), flag in each))

    @property
    def topic(self) -> bytes:
        """The first topic of its logs, which does not depend on what is indexed."""
        return bytes(keccak(text=f"{self.name}({','.join(kind for _, kind, _ in self.arguments)})"))

    def decode(self, topics: Sequence[bytes], data: bytes) -> dict[str, Any]:
        """Return the arguments of a log by name; raises `ValueError` for one of another form.

        Of an indexed text a log has the hash only, which is given as hexadecimal digits.
        """
        indexed = [(name, kind) for name, kind, is_indexed in self.arguments if is_indexed]
        plain = [(name, kind) for name, kind, is_indexed in self.arguments if not is_indexed]
        if len(topics) != 1 + len(indexed):
            raise OtherFormError(f"{self.name} has {len(topics) - 1} indexed arguments, not {len(indexed)}")
        values = decode_result([kind for _, kind in plain], data)
        values = (values,) if len(plain) == 1 else values
        keyed = {name: _of_topic(kind, topic) for (name, kind), topic in zip(indexed, topics[1:], strict=True)}
        return keyed | {name: value for (name, _), value in zip(plain, values, strict=True)}


class OtherFormError(ValueError):
    """A log has another number of indexed arguments than its event is said to have."""


def indexed_in(contract: Any) -> dict[bytes, tuple[bool, ...]]:
    """Return which arguments of the events of an ABI are indexed, by topic; raises `ValueError` for what is no ABI.

    `contract` is the JSON of an ABI, or of an artifact of a compiler that has it under `abi`.
    """
    entries = contract.get("abi") if isinstance(contract, dict) else contract
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("is no ABI, a list of objects")
    flags = {}
    for entry in entries:
        if entry.get("type") != "event" or entry.get("anonymous"):
            continue
        name, inputs = entry.get("name"), entry.get("inputs")
        if not isinstance(name, str) or not isinstance(inputs, list) or not all(isinstance(i, dict) for i in inputs):
            raise ValueError(f"event {str(name)[:40]!r} has no list of inputs")
        kinds = ",".join(str(argument.get("type")) for argument in inputs)
        flags[bytes(keccak(text=f"{name}({kinds})"))] = tuple(argument.get("indexed") is True for argument in inputs)
    return flags


REGISTERED = Event.of("PeerRegistered(address indexed eoa, string peerId)")
REWARDED = Event.of(
    "RewardSubmitted(address indexed account, uint256 indexed roundNumber, uint256 indexed stageNumber, "
    "int256 reward, string peerId)"
)
VOTED = Event.of(
    "WinnerSubmitted(address indexed account, string peerId, uint256 indexed roundNumber, string[] winners)"
)
ROOTED = Event.of(
    "RootSubmitted(address indexed account, uint256 indexed roundNumber, bytes32 root, uint256 rows, string peerId)"
)


def _of_topic(kind: str, topic: bytes) -> Any:
    """Return an indexed argument; of text, bytes and lists the topic is a hash."""
    is_hash = kind in ("string", "bytes") or kind.endswith("]")
    return topic.hex() if is_hash else decode_result((kind,), topic)


def _types(signature: str) -> list[str]:
    inner = signature[signature.index("(") + 1 : -1]
    return inner.split(",") if inner else []


_ERRORS = {selector(f"{name}()"): name for name in ERRORS}
_TEXT_ERROR = selector("Error(string)")
