"""`policy.q_network`: a small network that estimates action values, with decaying exploration."""

from typing import Literal

from pydantic import Field

from genrl_graph.nodes.policy.actors.acting import NetworkCarry, QNetwork


class QNetworkCarry(NetworkCarry, name="q_network"):
    """A network of action values (DQN, doi:10.1038/nature14236), initialised orthogonally from (run seed, carry name).

    In training it is epsilon-greedy over the legal actions; epsilon decays linearly from `epsilon_start` to
    `epsilon_end` over `epsilon_steps` optimiser steps.
    """

    activation: Literal["tanh", "relu"] = Field(default="relu", description="activation function of the hidden layers")
    epsilon_start: float = Field(
        default=1.0, ge=0, le=1, description="probability of a random action before the first optimiser step"
    )
    epsilon_end: float = Field(
        default=0.05, ge=0, le=1, description="probability of a random action after epsilon_steps"
    )
    epsilon_steps: int = Field(default=10_000, ge=1, description="optimiser steps over which epsilon decays linearly")

    def init(self, name: str, *, seed: int) -> QNetwork:
        """Return the policy of the first round; raises `DataError` if the environment cannot be opened."""
        from genrl_graph.nodes.policy.actors.network import NetworkSpec
        from genrl_graph.nodes.policy.actors.network_handle import Exploration, NetworkQ

        exploration = Exploration(self.epsilon_start, self.epsilon_end, self.epsilon_steps)
        spec = NetworkSpec.of(self, "q_network", activation=self.activation, exploration=exploration)
        return NetworkQ.drawn(name, spec, seed=seed, device=self.device)
