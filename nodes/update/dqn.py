"""`update.dqn`: Q-learning from a replay buffer."""

import numpy as np
from pydantic import Field

from genrl_graph.contract.resources import Log
from genrl_graph.nodes.policy.actors.acting import QNetwork
from genrl_graph.nodes.update.replay_buffer import ReplayBuffer
from genrl_graph.nodes.update.steps.actor_update import ActorUpdate
from genrl_graph.nodes.update.steps.schedules import LearningRate, MaxGradNorm


class Dqn(ActorUpdate, name="dqn"):
    """Deep Q-learning (doi:10.1038/nature14236) on transitions sampled from a replay buffer, with the Huber loss.

    With `double` the network chooses the next action and the target network evaluates it (arXiv 1509.06461). The
    target network copies the network after every `target_every`-th optimiser step. A round takes `steps_per_row` steps
    per transition added in it, and none while the buffer holds fewer than `start_size` transitions.
    """

    learning_rate: LearningRate = 1e-3
    max_grad_norm: MaxGradNorm = 10.0
    gamma: float = Field(default=0.99, ge=0, le=1, description="discount of a step")
    double: bool = Field(
        default=True, description="double DQN: the network chooses the next action and the target network evaluates it"
    )
    batch_size: int = Field(default=64, ge=1, description="transitions per optimiser step")
    steps_per_row: float = Field(default=0.5, gt=0, description="optimiser steps per new transition")
    start_size: int = Field(default=1000, ge=1, description="transitions in the buffer before the first step")
    target_every: int = Field(
        default=250, ge=1, description="optimiser steps between two copies into the target network"
    )

    def run(
        self, policy: QNetwork, replay: ReplayBuffer, *, rng: np.random.Generator, log: Log, round: int
    ) -> QNetwork:
        """Return the policy after its optimiser steps.

        Inputs:
            policy: policy that is trained; the output is its next version
            replay: buffer that transitions are sampled from
        """
        if self.is_due(round) and len(replay) >= self.start_size:
            from genrl_graph.nodes.update.steps.dqn_training import train_dqn

            train_dqn(self, policy, replay, rng=rng, log=log)
        return policy
