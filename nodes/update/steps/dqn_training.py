"""The optimiser steps of `update.dqn` (imports torch: loaded when an update runs)."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from genrl_graph.contract.resources import Log
from genrl_graph.nodes.policy.compute.acting import QNetwork
from genrl_graph.nodes.update.replay_buffer import ReplayBuffer, Transitions
from genrl_graph.nodes.update.steps.actor_losses import q_loss, q_targets
from genrl_graph.nodes.update.steps.step_means import StepMeans

if TYPE_CHECKING:
    from genrl_graph.nodes.update.dqn import Dqn


def train_dqn(node: "Dqn", policy: QNetwork, replay: ReplayBuffer, *, rng: np.random.Generator, log: Log) -> None:
    """Take the steps that the new transitions of the buffer are worth."""
    means = StepMeans()
    for _ in range(round(node.steps_per_row * replay.added)):
        _step(node, policy, replay.sample(node.batch_size, rng), means)
        if policy.version % node.target_every == 0:
            policy.sync_target()
    means.report(node, policy, log)


def _step(node: "Dqn", policy: QNetwork, drawn: Transitions, means: StepMeans) -> None:
    following, masks = policy.tensor(drawn.following), policy.tensor(drawn.mask)
    with torch.no_grad():
        ahead = policy.action_values(following, target=True)
        targets = q_targets(
            policy.tensor(drawn.reward),
            policy.tensor(drawn.terminated),
            ahead,
            policy.action_values(following) if node.double else ahead,
            masks,
            gamma=node.gamma,
        )
    values = policy.action_values(policy.tensor(drawn.observation))
    loss = q_loss(values, policy.tensor(drawn.action), targets)
    means.take(node, policy, loss, {"q_value": targets.mean()})
