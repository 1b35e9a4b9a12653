"""`policy.fork`: a second, independent copy of a policy within a round."""

from typing import TypeVar

from genrl_graph.contract.node import Fork
from genrl_graph.contract.policy import Policy

P = TypeVar("P", bound=Policy)


class ForkPolicy(Fork, name="fork"):
    """Copies a policy: one copy can be updated while other nodes still read the other."""

    def run(self, policy: P) -> P:
        """Return the copy, named after this node.

        Inputs:
            policy: policy that is copied
        """
        return policy.fork(self.place.node)
