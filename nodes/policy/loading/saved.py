"""Policies that runs have left: which checkpoint holds one, and the live handle made of it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from genrl_graph.contract.node import PolicyCarry
from genrl_graph.errors import DataError, StoreError, named
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import read_document
from genrl_graph.messages import did_you_mean
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.store.run_folder import CHECKPOINTS, GRAPH, read_graph


@dataclass(frozen=True, slots=True)
class SavedPolicy:
    """A policy of a run: how it was declared, and the checkpoint that holds it.

    `round` is the number of rounds it was trained for. A frozen policy is in no checkpoint and has no `folder`.
    """

    run: Path
    graph: str
    carry: PolicyCarry
    name: str
    seed: int
    round: int
    peer: str
    folder: Path | None
    rewards: tuple[str, ...]  # the names of the run's reward nodes

    def handle(self, name: str, *, device: str | None = None, optimizer: bool = False) -> CausalPolicy:
        """The live policy with its saved version; a fresh optimiser unless the saved one is asked for."""
        carry = self.carry
        if device is not None and "device" in type(carry).model_fields:
            carry = carry.model_copy(update={"device": device})
        with named(f"{self.run}: carry.{self.name}"):
            policy = carry.init(self.name, seed=self.seed)
        if not isinstance(policy, CausalPolicy):
            raise DataError(
                f"{self.run}: carry.{self.name} is a {type(policy).__name__}, not a language model of torch"
            )
        if self.folder is not None and optimizer:
            policy.load(self.folder)
        elif self.folder is not None:
            policy.load_weights(self.folder)
        policy.name = name
        return policy

    def final_rewards(self) -> dict[str, float]:
        """The mean of each reward node in the last of its rounds, as metrics.jsonl has it; {} where it has none."""
        file = self.run / "metrics.jsonl"
        found: dict[str, float] = {}
        for line in file.read_text().splitlines() if file.is_file() else []:
            metrics = json.loads(line)
            if metrics["peer"] == self.peer and metrics["round"] == self.round - 1:
                means = {name: metrics.get(f"{name}/reward") for name in self.rewards}
                found |= {name: value for name, value in means.items() if value is not None}
        return found


def saved_policy(run: Path, policy: str, *, round: int | None = None, peer: str | None = None) -> SavedPolicy:
    """The policy of a carry as a run left it after `round` rounds (by default its last checkpoint).

    `peer` is by default the first. Raises `StoreError` for what the run does not have, `DataError` for a carry whose
    type is not known here.
    """
    run = _folder(run, peer)
    text, versions = read_graph(run)
    graph = read_document(parse_document(text, file=str(run / GRAPH)), folder=run).graph
    policies = [name for name, part in graph.carries.items() if part.type_name.startswith("policy.")]
    if policy not in policies:
        raise _missing(run, "policy", policy, policies)
    part = graph.carries[policy]
    carry = part.declared
    if not isinstance(carry, PolicyCarry):
        scripts = " ".join(f"--import {name}" for name in versions.get("imports", {}))
        advice = f"; give what the run was given: {scripts}" if scripts else "; is this another version of the program?"
        raise DataError(f"{run}: carry.{policy}: {part.type_name} cannot be made here{advice}")
    rewards = tuple(name for name, node in graph.nodes.items() if node.type_name.startswith("reward."))
    found = SavedPolicy(run, graph.name, carry, policy, graph.run.seed, 0, peer or "", None, rewards)
    if part.next is None:
        return found
    folder = _checkpoint(run, round)
    peers = sorted(path.name for path in folder.iterdir() if path.is_dir())
    chosen = peers[0] if peer is None and peers else peer or ""
    if chosen not in peers:
        raise _missing(run, "peer", chosen, peers)
    return replace(found, round=int(folder.name), peer=chosen, folder=folder / chosen / policy)


def _folder(run: Path, peer: str | None) -> Path:
    """The folder of the run itself, or of a peer that had a process, and so a folder, of its own."""
    if (run / GRAPH).exists() or not run.is_dir():
        return run
    own = sorted(path.parent for path in run.glob(f"*/{GRAPH}"))
    if peer is not None and own and run / peer not in own:
        raise _missing(run, "peer", peer, [path.name for path in own])
    return (own[0] if peer is None else run / peer) if own else run


def _checkpoint(run: Path, round: int | None) -> Path:
    folder = run / CHECKPOINTS
    rounds = sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal()) if folder.is_dir() else []
    if not rounds:
        raise StoreError(f"{run}: has no checkpoint yet; let it run to the end, or set run.checkpoint_every")
    if round is not None and round not in rounds:
        raise StoreError(f"{run}: no checkpoint after round {round}; there are {', '.join(map(str, rounds))}")
    return folder / f"{rounds[-1] if round is None else round:06d}"


def _missing(run: Path, what: str, name: str, known: list[str]) -> StoreError:
    hint = did_you_mean(name, known) or f"; there are {', '.join(known) or 'none'}"
    return StoreError(f"{run}: no {what} named {name!r}{hint}")
