"""`policy.actor_critic`: a small network that acts in a game, and one that says what a position is worth."""

from typing import Literal

from genrl_graph.nodes.policy.compute.acting import ActorCritic, NetworkCarry


class ActorCriticCarry(NetworkCarry, name="actor_critic"):
    """Logits of actions and the value of what is seen, orthogonally initialised from (run seed, carry name).

    Actor and critic are networks of their own, or share all but their last layers (`shared`); with `channels` they
    always share the convolutions. `environment` gives the sizes, or `observation` and `actions`.
    """

    activation: Literal["tanh", "relu"] = "tanh"
    shared: bool = False

    def init(self, name: str, *, seed: int) -> ActorCritic:
        """The handle of the first round; raises `DataError` where the environment cannot be made."""
        from genrl_graph.nodes.policy.compute.network import NetworkSpec
        from genrl_graph.nodes.policy.compute.network_handle import NetworkActorCritic

        spec = NetworkSpec.of(self, "actor_critic", activation=self.activation, shared=self.shared)
        return NetworkActorCritic.drawn(name, spec, seed=seed, device=self.device)
