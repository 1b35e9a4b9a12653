"""One client for contracts of several versions: two test contracts, ours, and what is no coordinator."""

import json
from pathlib import Path

import pytest
from chains import Chain

from genrl_graph.cli import run_command
from genrl_graph.errors import ChainError
from genrl_graph.runners.chain import abi
from genrl_graph.runners.chain.contract_client import Call, ContractClient
from genrl_graph.runners.chain.leaderboard import Standing, leaderboard
from genrl_graph.runners.chain.serve import serving


@pytest.mark.parametrize("name", ["one_stage.vy", "three_stages.vy"])
def test_it_serves_contracts_of_both_shapes(chain: Chain, name: str) -> None:
    client, ann, bob = chain.deploy_file(name), chain.funded(1), chain.funded(2)
    client.require(chain_id=chain.node.chain_id)
    assert (client.round(), client.stage(), client.has_roots) == (0, 0, False)
    assert client.stage_count == {"one_stage.vy": 1, "three_stages.vy": 3}[name]
    assert len(client.bootnodes()) == {"one_stage.vy": 0, "three_stages.vy": 1}[name]
    reward = Call(abi.REWARD, (0, 0, -3, "ann"))
    assert client.judge(reward, ann.address).outcome == "later"  # not registered yet
    for wallet, peer in ((ann, "ann"), (bob, "bob")):
        chain.send(client, wallet, abi.REGISTER, peer)
    assert client.judge(reward, ann.address).outcome == "open"
    chain.send(client, ann, *_sent(reward))
    assert client.judge(reward, ann.address).outcome == "done"
    vote = Call(abi.WINNERS, (0, ("ann", "bob"), "bob"))
    chain.send(client, bob, *_sent(vote))
    assert client.judge(vote, bob.address).outcome == "done"
    early = client.judge(Call(abi.REWARD, (1, 0, 5, "ann")), ann.address)
    assert (early.outcome, early.reason) == ("later", "InvalidRoundNumber: the chain is in round 0, stage 0")
    assert client.judge(Call(abi.REWARD, (0, 1, 5, "ann")), ann.address).outcome == "later"
    assert leaderboard(client) == [Standing("bob", 0, wins=1, votes=1), Standing("ann", -3, wins=1)]


def test_an_id_of_another_account_is_refused_and_one_of_this_account_is_done(chain: Chain) -> None:
    client, ann, bob = chain.deploy(), chain.funded(1), chain.funded(2)
    chain.send(client, ann, abi.REGISTER, "ann")
    register, reward = Call(abi.REGISTER, ("ann",)), Call(abi.REWARD, (0, 0, 1, "ann"))
    assert client.judge(register, ann.address).outcome == "done"
    assert client.judge(register, bob.address).outcome == "refused"
    verdict = client.judge(reward, bob.address)
    assert verdict.outcome == "refused"
    assert ann.address.lower() in verdict.reason


def test_what_is_no_coordinator_is_named_before_anything_is_sent(chain: Chain) -> None:
    client, nothing = chain.deploy(), ContractClient(chain.endpoint, "0x" + "12" * 20)
    with pytest.raises(ChainError, match=r"test chain: is chain \d+, not 1; mend chain_id or endpoint"):
        client.require(chain_id=1)
    with pytest.raises(ChainError, match=r"contract 0x(12){20}: no code at this address"):
        nothing.require(chain_id=chain.node.chain_id)
    without = chain.deploy_file("one_stage.vy", without="submitWinners")
    with pytest.raises(ChainError, match=r"has no submitWinners\(uint256,string\[\],string\); is it a coordinator\?"):
        without.require(chain_id=chain.node.chain_id)


def test_what_events_index_is_read_from_the_abi_that_is_given(
    chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client, ann = chain.deploy_file("three_stages.vy", plain=["roundNumber", "stageNumber"]), chain.funded(1)
    chain.send(client, ann, abi.REGISTER, "ann")
    chain.send(client, ann, abi.REWARD, 0, 0, -7, "ann")
    chain.send(client, ann, abi.WINNERS, 0, ("ann",), "ann")
    file, board = tmp_path / "chain.yaml", ["chain", "leaderboard", "--coordinator", str(tmp_path / "chain.yaml")]
    with serving(chain.node) as url:
        values = {"endpoint": url, "contract": client.address, "chain_id": chain.node.chain_id}
        file.write_text(json.dumps(values))
        assert run_command(board) == 17
        told = capsys.readouterr().err
        assert "RewardSubmitted has 1 indexed arguments, not 3; name the ABI of this contract with `abi`" in told
        file.write_text(json.dumps(values | {"abi": "abi.json"}))
        for text, problem in (("{", "no JSON"), ("{}", "is no ABI"), ('[{"type": "event", "name": 1}]', "of inputs")):
            (tmp_path / "abi.json").write_text(text)
            assert run_command(board) == 3
            told = capsys.readouterr().err
            assert problem in told and f"abi {tmp_path / 'abi.json'}: " in told and told.count("\n") == 1
        (tmp_path / "abi.json").write_text(json.dumps({"abi": [_event(each) for each in DECLARED]}))
        assert run_command([*board, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"peer_id": "ann", "reward": -7, "wins": 1, "votes": 1}]


DECLARED = (
    "RewardSubmitted(address indexed account,uint256 roundNumber,uint256 stageNumber,int256 reward,string peerId)",
    "WinnerSubmitted(address indexed account,string peerId,uint256 roundNumber,string[] winners)",
)


def _event(declaration: str) -> dict[str, object]:
    """Return an event as the JSON of an ABI has it."""
    name, _, rest = declaration.removesuffix(")").partition("(")
    parts = [argument.split(" ") for argument in rest.split(",")]
    inputs = [{"name": words[-1], "type": words[0], "indexed": "indexed" in words} for words in parts]
    return {"type": "event", "name": name, "anonymous": False, "inputs": inputs}


def _sent(call: Call) -> tuple[object, ...]:
    return (call.signature, *call.arguments)
