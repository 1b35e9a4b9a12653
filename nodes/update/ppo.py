"""`update.ppo`: proximal policy optimisation of an actor and its critic."""

import numpy as np
from pydantic import Field

from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Credited
from genrl_graph.edge_types.trajectories import Trajectories
from genrl_graph.nodes.policy.actors.acting import ActorCritic
from genrl_graph.nodes.update.steps.actor_update import ActorUpdate
from genrl_graph.nodes.update.steps.role_shares import MaxGradientShare


class Ppo(ActorUpdate, name="ppo"):
    """Proximal policy optimisation (arXiv 1707.06347): clipped ratios, clipped values and an entropy bonus.

    The critic is trained if the rows have a `target` (`advantage.gae`), else only the actor. Old log-probs and values
    are those of the rows; for other peers' rows they are this policy's, from before the first step of this update.
    Rows without a finite advantage are left out and counted.
    """

    renamed_inputs = {"scored": "credited"}

    epsilon: float = Field(default=0.2, gt=0, lt=1, description="clip range of the ratio around 1")
    value_epsilon: float | None = Field(
        default=None, gt=0, description="clip range of values around the old ones; null: none"
    )
    value_coef: float = Field(default=0.5, ge=0, description="weight of the critic's loss")
    entropy_coef: float = Field(default=0.0, ge=0, description="weight of the entropy bonus")
    epochs: int = Field(default=4, ge=1, description="passes over the rows of a round")
    minibatch_size: int = Field(default=256, ge=1, description="rows per optimiser step, reshuffled in each epoch")
    normalize: bool = Field(default=True, description="scale the advantages of a minibatch to mean 0 and deviation 1")
    target_kl: float | None = Field(
        default=None, gt=0, description="stop after an epoch whose KL to the old policy exceeds it"
    )
    max_gradient_share: MaxGradientShare = 0.9

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
        """Return the policy after the epochs; log the rows trained on (id, ratio).

        Inputs:
            policy: policy that is trained; the output is its next version
            credited: steps with advantages, and with a `target` to train the critic
        """
        if self.is_due(round):
            from genrl_graph.nodes.update.steps.actor_training import train_ppo

            train_ppo(self, policy, Trajectories.concat(credited), rng=rng, log=log, peer=peer)
        return policy
