"""`coordinate.report`: what this peer earned in the round, and the root of the rows behind it."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Literal

import numpy as np
from pydantic import Field

from genrl_graph.contract.node import Coordinate
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Rollouts, Scored
from genrl_graph.records.merkle import canonical_rows, leaf, root

INT256_MAX = 2**255 - 1


class Report(Coordinate, name="report"):
    """Reports the rewards of this peer's own rows as whole numbers, by stage or as one sum.

    Of each stage: the sum or mean of the rewards, times `scale`, rounded. Rows that could not be judged are left out.
    With `audit` also the Merkle root of the rows: `genrl-graph store prove` then shows what any one of them was paid.
    """

    scale: int = Field(default=1_000_000, ge=1, le=10**18, description="the contract takes integers: reward times this")
    rounding: Literal["nearest", "down", "up"] = Field(
        default="nearest",
        description="nearest: halves to the even number; down and up: towards minus and plus infinity",
    )
    reduce: Literal["sum", "mean"] = Field(default="sum", description="of the rewards of a stage's rows")
    stages: Literal["sum", "each"] = Field(
        default="sum",
        description="sum: all stages together, as stage 0; each: stage k as stage k, which the contract must have",
    )
    audit: bool = Field(default=True, description="submit the root of the rows, where the contract takes it")

    @property
    def stages_needed(self) -> int:
        """Return the stages that the contract must have."""
        return 1 if self.stages == "sum" else self.place.stage + 1

    def run(self, scored: list[Scored[Rollouts]], *, round: int, peer: str, log: Log) -> None:
        """Submit the rewards of a round.

        Inputs:
            scored: rollouts with their final rewards, one edge for each stage that is paid
        """
        own = [rows.where([author == peer for author in rows.values("peer")]) for rows in scored]
        by_stage = self._integers(own)
        reported = {0: sum(by_stage.values())} if self.stages == "sum" else by_stage
        for stage, reward in sorted(reported.items()):
            log.submit("reward", round=round, stage=stage, reward=max(-INT256_MAX, min(reward, INT256_MAX)))
            if self.stages == "sum":
                log.metric("reward", reward)
            else:
                log.metric(f"reward_stage{stage}", reward)
        if self.audit:
            rows = [row for frame in own for row in canonical_rows(frame)]
            leaves = [leaf(row) for row in rows]
            ids = [id for frame in own for id in frame.values("id")]
            log.rows("leaves", {"rollout_id": ids, "leaf": [value.hex() for value in leaves]})
            log.submit("root", round=round, root=root(leaves).hex(), rows=len(leaves))

    def _integers(self, own: Sequence[Rollouts]) -> Mapping[int, int]:
        """Return the reward of each stage as a whole number, computed exactly."""
        rewards: dict[int, list[Fraction]] = {}
        for rows in own:
            values = rows.numpy("reward").astype(np.float64)
            for stage, value in zip(rows.values("stage"), values.tolist(), strict=True):
                judged = rewards.setdefault(int(stage), [])
                if math.isfinite(value):
                    judged.append(Fraction(value))
        return {stage: self._integer(values) for stage, values in rewards.items()}

    def _integer(self, values: Sequence[Fraction]) -> int:
        total = sum(values, Fraction()) * self.scale
        if self.reduce == "mean" and values:
            total /= len(values)
        match self.rounding:
            case "down":
                return math.floor(total)
            case "up":
                return math.ceil(total)
        return round(total)
