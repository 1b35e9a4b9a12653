"""Four peers of a real swarm, with a wallet each, coordinated by a served chain."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from chains import Chain, key
from players import ROOT, Players, wait_until

from genrl_graph import open_run
from genrl_graph.dag.coordinator_config import CoordinatorConfig
from genrl_graph.runners.chain import abi
from genrl_graph.runners.chain.leaderboard import events, leaderboard
from genrl_graph.runners.chain.run_coordinator import client_of
from genrl_graph.runners.chain.wallet import KEY
from genrl_graph.store.outbox import read_outbox

ROUNDS = 20
NAMES = ("ann", "bob", "cyd", "dan")
KEYS = {name: key(number) for number, name in enumerate(NAMES)}


def chain_command(*command: str, secret: str) -> str:
    """Run a `chain` command with a key in the environment, and return what it prints."""
    env = {**os.environ, KEY: secret, "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-m", "genrl_graph", "chain", *command]
    return subprocess.run(run, env=env, check=True, capture_output=True, text=True).stdout


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_four_peers_with_four_wallets(tmp_path: Path) -> None:
    accounts = {name: Chain.account(secret) for name, secret in KEYS.items()}
    file = tmp_path / "chain.yaml"
    funds = [part for account in accounts.values() for part in ("--fund", account)]
    min_peers = f"nodes.answers.params.min_peers={len(NAMES)}"
    arguments = (
        f"run.rounds={ROUNDS}",
        "--coordinator",
        str(file),
        min_peers,
        "run.threads=1",
        "nodes.answers.params.timeout_s=600",
    )
    command_lines: set[str] = set()
    with Players(tmp_path, arguments=arguments, graph=ROOT / "graphs/coordinated.yaml") as players:
        serve = ["-m", "genrl_graph", "chain", "serve", "--port", "0", "-o", str(file), *funds]
        players.launch("serve", serve, {KEY: KEYS["ann"]})
        wait_until("the chain is served", file.exists, limit_s=240)
        file.write_text(file.read_text() + "drain_s: 600\n")
        leader = players.start("ann", "nodes.round.params.advance=true", env={KEY: KEYS["ann"]})
        address = leader.address()
        chain_command("bootnodes", "--add", address, "--coordinator", str(file), secret=KEYS["ann"])
        others = [players.start(name, env={KEY: KEYS[name]}) for name in NAMES[1:]]
        for player in players.started:
            command_lines.add(Path(f"/proc/{player.process.pid}/cmdline").read_bytes().decode())
        players.wait(leader, *others, limit_s=2400)
        for name in NAMES:
            chain_command("status", "--send", "--coordinator", str(file), str(players.run(name)), secret=KEYS[name])
        _contract_agrees_with_the_stores(file, players.folder / "run")
        board = json.loads(chain_command("leaderboard", "--json", "--coordinator", str(file), secret=KEYS["ann"]))
        assert [each["reward"] for each in board] == sorted((each["reward"] for each in board), reverse=True)
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for secret in KEYS.values():
        assert not any(secret.encode() in text or bytes.fromhex(secret) in text for text in texts)
        assert not any(secret in line for line in command_lines)


def _contract_agrees_with_the_stores(file: Path, run: Path) -> None:
    client = client_of(CoordinatorConfig.model_validate(yaml.safe_load(file.read_text())))
    ids: dict[str, str] = {}
    rewards, votes = {}, {}
    for name in NAMES:
        entries = read_outbox(run / name).entries.values()
        assert {entry.state for entry in entries} == {"done"}
        ids[name] = next(str(entry.submission["peer"]) for entry in entries)
        stored = open_run(run / name)
        for number in stored.rounds:
            own = stored.frame("score", number).numpy("reward")
            rewards[ids[name], number] = round(float(own.sum()) * 1_000_000)
            judged = stored.frame("judge", number)
            scores: dict[str, list[float]] = {}
            for peer, reward in zip(judged.values("peer"), judged.numpy("reward").tolist(), strict=True):
                scores.setdefault(str(peer), []).append(reward)
            means = {peer: sum(values) / len(values) for peer, values in scores.items()}
            votes[name, number] = sorted(peer for peer, value in means.items() if value == max(means.values()))
    told = {(v["peerId"], v["roundNumber"]): v["reward"] for v in events(client, abi.REWARDED)}
    assert told == rewards
    winners = {(v["peerId"], v["roundNumber"]): sorted(v["winners"]) for v in events(client, abi.VOTED)}
    assert winners == {(ids[name], at): sorted(ids[peer] for peer in named) for (name, at), named in votes.items()}
    totals = {each.peer_id: each.reward for each in leaderboard(client)}
    assert totals == {ids[n]: sum(v for (i, _), v in rewards.items() if i == ids[n]) for n in NAMES}
    assert client.round() == ROUNDS
