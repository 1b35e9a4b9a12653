"""`policy.fork`: a second live version of a policy."""

from typing import TypeVar

from genrl_graph.contract.node import Fork
from genrl_graph.contract.policy import Policy

P = TypeVar("P", bound=Policy)


class ForkPolicy(Fork, name="fork"):
    """Copy a policy, so that one copy can be updated while the other is still read."""

    def run(self, policy: P) -> P:
        """The copy; its name is that of this node."""
        return policy.fork(self.place.node)
