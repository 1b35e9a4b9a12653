"""The outbox is sent at least once and counted once: crashes, a shared wallet, an endpoint that fails or lies."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from chains import OWNER, Chain, key

from genrl_graph.errors import StoreError
from genrl_graph.runners.chain import abi
from genrl_graph.runners.chain.contract_client import ContractClient, call_of
from genrl_graph.runners.chain.endpoint import Endpoint
from genrl_graph.runners.chain.leaderboard import leaderboard
from genrl_graph.runners.chain.node import NodeProvider
from genrl_graph.runners.chain.sender import Sender
from genrl_graph.runners.chain.wallet import Wallet
from genrl_graph.store.outbox import Entry, Outbox, pending_line, read_outbox


class Crash(BaseException):
    """The process ends here."""


class ChangedProvider(NodeProvider):
    """The endpoint of a real chain; where a test says so it answers by itself, or something happens after an answer."""

    instead: Callable[[str, Sequence[Any]], dict[str, Any] | None] | None = None
    after: Callable[[str], None] | None = None

    def make_request(self, method: Any, params: Any) -> Any:
        answer = None if self.instead is None else self.instead(str(method), params)
        answer = super().make_request(method, params) if answer is None else {"jsonrpc": "2.0", "id": 1, **answer}
        if self.after is not None:
            self.after(str(method))
        return answer


class Post:
    """An outbox in a folder, and the sender of a wallet; `again` is what a new process would make of the folder."""

    def __init__(self, chain: Chain, folder: Path, client: ContractClient, wallet: Wallet) -> None:
        self.chain, self.folder, self.wallet = chain, folder, wallet
        self.provider = ChangedProvider(chain.node)
        self.client = ContractClient(Endpoint(self.provider, where="test chain"), client.address)
        self.again()

    def again(self, **options: Any) -> None:
        self.outbox = Outbox(self.folder)
        self.outbox.bind({"chain_id": self.chain.node.chain_id, "contract": self.client.address})
        self.sender = Sender(self.outbox, self.client, self.wallet, _call, **options)

    def queue(self, *submissions: Mapping[str, Any], round: int = 0) -> None:
        self.outbox.queue(round, "report", "ann", [{"peer": "ann", **each} for each in submissions])

    def work(self, passes: int = 6) -> dict[str, str]:
        for _ in range(passes):
            self.sender.work()
        return {entry.call: entry.state for entry in self.outbox.state.entries.values()}

    def entry(self, call: str) -> Entry:
        return next(entry for entry in self.outbox.state.entries.values() if entry.call == call)


def _call(entry: Entry) -> Any:
    return call_of(entry.submission, str(entry.submission["peer"]))


REGISTER = {"call": "register"}
REWARD = {"call": "reward", "round": 0, "stage": 0, "reward": 5}
VOTE = {"call": "winners", "round": 0, "winners": ["ann"]}


@pytest.fixture
def post(chain: Chain, tmp_path: Path) -> Post:
    """An outbox for a contract of its own."""
    return Post(chain, tmp_path, chain.deploy(), chain.funded(3))


def test_everything_is_sent_in_order_and_counted_once(post: Post) -> None:
    post.queue(REGISTER, REWARD, VOTE, {"call": "root", "round": 0, "root": "ab" * 32, "rows": 2})
    post.queue(REGISTER, REWARD, VOTE)  # the same step again: nothing new
    assert post.work() == {"register": "done", "reward": "done", "winners": "done", "root": "done"}
    (standing,) = leaderboard(post.client)
    assert (standing.reward, standing.wins, standing.votes) == (5, 1, 1)
    assert read_outbox(post.folder).entries == post.outbox.state.entries
    assert pending_line([post.outbox.state]) == ""


@pytest.mark.parametrize("at", ["instead", "after"])
def test_a_crash_around_sending_loses_nothing_and_doubles_nothing(post: Post, at: str) -> None:
    def crash(method: str, *params: Any) -> None:
        if method == "eth_sendRawTransaction":
            raise Crash

    post.queue(REGISTER)
    post.work()
    first = post.client.endpoint.nonce(post.wallet.address, pending=False)
    post.queue(REWARD, VOTE, round=1)
    for _ in range(3 if at == "instead" else 2):  # after sending, each crash has let one more through
        setattr(post.provider, at, crash)
        with pytest.raises(Crash):
            post.work()
        setattr(post.provider, at, None)
        post.outbox.close()
        post.again()
    assert set(post.work().values()) == {"done"}
    (standing,) = leaderboard(post.client)
    assert (standing.reward, standing.votes) == (5, 1)
    assert post.client.endpoint.nonce(post.wallet.address, pending=False) == first + 2


def test_a_round_that_has_not_begun_waits_or_is_dropped(post: Post, chain: Chain) -> None:
    late = REWARD | {"round": 1}
    post.queue(REGISTER, late, {"call": "winners", "round": 2, "winners": ["ann"]})
    assert post.work() == {"register": "done", "reward": "pending", "winners": "pending"}
    assert post.entry("reward").reason == "InvalidRoundNumber: the chain is in round 0, stage 0"
    assert "2 pending" in pending_line([post.outbox.state])
    chain.send(post.client, chain.owner, abi.ADVANCE)
    assert post.work()["reward"] == "done"
    post.again(on_later="drop")
    assert post.work()["winners"] == "dropped"


def test_what_can_never_be_taken_is_dropped_with_its_reason(post: Post, chain: Chain) -> None:
    chain.send(post.client, chain.funded(4), abi.REGISTER, "ann")
    post.queue(REGISTER, REWARD, {"call": "advance", "round": 3}, {"call": "dance"})
    assert set(post.work().values()) == {"dropped"}
    reasons = {entry.call: entry.reason for entry in post.outbox.state.entries.values()}
    assert reasons["register"].startswith("the peer id belongs to 0x")
    assert reasons["reward"].startswith("InvalidVoterPeerId: the peer id belongs to 0x")
    assert reasons["advance"] == "OnlyStageManager"
    assert "is no submission of a node" in reasons["dance"]


def test_a_contract_without_roots_takes_the_rest(chain: Chain, tmp_path: Path) -> None:
    post = Post(chain, tmp_path, chain.deploy_file("three_stages.vy"), chain.funded(3))
    post.queue(REGISTER, REWARD, {"call": "root", "round": 0, "root": "ab" * 32, "rows": 2})
    assert post.work() == {"register": "done", "reward": "done", "root": "dropped"}
    assert post.entry("root").reason == "this contract takes no roots of audited rounds"


def test_rounds_are_begun_stage_by_stage_and_not_once_too_often(chain: Chain, tmp_path: Path) -> None:
    post = Post(chain, tmp_path, chain.deploy(stages=2), chain.owner)
    post.queue({"call": "advance", "round": 1})
    post.queue({"call": "advance", "round": 1}, round=1)
    for _ in range(8):
        post.sender.work()
    assert {entry.state for entry in post.outbox.state.entries.values()} == {"done"}
    assert (post.client.round(), post.client.stage()) == (1, 0)


def test_another_program_with_the_same_wallet_costs_a_new_nonce_only(post: Post, chain: Chain) -> None:
    def use_the_nonce(method: str, params: Sequence[Any]) -> None:
        if method == "eth_sendRawTransaction":
            post.provider.instead = None
            chain.send(post.client, post.wallet, abi.REGISTER, "other program")

    post.queue(REGISTER, REWARD)
    post.provider.instead = use_the_nonce
    assert post.work() == {"register": "done", "reward": "done"}
    assert [each.reward for each in leaderboard(post.client) if each.peer_id == "ann"] == [5]


def test_a_transaction_that_is_stuck_is_replaced_at_the_same_nonce(post: Post, chain: Chain) -> None:
    post.queue(REGISTER)
    chain.node.tester.disable_auto_mine_transactions()
    try:
        post.work(2)
        post.again(stuck_s=0.0)
        post.work(3)
    finally:
        chain.node.tester.enable_auto_mine_transactions()
    attempts = post.entry("register").attempts
    assert len({attempt.nonce for attempt in attempts}) == 1
    assert len(attempts) > 1
    assert attempts[-1].tip >= attempts[0].tip * 1.1
    post.again()
    assert post.work() == {"register": "done"}


def test_a_receipt_that_lies_does_not_make_a_report_done(post: Post, chain: Chain) -> None:
    sent: list[str] = []

    def pretend(method: str, params: Sequence[Any]) -> dict[str, Any] | None:
        if method == "eth_sendRawTransaction":
            sent.append(params[0])
            return {"result": "0x" + 64 * "1"}
        if method == "eth_getTransactionCount" and sent:
            return {"result": hex(int(chain.node.handle(method, params)["result"], 16) + 1)}
        if method == "eth_getTransactionReceipt":
            block = {"blockNumber": "0x1", "gasUsed": "0x1", "logs": []}
            return {"result": {"transactionHash": params[0], "status": "0x1", **block}}
        return None

    post.queue(REGISTER)
    post.provider.instead = pretend
    assert post.work(3) == {"register": "sent"}
    assert post.outbox.state.trouble == ""
    assert post.entry("register").reason == "the receipt says that it is mined, but the contract does not have it"
    assert len(sent) == 1
    post.provider.instead = None
    assert post.work() == {"register": "done"}


def test_an_empty_wallet_waits_with_a_line(chain: Chain, tmp_path: Path) -> None:
    post = Post(chain, tmp_path, chain.deploy(), chain.wallet(77))
    post.queue(REGISTER)
    assert post.work(2) == {"register": "pending"}
    assert "has 0 ether, too little for gas; send it some" in pending_line([post.outbox.state])
    chain.node.fund(post.wallet.address)
    assert post.work() == {"register": "done"}


def test_an_outbox_is_for_one_contract(post: Post, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"holds submissions for contract 0x\w+ on chain \d+, not for contract 0x00"):
        post.outbox.bind({"chain_id": 1, "contract": "0x00"})


def test_no_key_is_written(post: Post) -> None:
    post.queue(REGISTER, REWARD)
    post.work()
    secret = key(OWNER + 3)
    text = b"".join(path.read_bytes() for path in post.folder.rglob("*") if path.is_file())
    assert secret.encode() not in text
    assert bytes.fromhex(secret) not in text
    assert secret not in json.dumps([repr(post.wallet), str(post.wallet), repr(post.sender.__dict__)])
