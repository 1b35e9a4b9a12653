"""`update.reinforce`: the plain policy gradient."""

import numpy as np
from pydantic import Field

from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Credited
from genrl_graph.edge_types.trajectories import Trajectories
from genrl_graph.nodes.policy.actors.acting import ActorCritic
from genrl_graph.nodes.update.steps.actor_update import ActorUpdate
from genrl_graph.nodes.update.steps.role_shares import MaxGradientShare


class Reinforce(ActorUpdate, name="reinforce"):
    """REINFORCE (doi:10.1007/BF00992696): the gradient of log-prob times advantage, plus an entropy bonus.

    The wired node decides the advantage, such as a return-to-go or an outcome minus its role's baseline. Every row is
    trained on once, in `minibatches` steps; only the first step is on-policy. The critic is not trained. Rows without
    a finite advantage are left out and counted.
    """

    renamed_inputs = {"scored": "credited"}

    entropy_coef: float = Field(default=0.0, ge=0, description="weight of the entropy bonus")
    minibatches: int = Field(default=1, ge=1, description="optimiser steps per round")
    normalize: bool = Field(default=False, description="scale the advantages of a step to mean 0 and deviation 1")
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
        """Return the policy after its optimiser steps; log the rows trained on (id).

        Inputs:
            policy: policy that is trained; the output is its next version
            credited: steps with advantages
        """
        if self.is_due(round):
            from genrl_graph.nodes.update.steps.actor_training import train_reinforce

            train_reinforce(self, policy, Trajectories.concat(credited), rng=rng, log=log, peer=peer)
        return policy
