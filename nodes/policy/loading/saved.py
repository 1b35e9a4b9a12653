"""Find a policy in a run's checkpoints and load it."""

from dataclasses import dataclass, replace
from pathlib import Path

from genrl_graph.contract.node import PolicyCarry
from genrl_graph.contract.policy import Policy
from genrl_graph.errors import DataError, StoreError, named
from genrl_graph.graph_file.document import parse_document
from genrl_graph.graph_file.read import read_document
from genrl_graph.messages import did_you_mean
from genrl_graph.nodes.policy.compute.handle import CausalPolicy
from genrl_graph.store.loading import loading_carry
from genrl_graph.store.manifest import damaged_files
from genrl_graph.store.metrics_file import metric_lines
from genrl_graph.store.peer_folders import refuse_unsafe
from genrl_graph.store.run_folder import (
    CHECKPOINTS,
    GRAPH,
    checkpoint_name,
    checkpoint_rounds,
    inner_folders,
    read_graph,
)
from genrl_graph.store.run_path import RunPath


@dataclass(frozen=True, slots=True)
class SavedPolicy:
    """A policy of a run: its declaration, and the checkpoint folder that holds its weights.

    `round` is the number of rounds it was trained for. A frozen policy is in no checkpoint: its `folder` is None.
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
        """Return `live` if it is a language model of torch; raises `DataError` for another policy."""
        policy = self.live(name, device=device, optimizer=optimizer)
        if not isinstance(policy, CausalPolicy):
            raise DataError(
                f"{self.run}: carry.{self.name} is a {type(policy).__name__}, not a language model of torch"
            )
        return policy

    def live(self, name: str, *, device: str | None = None, optimizer: bool = False) -> Policy:
        """Return the policy with its saved weights and version, and its optimiser state if `optimizer` is set.

        Policies other than language models always come with theirs. Raises `StoreError` if the checkpoint does not fit.
        """
        carry = self.carry
        if device is not None and "device" in type(carry).model_fields:
            carry = carry.model_copy(update={"device": device})
        with named(f"{self.run}: carry.{self.name}"):
            policy = carry.init(self.name, seed=self.seed)
        assert isinstance(policy, Policy)
        if self.folder is not None:
            with loading_carry(f"carry.{self.name}", self.folder):
                if isinstance(policy, CausalPolicy) and not optimizer:
                    policy.load_weights(self.folder)
                else:
                    policy.load(self.folder)
        policy.name = name
        return policy

    def final_rewards(self) -> dict[str, float]:
        """Return the mean reward of each reward node in the policy's last round, from metrics.jsonl if present."""
        rewards: dict[str, float] = {}
        for metrics in metric_lines(self.run):
            if metrics["peer"] == self.peer and metrics["round"] == self.round - 1:
                means = {name: metrics.get(f"{name}/reward") for name in self.rewards}
                rewards |= {name: value for name, value in means.items() if value is not None}
        return rewards


def saved_policy(run: Path, policy: str, *, round: int | None = None, peer: str | None = None) -> SavedPolicy:
    """Find the policy of a carry in a run, after `round` rounds (default: the last checkpoint).

    `peer` defaults to the first. Raises `StoreError` if the run lacks the policy, round or peer, and `DataError` if the
    type of the carry is not registered here.
    """
    run = _folder(run, peer)
    refuse_unsafe(run)
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
    initial = SavedPolicy(run, graph.name, carry, policy, graph.run.seed, 0, peer or "", None, rewards)
    if part.next is None:
        return initial
    folder = _checkpoint(run, round)
    peers = [name for name in folder.listing() if (folder / name).is_folder()]
    chosen = peers[0] if peer is None and peers else peer or ""
    if chosen not in peers:
        raise _missing(run, "peer", chosen, peers)
    return replace(initial, round=int(folder.name), peer=chosen, folder=(folder / chosen / policy).path)


def _folder(run: Path, peer: str | None) -> Path:
    """Return the run folder itself, or the sub-folder of a peer if each peer ran in its own process."""
    if (run / GRAPH).exists() or not run.is_dir():
        return run
    of_peers = inner_folders(run)
    if peer is not None and of_peers and run / peer not in of_peers:
        raise _missing(run, "peer", peer, [path.name for path in of_peers])
    return (of_peers[0] if peer is None else run / peer) if of_peers else run


def _checkpoint(run: Path, round: int | None) -> RunPath:
    """Return the folder of a checkpoint whose files are those that were written; raises `StoreError` for any other."""
    checkpoints = RunPath(run) / CHECKPOINTS
    rounds = checkpoint_rounds(checkpoints)
    if not rounds:
        raise StoreError(f"{run}: has no checkpoint yet; let it run to the end, or set run.checkpoint_every")
    if round is not None and round not in rounds:
        raise StoreError(f"{run}: no checkpoint after round {round}; there are {', '.join(map(str, rounds))}")
    folder = checkpoints / checkpoint_name(rounds[-1] if round is None else round)
    for path, damage in damaged_files(folder):
        raise StoreError(f"{path} {damage}; restore it from a copy, or name another round")
    return folder


def _missing(run: Path, kind: str, name: str, known: list[str]) -> StoreError:
    hint = did_you_mean(name, known) or f"; there are {', '.join(known) or 'none'}"
    return StoreError(f"{run}: no {kind} named {name!r}{hint}")
