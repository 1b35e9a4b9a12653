"""Runs with a coordinator, through the public doors: what is reported, what stops a start, what a proof shows."""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from chains import Chain, key
from numcodecs.zstd import Zstd

from genrl_graph import Graph, load, open_run, play
from genrl_graph.cli import run_command
from genrl_graph.dag.coordinator_config import CoordinatorConfig
from genrl_graph.errors import ChainError, GraphError, ParamError, StoreError
from genrl_graph.records.proof import read_proof
from genrl_graph.runners.chain import abi
from genrl_graph.runners.chain.contract_client import ContractClient
from genrl_graph.runners.chain.leaderboard import events, leaderboard
from genrl_graph.runners.chain.serve import serving
from genrl_graph.runners.chain.wallet import KEY
from genrl_graph.store.outbox import read_outbox

SECRET = key(3)
SMALL = {"tasks": {"num_tasks": 2}, "answer": {"num_generations": 2}}


@pytest.fixture(scope="module")
def url(chain: Chain) -> Iterator[str]:
    """The address of the chain on loopback."""
    with serving(chain.node) as address:
        yield address


@pytest.fixture
def wallet(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> str:
    """A funded wallet, whose key is in the environment; its account."""
    monkeypatch.setenv(KEY, SECRET)
    from genrl_graph.runners.chain.wallet import Wallet

    address = Wallet.open(None).address
    chain.node.fund(address)
    return address


def game(**params: dict[str, object]) -> Graph:
    """The shipped game with fewer rows."""
    changes = {node: {**SMALL.get(node, {}), **params.get(node, {})} for node in {*SMALL, *params}}
    return load(
        "coordinated",
        overrides=[
            f"nodes.{node}.params.{name}={value}" for node, each in changes.items() for name, value in each.items()
        ],
    )


def config(client: ContractClient, url: str, **more: object) -> CoordinatorConfig:
    """The options that name a contract on the served chain."""
    chain_id = client.endpoint.chain_id()
    values = {"endpoint": url, "contract": client.address, "chain_id": chain_id, "drain_s": 60.0, **more}
    return CoordinatorConfig.model_validate(values)


def test_the_contract_has_what_the_store_says(chain: Chain, url: str, wallet: str, tmp_path: Path) -> None:
    client = chain.deploy()
    chain.send(
        client, chain.owner, "grantRole(bytes32,address)", client.read("STAGE_MANAGER_ROLE()", ("bytes32",)), wallet
    )
    options = config(client, url)
    run = play(game(round={"advance": "true"}), out=tmp_path / "r", rounds=2, peers=2, coordinator=options, quiet=True)
    stored = open_run(run.folder)
    table = stored.frame("score").table
    for values in events(client, abi.REWARDED):
        name = values["peerId"].partition("@")[0]
        own = [
            row["reward"]
            for row in table.select(["round", "peer", "reward"]).to_pylist()
            if (row["round"], row["peer"]) == (values["roundNumber"], name)
        ]
        assert values["reward"] == round(sum(own) * 1_000_000)
    assert client.round() == 2
    assert {each.votes for each in leaderboard(client)} == {2}
    assert {entry.state for entry in read_outbox(run.folder).entries.values()} == {"done"}
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert all("chain/pending" in line for line in lines)
    _a_proof_holds(run.folder, client, options, tmp_path)
    _no_file_has(SECRET, run.folder)


def _a_proof_holds(folder: Path, client: ContractClient, options: CoordinatorConfig, tmp_path: Path) -> None:
    """Prove a rollout before and after compacting; then change one completion in the proof."""
    where, proof = tmp_path / "chain.yaml", tmp_path / "proof.json"
    where.write_text(json.dumps(options.model_dump(mode="json", exclude_defaults=True)))
    rollout = open_run(folder).frame("score", 1).values("id")[2]
    for _ in range(2):
        assert run_command(["store", "prove", str(folder), rollout, "-o", str(proof)]) == 0
        assert run_command(["chain", "verify", str(proof), "--coordinator", str(where), "--json"]) == 0
        assert run_command(["store", "compact", str(folder)]) == 0
    values = json.loads(proof.read_text())
    proof.write_text(json.dumps(values | {"row": values["row"] | {"reward": 1.5}}))
    with pytest.raises(ParamError, match=f"rollout {rollout}: the proof does not hold: its row does not lead to root"):
        read_proof(proof).require_consistent()
    values["root"] = "ab" * 32
    proof.write_text(json.dumps(values))
    assert run_command(["chain", "verify", str(proof), "--coordinator", str(where)]) == ParamError.exit_code


def _no_file_has(secret: str, folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert secret.encode() not in data
            assert bytes.fromhex(secret) not in data


@pytest.mark.long
def test_several_rounds_of_the_game_are_one_of_the_contract(
    chain: Chain, url: str, wallet: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client, folder = chain.deploy(), tmp_path / "r"
    manager = client.read("STAGE_MANAGER_ROLE()", ("bytes32",))
    chain.send(client, chain.owner, "grantRole(bytes32,address)", manager, wallet)
    options, graph = config(client, url, game_rounds=2), game(round={"advance": "true"})
    play(graph, out=folder, rounds=3, peers=1, coordinator=options)
    assert "2 rounds of the game are one of the contract; play more of them" in capsys.readouterr().err
    assert client.round() == 1
    play(graph, out=folder, rounds=5, peers=1, coordinator=options, resume=True, quiet=True)
    assert client.round() == 2
    stored = open_run(folder)
    rewards = [round(float(stored.frame("score", at).numpy("reward").sum()) * 1_000_000) for at in range(4)]
    told = {values["roundNumber"]: values["reward"] for values in events(client, abi.REWARDED)}
    assert told == {0: rewards[0] + rewards[1], 1: rewards[2] + rewards[3]}
    assert [values["roundNumber"] for values in events(client, abi.VOTED)] == [0, 1]
    where, proof = tmp_path / "chain.yaml", tmp_path / "proof.json"
    where.write_text(json.dumps(options.model_dump(mode="json", exclude_defaults=True)))
    rollout = stored.frame("score", 3).values("id")[1]
    assert run_command(["store", "prove", str(folder), rollout, "-o", str(proof)]) == 0
    capsys.readouterr()
    assert run_command(["chain", "verify", str(proof), "--coordinator", str(where), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["round"], shown["rollout"]) == (1, rollout)
    with pytest.raises(StoreError, match="game_rounds 2, not for"):
        play(graph, out=folder, rounds=6, peers=1, coordinator=config(client, url), resume=True, quiet=True)


def test_a_byte_of_the_store_is_named_by_the_row_that_it_belongs_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = play(game(), out=tmp_path / "r", rounds=1, peers=1, quiet=True).folder
    ids = open_run(folder).frame("score", 0).values("id")
    chunk = folder / "rollouts.zarr" / "answer" / "completion" / "c" / "0"
    whole = chunk.read_bytes()
    flipped = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(12, len(whole) - 4)]
    rows = {changed_rows(whole, data, len(ids)): data for data in flipped}
    assert None in rows and len(rows) > 2, "some bytes leave the chunk readable, some do not"
    for changed in (None, max((each for each in rows if each), key=len)):
        chunk.write_bytes(rows[changed])
        assert run_command(["store", "prove", str(folder), ids[1]]) == 12
        told = capsys.readouterr().err
        assert f"{chunk}: chunk is damaged" in told and told.count("\n") == 1
        if changed is None:
            assert f"rollout {ids[1]} cannot be proven" in told
        else:
            assert f"row {changed[0]}, rollout {ids[changed[0]]}, is not the one that was reported" in told
    chunk.write_bytes(whole)
    assert run_command(["store", "prove", str(folder), ids[1]]) == 0


def changed_rows(whole: bytes, data: bytes, rows: int) -> tuple[int, ...] | None:
    """Return which of the first rows differ in a damaged chunk, None where it cannot be decoded."""
    before, after = texts(whole), texts(data)
    return tuple(row for row in range(rows) if before[row] != after[row]) if after else None


def texts(chunk: bytes) -> list[bytes]:
    """Decode a chunk of texts, each behind its length, whatever its checksum says; nothing where that is impossible."""
    try:
        raw = bytes(Zstd().decode(chunk[:-4]))
    except (RuntimeError, ValueError):
        return []
    texts, at = [], 4
    for _ in range(4096):
        (length,) = struct.unpack("<I", raw[at : at + 4].ljust(4, b"\0"))
        texts.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    return texts if raw[:4] == struct.pack("<I", 4096) else []


def test_without_a_coordinator_it_says_so_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    play(game(), out=tmp_path / "r", rounds=2, peers=1)
    text = capsys.readouterr().err
    assert text.count("no coordinator, so nothing is submitted; name one with --coordinator") == 1
    assert not (tmp_path / "r" / "outbox").exists()


def test_what_cannot_serve_ends_a_new_run_with_one_line(
    chain: Chain, url: str, wallet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = chain.deploy()
    good = config(client, url)

    def refused(options: CoordinatorConfig, graph: Graph | None = None) -> str:
        with pytest.raises((ChainError, GraphError, ParamError)) as error:
            play(graph or game(), out=tmp_path / "r", rounds=1, coordinator=options, quiet=True)
        assert not (tmp_path / "r" / "graph.yaml").exists()
        text = str(error.value)
        assert "\n" not in text
        return text

    assert "not 5; mend chain_id or endpoint" in refused(good.model_copy(update={"chain_id": 5}))
    assert "no code at this address" in refused(good.model_copy(update={"contract": "0x" + "34" * 20}))
    assert "cannot be reached" in refused(good.model_copy(update={"endpoint": "http://127.0.0.1:9/secret-path"}))
    monkeypatch.setenv(KEY, key(4))
    assert "has 0 ether, too little for gas" in refused(good)
    monkeypatch.setenv(KEY, "not-a-key-8f2c")
    text = refused(good)
    assert text == f"{KEY}: is no private key, 64 hexadecimal digits"
    monkeypatch.delenv(KEY)
    assert refused(good).startswith("coordinator: no wallet")


def test_a_resumed_run_goes_on_while_the_chain_is_down(
    chain: Chain, wallet: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client, out = chain.deploy(), tmp_path / "r"
    with serving(chain.node) as address:
        port = int(address.rpartition(":")[2])
        options = config(client, address, drain_s=0.5)
        play(game(), out=out, rounds=1, peers=1, coordinator=options, quiet=True)
    play(game(), out=out, rounds=2, peers=1, coordinator=options, resume=True)
    text = capsys.readouterr().err
    assert "cannot be reached; goes on, and sends what is pending when it is back" in text
    assert "pending (" in text
    where = tmp_path / "chain.yaml"
    where.write_text(json.dumps(options.model_copy(update={"drain_s": 60.0}).model_dump(exclude_defaults=True)))
    chain.send(client, chain.owner, abi.ADVANCE)
    with serving(chain.node, port=port):
        assert run_command(["chain", "status", "--send", "--coordinator", str(where), "--json", str(out)]) == 0
    counts = json.loads(capsys.readouterr().out)["runs"][str(out)]
    assert (counts["pending"], counts["sent"], counts["dropped"]) == (0, 0, 0)
    (standing,) = leaderboard(client)
    assert standing.votes == 2
    assert standing.peer_id.startswith("peer0000@")


def test_a_new_run_starts_at_the_round_of_the_contract(chain: Chain, url: str, wallet: str, tmp_path: Path) -> None:
    client = chain.deploy()
    for _ in range(3):
        chain.send(client, chain.owner, abi.ADVANCE)
    run = play(game(), out=tmp_path / "r", rounds=4, peers=1, coordinator=config(client, url), quiet=True)
    assert (run.unplayed, open_run(run.folder).rounds) == (3, [3])
    assert [values["roundNumber"] for values in events(client, abi.REWARDED)] == [3]


def test_an_embedded_chain_needs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert KEY not in os.environ
    where = tmp_path / "chain.yaml"
    where.write_text("{endpoint: embedded, drain_s: 60}")
    options = ["--coordinator", str(where), "run.rounds=2", "run.peers=1", "nodes.tasks.params.num_tasks=2"]
    assert run_command(["run", "coordinated", "-o", str(tmp_path / "r"), *options]) == 0
    assert {entry.state for entry in read_outbox(tmp_path / "r").entries.values()} == {"done"}
