"""Optimiser steps of `update.dqn` (imports torch: loaded when an update runs)."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from genrl_graph.contract.resources import Log
from genrl_graph.nodes.policy.actors.acting import QNetwork
from genrl_graph.nodes.update.replay_buffer import ReplayBuffer, Transitions
from genrl_graph.nodes.update.steps.actor_losses import q_loss, q_targets
from genrl_graph.nodes.update.steps.step_means import StepMeans

if TYPE_CHECKING:
    from genrl_graph.nodes.update.dqn import Dqn


def train_dqn(node: "Dqn", policy: QNetwork, replay: ReplayBuffer, *, rng: np.random.Generator, log: Log) -> None:
    """Take `steps_per_row` optimiser steps per transition that this round added to the buffer."""
    means = StepMeans()
    for _ in range(round(node.steps_per_row * replay.added)):
        _step(node, policy, replay.sample(node.batch_size, rng), means)
        if policy.version % node.target_every == 0:
            policy.sync_target()
    means.report(node, policy, log)


def _step(node: "Dqn", policy: QNetwork, batch: Transitions, means: StepMeans) -> None:
    following, masks = policy.tensor(batch.following), policy.tensor(batch.mask)
    with torch.no_grad():
        next_values = policy.action_values(following, target=True)
        targets = q_targets(
            policy.tensor(batch.reward),
            policy.tensor(batch.terminated),
            next_values,
            policy.action_values(following) if node.double else next_values,
            masks,
            gamma=node.gamma,
        )
    values = policy.action_values(policy.tensor(batch.observation))
    loss = q_loss(values, policy.tensor(batch.action), targets)
    means.take(node, policy, loss, {"q_value": targets.mean()})
