"""Rewards, wins and votes of all peers, from the events of a contract of any version."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from genrl_graph.errors import ChainError
from genrl_graph.runners.chain import abi
from genrl_graph.runners.chain.contract_client import ContractClient

BLOCKS_A_READ = 10_000


@dataclass(slots=True)
class Standing:
    """The record that the contract has of a peer: its total reward, votes that named it, and votes that it cast."""

    peer_id: str
    reward: int = 0
    wins: int = 0
    votes: int = 0


def leaderboard(client: ContractClient, *, from_block: int = 0) -> list[Standing]:
    """Return the standings of all peers that events name, by reward, then by wins, then by id."""
    standings: dict[str, Standing] = {}

    def of(peer_id: str) -> Standing:
        return standings.setdefault(peer_id, Standing(peer_id))

    for values in events(client, abi.REGISTERED, from_block=from_block):
        of(values["peerId"])
    for values in events(client, abi.REWARDED, from_block=from_block):
        of(values["peerId"]).reward += values["reward"]
    for values in events(client, abi.VOTED, from_block=from_block):
        of(values["peerId"]).votes += 1
        for winner in values["winners"]:
            of(winner).wins += 1
    return sorted(standings.values(), key=lambda each: (-each.reward, -each.wins, each.peer_id))


def events(client: ContractClient, event: abi.Event, *, from_block: int = 0) -> Iterator[Mapping[str, Any]]:
    """Yield the arguments of an event in order; logs with values that are none, such as broken text, are left out.

    Endpoints limit the blocks of a question: a range that is refused is asked in halves. Raises `ChainError` where the
    contract declares the event otherwise.
    """
    event, last = client.event(event), client.endpoint.block_number()
    for first in range(from_block, last + 1, BLOCKS_A_READ):
        for log in _logs(client, event, first, min(first + BLOCKS_A_READ - 1, last)):
            try:
                values = event.decode([bytes(topic) for topic in log["topics"]], bytes(log["data"]))
            except abi.OtherFormError as error:
                what = f"{error}; name the ABI of this contract with `abi` in the file of --coordinator"
                raise ChainError(f"{client.where}: {what}") from error
            except (ValueError, KeyError):
                continue
            yield values | {"transaction": "0x" + bytes(log["transactionHash"]).hex(), "block": int(log["blockNumber"])}


def _logs(client: ContractClient, event: abi.Event, first: int, last: int) -> Iterator[Mapping[str, Any]]:
    try:
        yield from client.endpoint.logs(client.address, event.topic, first, last)
    except ChainError:
        if first == last:
            raise
        half = (first + last) // 2
        yield from _logs(client, event, first, half)
        yield from _logs(client, event, half + 1, last)
