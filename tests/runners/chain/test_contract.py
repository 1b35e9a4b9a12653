"""Our contract: every refusal, roles, leaderboards; random sequences against a plain model; what a call costs."""

import re
from typing import Any

from chains import Chain, refusal
from code_blocks import PAGES
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from genrl_graph.runners.chain import abi
from genrl_graph.runners.chain.deploy import creation_code
from genrl_graph.runners.chain.leaderboard import leaderboard

BOOT = "addBootnodes(string[])"
ROLE = "grantRole(bytes32,address)"


def test_every_refusal_has_its_name(chain: Chain) -> None:
    client, ann, bob = chain.deploy(stages=2), chain.funded(1), chain.funded(2)
    for wallet, name in ((ann, "ann"), (bob, "bob")):
        chain.send(client, wallet, abi.REGISTER, name)
    chain.send(client, ann, abi.REWARD, 0, 0, -5, "ann")
    chain.send(client, ann, abi.WINNERS, 0, ["bob"], "ann")
    chain.send(client, ann, abi.ROOT, 0, b"\7" * 32, 3, "ann")
    refused: set[tuple[Any, ...]] = {
        ("PeerIdAlreadyRegistered", bob, abi.REGISTER, "ann"),
        ("PeerIdAlreadyRegistered", bob, abi.REGISTER, ""),
        ("RewardAlreadySubmitted", ann, abi.REWARD, 0, 0, 7, "ann"),
        ("InvalidRoundNumber", ann, abi.REWARD, 1, 0, 7, "ann"),
        ("InvalidStageNumber", ann, abi.REWARD, 0, 1, 7, "ann"),
        ("InvalidVoterPeerId", ann, abi.REWARD, 0, 0, 7, "bob"),
        ("InvalidVoterPeerId", ann, abi.REWARD, 0, 0, 7, "nobody"),
        ("WinnerAlreadyVoted", ann, abi.WINNERS, 0, ("ann",), "ann"),
        ("InvalidRoundNumber", bob, abi.WINNERS, 1, ("ann",), "bob"),
        ("InvalidVote", bob, abi.WINNERS, 0, (), "bob"),
        ("InvalidVote", bob, abi.WINNERS, 0, ("ann", "bob", "ann"), "bob"),
        ("InvalidVoterPeerId", bob, abi.WINNERS, 0, ("ann",), "ann"),
        ("RootAlreadySubmitted", ann, abi.ROOT, 0, b"\1" * 32, 3, "ann"),
        ("RootAlreadySubmitted", bob, abi.ROOT, 0, b"\0" * 32, 3, "bob"),
        ("InvalidRoundNumber", bob, abi.ROOT, 9, b"\1" * 32, 3, "bob"),
        ("InvalidVoterPeerId", bob, abi.ROOT, 0, b"\1" * 32, 3, "ann"),
        ("OnlyStageManager", ann, abi.ADVANCE),
        ("OnlyBootnodeManager", ann, BOOT, ("/ip4/1.2.3.4/tcp/5/p2p/Qm",)),
        ("OnlyBootnodeManager", ann, "removeBootnode(uint256)", 0),
        ("OnlyBootnodeManager", ann, "clearBootnodes()"),
        ("InvalidBootnodeIndex", chain.owner, "removeBootnode(uint256)", 0),
        ("OnlyOwner", ann, ROLE, b"\1" * 32, ann.address),
        ("OnlyOwner", ann, "revokeRole(bytes32,address)", b"\1" * 32, chain.owner.address),
    }
    for reason, wallet, signature, *arguments in refused:
        assert refusal(client, wallet, signature, *arguments) == reason, (signature, arguments)


def test_a_past_round_takes_every_stage_that_a_round_has_and_no_other(chain: Chain) -> None:
    client, ann = chain.deploy(stages=2), chain.funded(1)
    chain.send(client, ann, abi.REGISTER, "ann")
    for _ in range(3):
        chain.send(client, chain.owner, abi.ADVANCE)
    assert (client.round(), client.stage(), client.stage_count) == (1, 1, 2)
    assert refusal(client, ann, abi.REWARD, 0, 1, 1, "ann") == ""
    assert refusal(client, ann, abi.REWARD, 0, 2, 1, "ann") == "InvalidStageNumber"


def test_a_role_is_given_and_taken_by_the_owner(chain: Chain) -> None:
    client, ann = chain.deploy(), chain.funded(1)
    role = client.read("STAGE_MANAGER_ROLE()", ("bytes32",))
    assert (client.is_manager(chain.owner.address), client.is_manager(ann.address)) == (True, False)
    chain.send(client, chain.owner, ROLE, role, ann.address)
    assert client.is_manager(ann.address)
    chain.send(client, ann, abi.ADVANCE)
    chain.send(client, chain.owner, "revokeRole(bytes32,address)", role, ann.address)
    assert refusal(client, ann, abi.ADVANCE) == "OnlyStageManager"
    assert client.round() == 1


def test_bootnodes_are_added_removed_and_cleared(chain: Chain) -> None:
    client = chain.deploy()
    chain.send(client, chain.owner, BOOT, ["/a", "/b", "/c"])
    chain.send(client, chain.owner, "removeBootnode(uint256)", 0)
    assert client.bootnodes() == ("/c", "/b")
    assert client.read("getBootnodesCount()", ("uint256",)) == 2
    chain.send(client, chain.owner, "clearBootnodes()")
    assert client.bootnodes() == ()


def test_an_account_has_several_ids_and_each_id_one_account(chain: Chain) -> None:
    client, ann = chain.deploy(), chain.funded(1)
    for name in ("x", "y"):
        chain.send(client, ann, abi.REGISTER, name)
    accounts = client.read("getEoa(string[])", ("address[]",), ["y", "nobody"])
    assert [address.lower() for address in accounts] == [ann.address.lower(), "0x" + 40 * "0"]
    assert client.read("getPeerId(address[])", ("string[][]",), [ann.address]) == (("x", "y"),)


class AgainstAModel(RuleBasedStateMachine):
    """Calls in random order, right and wrong ones, and the contract as Python would have it."""

    chain: Chain

    def __init__(self) -> None:
        super().__init__()
        self.client = self.chain.deploy(stages=2)
        self.wallets = [self.chain.funded(number) for number in range(2)]
        self.round = self.stage = 0
        self.owner_of: dict[str, int] = {}
        self.rewards: dict[tuple[int, int, str], int] = {}
        self.votes: dict[tuple[int, str], tuple[str, ...]] = {}

    @rule(name=st.sampled_from("abc"), who=st.integers(0, 1))
    def register(self, name: str, who: int) -> None:
        expected = "PeerIdAlreadyRegistered" if name in self.owner_of else ""
        if self._try(who, abi.REGISTER, name, expected=expected):
            self.owner_of[name] = who

    @precondition(lambda self: self.owner_of)
    @rule(
        name=st.sampled_from("abc"),
        who=st.integers(0, 1),
        round=st.integers(0, 2),
        stage=st.integers(0, 2),
        reward=st.integers(-(2**70), 2**70),
    )
    def report(self, name: str, who: int, round: int, stage: int, reward: int) -> None:
        expected = ""
        if round > self.round:
            expected = "InvalidRoundNumber"
        elif stage > 1 or (round == self.round and stage > self.stage):
            expected = "InvalidStageNumber"
        elif self.owner_of.get(name) != who:
            expected = "InvalidVoterPeerId"
        elif (round, stage, name) in self.rewards:
            expected = "RewardAlreadySubmitted"
        if self._try(who, abi.REWARD, round, stage, reward, name, expected=expected):
            self.rewards[round, stage, name] = reward

    @precondition(lambda self: self.owner_of)
    @rule(
        name=st.sampled_from("abc"),
        who=st.integers(0, 1),
        round=st.integers(0, 2),
        winners=st.lists(st.sampled_from("abcz"), max_size=3),
    )
    def vote(self, name: str, who: int, round: int, winners: list[str]) -> None:
        expected = ""
        if round > self.round:
            expected = "InvalidRoundNumber"
        elif self.owner_of.get(name) != who:
            expected = "InvalidVoterPeerId"
        elif (round, name) in self.votes:
            expected = "WinnerAlreadyVoted"
        elif not winners or len(set(winners)) < len(winners):
            expected = "InvalidVote"
        if self._try(who, abi.WINNERS, round, winners, name, expected=expected):
            self.votes[round, name] = tuple(winners)

    @rule(who=st.integers(0, 1))
    def advance(self, who: int) -> None:
        if self._try(who, abi.ADVANCE, expected="OnlyStageManager" if who else ""):
            self.round, self.stage = (self.round, 1) if self.stage == 0 else (self.round + 1, 0)

    @invariant()
    def they_agree(self) -> None:
        assert (self.client.round(), self.client.stage()) == (self.round, self.stage)

    def teardown(self) -> None:
        names = list(self.owner_of)
        totals = {name: sum(v for (_, _, n), v in self.rewards.items() if n == name) for name in names}
        wins = {name: sum(name in winners for winners in self.votes.values()) for name in "abcz"}
        assert list(self.client.read("getTotalRewards(string[])", ("int256[]",), names)) == list(totals.values())
        for view, values in (("rewardLeaderboard", totals), ("winnerLeaderboard", {n: wins[n] for n in names})):
            ranked = sorted(names, key=lambda name: (-values[name], names.index(name)))
            kinds = ("string[]", "int256[]")
            pages = [self.client.read(f"{view}(uint256,uint256)", kinds, at, 2) for at in range(0, 4, 2)]
            assert [name for page, _ in pages for name in page] == ranked
            assert [value for _, page in pages for value in page] == [values[name] for name in ranked]
        read = {each.peer_id: each for each in leaderboard(self.client)}
        assert {name: read[name].reward for name in names} == totals
        assert {name: each.wins for name, each in read.items() if each.wins} == {n: w for n, w in wins.items() if w}
        voters = {name for _, name in self.votes}
        assert self.client.read("uniqueVoters()", ("uint256",)) == len(voters)

    def _try(self, who: int, signature: str, *arguments: object, expected: str) -> bool:
        assert refusal(self.client, self.wallets[who], signature, *arguments) == expected
        if not expected:
            self.chain.send(self.client, self.wallets[who], signature, *arguments)
        return not expected


def test_random_sequences_give_what_a_plain_model_gives(chain: Chain) -> None:
    AgainstAModel.chain = chain
    case = AgainstAModel.TestCase
    case.settings = settings(max_examples=4, stateful_step_count=12, deadline=None)
    case("runTest").runTest()


def test_the_page_says_what_a_call_costs(chain: Chain) -> None:
    client, ann = chain.deploy(), chain.funded(1)
    ids = ["Qm" + f"{number:044d}" for number in range(2)]
    gas = {
        "deploy": chain.deploy_gas(creation_code(chain.owner.address, stages=1)),
        "`registerPeer`": chain.send(client, ann, abi.REGISTER, ids[0])["gasUsed"],
        "`submitReward`, the first of a peer": chain.send(client, ann, abi.REWARD, 0, 0, 10**6, ids[0])["gasUsed"],
        "`submitWinners`, one winner": chain.send(client, ann, abi.WINNERS, 0, [ids[0]], ids[0])["gasUsed"],
        "`submitRoot`": chain.send(client, ann, abi.ROOT, 0, b"\7" * 32, 64, ids[0])["gasUsed"],
        "`updateStageAndRound`": chain.send(client, chain.owner, abi.ADVANCE)["gasUsed"],
        "`submitReward`, a later one": chain.send(client, ann, abi.REWARD, 1, 0, 10**6, ids[0])["gasUsed"],
    }
    rows = re.findall(r"^\| (.*?) \| ([0-9,]+) \|$", (PAGES / "howto" / "coordinator.md").read_text(), flags=re.M)
    told = {name: int(number.replace(",", "")) for name, number in rows}
    differing = {
        name: (told.get(name), used) for name, used in gas.items() if abs(told.get(name, 0) - used) > used / 50
    }
    assert differing == {}
