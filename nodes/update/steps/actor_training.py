"""Optimiser steps of `update.ppo` and `update.reinforce` (imports torch: loaded when an update runs)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.trajectories import VALUED, Trajectories
from genrl_graph.nodes.policy.actors.acting import ActorCritic
from genrl_graph.nodes.update.steps.actor_losses import (
    clipped_surrogate,
    entropies,
    normalized,
    reinforce_loss,
    value_loss,
)
from genrl_graph.nodes.update.steps.role_shares import RoleShares, action_gradient, roles_of
from genrl_graph.nodes.update.steps.step_means import StepMeans

if TYPE_CHECKING:
    from genrl_graph.nodes.update.ppo import Ppo
    from genrl_graph.nodes.update.reinforce import Reinforce

REEVALUATED_ROWS = 4096  # rows per forward pass: bounds its memory


@dataclass(slots=True)
class StepBatch:
    """The rows to train on, as tensors of shape (rows, ...)."""

    ids: list[str]
    observations: Tensor
    masks: Tensor
    actions: Tensor
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    targets: Tensor | None

    @classmethod
    def of(cls, rows: Trajectories, policy: ActorCritic) -> "StepBatch":
        """Move `rows` to the policy's device as tensors."""
        valued = VALUED in rows.marks
        return cls(
            rows.values("id"),
            policy.tensor(rows.numpy("observation").copy()),
            policy.tensor(rows.numpy("mask").copy()),
            policy.tensor(rows.numpy("action").astype(np.int64)),
            policy.tensor(rows.numpy("logprob").copy()),
            policy.tensor(rows.numpy("value").copy()),
            policy.tensor(rows.numpy("advantage").astype(np.float32)),
            policy.tensor(rows.numpy("target").astype(np.float32)) if valued else None,
        )

    def reevaluate(self, at: NDArray[np.int64], policy: ActorCritic) -> None:
        """Replace the log-probs and values of the rows at positions `at` by those of the current policy."""
        for chunk in np.array_split(at, max(1, -(-len(at) // REEVALUATED_ROWS))) if len(at) else ():
            part = policy.tensor(chunk)
            with torch.no_grad():
                logprobs, values = policy.evaluate(self.observations[part], self.masks[part])
            self.logprobs[part] = logprobs.gather(-1, self.actions[part, None])[:, 0]
            self.values[part] = values


def train_ppo(
    node: "Ppo", policy: ActorCritic, rows: Trajectories, *, rng: np.random.Generator, log: Log, peer: str
) -> None:
    """Take the optimiser steps of all epochs and log their metrics."""
    usable = rows.where(np.isfinite(rows.numpy("advantage")))
    steps, means, shares = StepBatch.of(usable, policy), StepMeans(), RoleShares(roles_of([usable], policy.name))
    steps.reevaluate(_sampled_elsewhere(usable, policy, peer), policy)
    ratios = torch.ones(len(usable))
    for _ in range(node.epochs):
        for part in _minibatches(len(usable), node.minibatch_size, rng):
            at = policy.tensor(part)
            ratios[torch.from_numpy(part)] = _ppo_step(node, policy, steps, at, means, shares).cpu()
        if node.target_kl is not None and _kl(policy, steps) > node.target_kl:
            break
    means.report(node, policy, log)
    shares.report(log, steps=means.steps)
    _count(log, rows, usable)
    log.rows("trained", {"id": steps.ids, "ratio": ratios.tolist()})


def train_reinforce(
    node: "Reinforce", policy: ActorCritic, rows: Trajectories, *, rng: np.random.Generator, log: Log, peer: str
) -> None:
    """Take the optimiser steps of one pass over the rows and log their metrics."""
    usable = rows.where(np.isfinite(rows.numpy("advantage")))
    steps, means, shares = StepBatch.of(usable, policy), StepMeans(), RoleShares(roles_of([usable], policy.name))
    for part in _minibatches(len(usable), -(-len(usable) // node.minibatches), rng):
        at = policy.tensor(part)
        logprobs, _ = policy.evaluate(steps.observations[at], steps.masks[at])
        logprobs.retain_grad()
        chosen = logprobs.gather(-1, steps.actions[at, None])[:, 0]
        advantages = steps.advantages[at]
        losses = reinforce_loss(chosen, normalized(advantages) if node.normalize else advantages)
        entropy = entropies(logprobs).mean()
        means.take(node, policy, losses.mean() - node.entropy_coef * entropy, {"entropy": entropy})
        _share(shares, steps, at, logprobs, losses)
    means.report(node, policy, log)
    shares.report(log, steps=means.steps)
    _count(log, rows, usable)
    log.rows("trained", {"id": steps.ids})


def _ppo_step(
    node: "Ppo", policy: ActorCritic, steps: StepBatch, at: Tensor, means: StepMeans, shares: RoleShares
) -> Tensor:
    """Take one optimiser step on the rows at positions `at`; return their importance ratios."""
    logprobs, values = policy.evaluate(steps.observations[at], steps.masks[at])
    logprobs.retain_grad()
    chosen, old = logprobs.gather(-1, steps.actions[at, None])[:, 0], steps.logprobs[at]
    advantages = normalized(steps.advantages[at]) if node.normalize else steps.advantages[at]
    entropy = entropies(logprobs).mean()
    losses = clipped_surrogate(chosen, old, advantages, epsilon=node.epsilon)
    loss = losses.mean() - node.entropy_coef * entropy
    measures = {"policy_loss": loss.detach(), "entropy": entropy}
    if steps.targets is not None:
        critic = value_loss(values, steps.values[at], steps.targets[at], epsilon=node.value_epsilon)
        loss = loss + node.value_coef * critic
        measures["value_loss"] = critic
    log_ratio = (chosen - old).detach()
    ratio = log_ratio.exp()
    measures["approx_kl"] = (ratio - 1.0 - log_ratio).mean()
    measures["clipped"] = ((ratio - 1.0).abs() > node.epsilon).float().mean()
    means.take(node, policy, loss, measures)
    _share(shares, steps, at, logprobs, losses)
    return ratio


def _share(shares: RoleShares, steps: StepBatch, at: Tensor, logprobs: Tensor, losses: Tensor) -> None:
    """Add a step to the shares of the roles: its gradient, and its loss without entropy bonus and critic."""
    ids = [steps.ids[i] for i in at.tolist()]
    shares.add(ids, gradient=action_gradient(logprobs), loss=losses / len(ids), tokens=torch.ones_like(losses))


def _count(log: Log, rows: Trajectories, usable: Trajectories) -> None:
    log.metric("trained_rows", len(usable))
    log.metric("left_out_rows", len(rows) - len(usable))


def _kl(policy: ActorCritic, steps: StepBatch) -> float:
    """Return the k3 estimate of the mean KL to the old policy, in nats per row."""
    with torch.no_grad():
        logprobs, _ = policy.evaluate(steps.observations, steps.masks)
    log_ratio = logprobs.gather(-1, steps.actions[:, None])[:, 0] - steps.logprobs
    return float((log_ratio.exp() - 1.0 - log_ratio).mean())


def _minibatches(count: int, size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield all positions in random order, in `count / size` (rounded) parts of nearly equal length."""
    if not count:
        return
    parts = max(1, round(count / size))
    yield from np.array_split(rng.permutation(count), parts)


def _sampled_elsewhere(rows: Trajectories, policy: ActorCritic, peer: str) -> NDArray[np.int64]:
    """Return the positions of rows that another peer or another policy sampled."""
    authors = zip(rows.values("peer"), rows.values("policy"), strict=True)
    return np.flatnonzero([author != (peer, policy.name) for author in authors])
