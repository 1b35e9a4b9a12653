"""`policy.q_network`: a small network that says what each action is worth, and explores less and less."""

from typing import Literal

from pydantic import Field

from genrl_graph.nodes.policy.compute.acting import NetworkCarry, QNetwork


class QNetworkCarry(NetworkCarry, name="q_network"):
    """Values of actions (DQN, doi:10.1038/nature14236), orthogonally initialised from (run seed, carry name).

    In training it takes a random legal action with a probability that falls from `epsilon_start` to `epsilon_end`
    over `epsilon_steps` optimiser steps, else the best one.
    """

    activation: Literal["tanh", "relu"] = "relu"
    epsilon_start: float = Field(1.0, ge=0, le=1)
    epsilon_end: float = Field(0.05, ge=0, le=1)
    epsilon_steps: int = Field(10_000, ge=1)

    def init(self, name: str, *, seed: int) -> QNetwork:
        """The handle of the first round; raises `DataError` where the environment cannot be made."""
        from genrl_graph.nodes.policy.compute.network import NetworkSpec
        from genrl_graph.nodes.policy.compute.network_handle import Exploration, NetworkQ

        exploration = Exploration(self.epsilon_start, self.epsilon_end, self.epsilon_steps)
        spec = NetworkSpec.of(self, "q_network", activation=self.activation, exploration=exploration)
        return NetworkQ.drawn(name, spec, seed=seed, device=self.device)
