"""Updates that train only in every n-th round."""

from pydantic import Field

from genrl_graph.contract.node import Update


def due(round: int, every: int) -> bool:
    """Return True in every `every`-th round; rounds count from 0, so the first one is round `every` - 1."""
    return (round + 1) % every == 0


class PacedUpdate(Update):
    """An update that trains in every `every`-th round and returns the policy unchanged in the others.

    Rows of the other rounds are not trained on.
    """

    every: int = Field(default=1, ge=1, description="train in every `every`-th round only")

    def is_due(self, round: int) -> bool:
        """Return True if the update trains in this round."""
        return due(round, self.every)
