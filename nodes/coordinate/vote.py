"""`coordinate.vote`: whom this peer names as the winners of the round."""

from typing import Literal

import numpy as np
from pydantic import Field

from genrl_graph.contract.node import Coordinate
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts, Scored


class Vote(Coordinate, name="vote"):
    """Votes for the peers whose rows have the highest rewards, as this peer judges them.

    A peer's score is the mean or sum of its rewards over all inputs. Rows that could not be judged are left out, and so
    is a peer without any other. Where nobody is left, nobody is voted for.
    """

    winners: int = Field(default=1, ge=1, le=32, description="how many peers are named, those with the highest scores")
    by: Literal["mean", "sum"] = Field(default="mean", description="a peer's score from the rewards of its rows")
    ties: Literal["all", "first"] = Field(
        default="all", description="peers as good as the last winner: name all of them, or the first by name"
    )
    at_least: float | None = Field(default=None, description="least score of a winner; null: no limit")
    include_self: bool = Field(default=True, description="whether this peer may name itself")

    def run(self, scored: list[Scored[Rollouts]], *, round: int, peer: str, log: Log) -> None:
        """Submit the vote of a round.

        Inputs:
            scored: rollouts of several peers, such as those that an exchange admitted, with this peer's rewards
        """
        scores = {name: score for name, score in self._scores(scored).items() if self.include_self or name != peer}
        named = self._winners(scores)
        log.metric("candidates", len(scores))
        log.metric("named", len(named))
        if named:
            log.submit("winners", round=round, winners=named)

    def _scores(self, scored: list[Scored[Rollouts]]) -> dict[str, float]:
        rewards: dict[str, list[float]] = {}
        for rows in scored:
            for name, value in zip(rows.values("peer"), rows.numpy("reward").tolist(), strict=True):
                if np.isfinite(value):
                    rewards.setdefault(str(name), []).append(value)
        reduce = np.mean if self.by == "mean" else np.sum
        return {name: float(reduce(values)) for name, values in sorted(rewards.items())}

    def _winners(self, scores: dict[str, float]) -> list[str]:
        """Return the winners, sorted by name."""
        able = [(score, name) for name, score in scores.items() if self.at_least is None or score >= self.at_least]
        best = sorted(able, key=lambda entry: (-entry[0], entry[1]))
        chosen = best[: self.winners]
        if self.ties == "all" and chosen:
            chosen = [entry for entry in best if entry[0] >= chosen[-1][0]][:32]
        return sorted(name for _, name in chosen)
