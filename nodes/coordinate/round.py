"""`coordinate.round`: the round of the swarm is that of the contract."""

from pydantic import Field

from genrl_graph.contract.node import Coordinate
from genrl_graph.contract.resources import Log


class Round(Coordinate, name="round"):
    """Starts a new run at the round of the contract, for a peer that joins late; may also begin the rounds there.

    Rounds of the run and of the contract have the same numbers, unless `game_rounds` of the coordinator says how many
    rounds of the run are one of the contract. Exactly one peer should `advance`: its wallet needs the
    role STAGE_MANAGER_ROLE. Nobody waits for the contract.
    """

    advance: bool = Field(default=False, description="begin the next round of the contract when this peer's round ends")

    @property
    def follows_round(self) -> bool:
        """Return True."""
        return True

    def run(self, *, round: int, log: Log) -> None:
        """Submit the beginning of the next round, if this peer leads the rounds."""
        if self.advance:
            log.submit("advance", round=round + 1)
