"""The `chain` command besides a run: the state of a contract, of outboxes, single transactions."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genrl_graph.dag.coordinator_config import CoordinatorConfig
from genrl_graph.errors import ChainError
from genrl_graph.records.proof import Proof
from genrl_graph.runners.chain import abi
from genrl_graph.runners.chain.contract_client import Call, ContractClient, call_of
from genrl_graph.runners.chain.endpoint import Refused, Reverted
from genrl_graph.runners.chain.leaderboard import events
from genrl_graph.runners.chain.run_coordinator import bound_to, client_of, submitter_of
from genrl_graph.runners.chain.sender import GAS_MARGIN, Sender
from genrl_graph.runners.chain.sending import await_receipt, fees_of, send_signed
from genrl_graph.runners.chain.wallet import Wallet
from genrl_graph.store.outbox import Outbox, pending_line, read_outbox
from genrl_graph.store.peer_folders import run_folders
from genrl_graph.store.run_folder import WriterLock, missing_run

PASSES_PAUSE_S = 0.2


def contract_status(config: CoordinatorConfig) -> dict[str, Any]:
    """Return the state of a contract: round, stage, stages, peers that are known, bootnodes."""
    client = client_of(config)
    assert config.chain_id is not None
    client.require(chain_id=config.chain_id)
    return {
        "contract": client.address,
        "chain_id": config.chain_id,
        "round": client.round(),
        "stage": client.stage(),
        "stages": client.stage_count,
        "audited": client.has_roots,
        "bootnodes": list(client.bootnodes()),
    }


def outbox_status(run: Path) -> dict[str, Any]:
    """Return how many submissions of a run are in which state, and one line on what is pending or dropped, and why."""
    states = [read_outbox(folder) for folder in _folders(run)]
    entries = [entry for state in states for entry in state.entries.values()]
    counts = {name: sum(entry.state == name for entry in entries) for name in ("pending", "sent", "done", "dropped")}
    return {**counts, "why": pending_line(states)}


def send_pending(config: CoordinatorConfig, runs: Sequence[Path]) -> None:
    """Send what ended runs have pending, for at most `drain_s` each; raises `StoreError` for a run that is written."""
    client, submitter = client_of(config), submitter_of(config)
    assert config.chain_id is not None
    client.require(chain_id=config.chain_id)
    for folder in (folder for run in runs for folder in _folders(run)):
        lock = WriterLock(folder)
        try:
            outbox = Outbox(folder)
            outbox.bind(bound_to(config, client))
            sender = Sender(
                outbox,
                client,
                submitter,
                lambda entry: call_of(entry.submission, str(entry.submission["peer"])),
                on_later=config.on_later,
                stuck_s=config.stuck_s,
            )
            until = time.monotonic() + config.drain_s
            while outbox.open_entries() and time.monotonic() < until:
                if not sender.work():
                    time.sleep(PASSES_PAUSE_S)
            outbox.close()
        finally:
            lock.release()


def transact(config: CoordinatorConfig, call: Call) -> None:
    """Send one call from the wallet and wait for it; raises `ChainError` where the contract refuses."""
    client, submitter = client_of(config), submitter_of(config)
    assert config.chain_id is not None
    client.require(chain_id=config.chain_id)
    if not isinstance(submitter, Wallet):
        verdict = submitter.submit(call)
        if verdict.outcome != "open":
            raise ChainError(f"{submitter.where}: {call.name}: {verdict.reason}")
        return
    endpoint, where = client.endpoint, f"{client.where}: {call.name}"
    try:
        gas = endpoint.gas(client.address, call.data, sender=submitter.address)
        transaction = {
            "to": client.address,
            "data": "0x" + call.data.hex(),
            "value": 0,
            "nonce": endpoint.nonce(submitter.address, pending=True),
            "gas": int(gas * GAS_MARGIN),
            "chainId": config.chain_id,
            **fees_of(endpoint),
        }
        raw, hash = submitter.sign(transaction)
        send_signed(endpoint, raw, submitter)
        receipt = await_receipt(endpoint, hash, timeout_s=config.stuck_s)
    except (Reverted, Refused) as error:
        raise ChainError(f"{where}: {error} (wallet {submitter.address})") from None
    if not receipt.get("status"):
        raise ChainError(f"{where}: was mined, but reverted (transaction {hash})")


def committed_root(client: ContractClient, proof: Proof, *, from_block: int) -> dict[str, Any]:
    """Return who committed to the root of a proof, and when; raises `ChainError` where nobody did for its round."""
    others = []
    for values in events(client, abi.ROOTED, from_block=from_block):
        if values["roundNumber"] != proof.round:
            continue
        if bytes(values["root"]) == proof.root and values["rows"] == proof.count:
            found = {name: values[name] for name in ("peerId", "account", "transaction", "block")}
            return {"round": proof.round, **found}
        others.append(values["peerId"])
    what = f"rollout {proof.rollout_id}: nobody committed to root {proof.root.hex()} for round {proof.round}"
    raise ChainError(f"{client.where}: {what}; other roots of that round are of {', '.join(others) or 'nobody'}")


def _folders(run: Path) -> list[Path]:
    folders = run_folders(run)
    if not folders:
        raise missing_run(run)
    return folders
