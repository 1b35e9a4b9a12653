"""How often an update trains."""

from pydantic import Field

from genrl_graph.contract.node import Update


def due(round: int, every: int) -> bool:
    """Whether what happens in every so many rounds, in the last of them, happens in this one (from 0)."""
    return (round + 1) % every == 0


class PacedUpdate(Update):
    """An update with a pace of its own: in the rounds between it hands the policy on as it is.

    What was played in those rounds does not train it.
    """

    every: int = Field(1, ge=1, description="trains in every so many rounds, in the last of them")

    def is_due(self, round: int) -> bool:
        """Whether it trains in this round."""
        return due(round, self.every)
