"""`policy.actor_critic`: a small network that chooses actions in a game, and a critic that estimates returns."""

from typing import Literal

from pydantic import Field

from genrl_graph.nodes.policy.actors.acting import ActorCritic, NetworkCarry


class ActorCriticCarry(NetworkCarry, name="actor_critic"):
    """A network with action logits and a state value, initialised orthogonally from (run seed, carry name).

    Actor and critic are separate networks, or share all but their last layers (`shared`); with `channels` they always
    share the convolutions. Give the sizes by `environment`, or by `observation` and `actions`.
    """

    activation: Literal["tanh", "relu"] = Field(default="tanh", description="activation function of the hidden layers")
    shared: bool = Field(default=False, description="whether actor and critic share all but their last layers")

    def init(self, name: str, *, seed: int) -> ActorCritic:
        """Return the policy of the first round; raises `DataError` if the environment cannot be opened."""
        from genrl_graph.nodes.policy.actors.network import NetworkSpec
        from genrl_graph.nodes.policy.actors.network_handle import NetworkActorCritic

        spec = NetworkSpec.of(self, "actor_critic", activation=self.activation, shared=self.shared)
        return NetworkActorCritic.drawn(name, spec, seed=seed, device=self.device)
