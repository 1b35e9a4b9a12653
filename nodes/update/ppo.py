"""`update.ppo`: proximal policy optimisation of an actor and its critic."""

import numpy as np
from pydantic import Field

from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Credited
from genrl_graph.edge_types.trajectories import Trajectories
from genrl_graph.nodes.policy.compute.acting import ActorCritic
from genrl_graph.nodes.update.steps.actor_update import ActorUpdate


class Ppo(ActorUpdate, name="ppo"):
    """Proximal policy optimisation (arXiv 1707.06347): clipped ratios, clipped values and an entropy bonus.

    The critic is trained where the rows have a `target` (`advantage.gae`), else the actor alone. Old log-probs and
    values are those of the rows; of other peers' rows the own policy's, from before the first step. Rows without a
    finite advantage are left out and counted.
    """

    renamed_inputs = {"scored": "credited"}

    epsilon: float = Field(0.2, gt=0, lt=1, description="how far the ratio may move from 1")
    value_epsilon: float | None = Field(None, gt=0, description="how far a value may move from the old one; null: any")
    value_coef: float = Field(0.5, ge=0, description="weight of the critic's loss")
    entropy_coef: float = Field(0.0, ge=0, description="weight of the entropy bonus")
    epochs: int = Field(4, ge=1, description="passes over the rows of a round")
    minibatch_size: int = Field(256, ge=1, description="rows of an optimiser step, drawn anew in each epoch")
    normalize: bool = Field(True, description="advantages of a minibatch to mean 0 and deviation 1")
    target_kl: float | None = Field(None, gt=0, description="no further epoch once the KL to the old policy is above")

    def run(
        self,
        policy: ActorCritic,
        credited: list[Credited[Trajectories]],
        *,
        rng: np.random.Generator,
        log: Log,
        round: int,
        peer: str,
    ) -> ActorCritic:
        """The policy after the epochs; logs the rows trained on (id, ratio)."""
        if self.is_due(round):
            from genrl_graph.nodes.update.steps.actor_training import train_ppo

            train_ppo(self, policy, Trajectories.concat(credited), rng=rng, log=log, peer=peer)
        return policy
