"""`carry.baselines` and `update.baselines`: running mean outcome of each role, carried from round to round."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import Field

from genrl_graph.contract.node import Carry, Update
from genrl_graph.contract.policy import Carried
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.rollouts import Scored
from genrl_graph.errors import StoreError
from genrl_graph.nodes.roles import endings
from genrl_graph.seeds import digest


class Baselines(Carried):
    """Running mean outcome per role, 0 for a role without outcomes. An update returns a new object."""

    mutable = False

    def __init__(self, means: Mapping[str, float] | None = None) -> None:
        self.means = dict(means or {})

    def of(self, role: str) -> float:
        """Return the mean of a role."""
        return self.means.get(role, 0.0)

    def save(self, folder: Path) -> None:
        """Write `baselines.json`."""
        (folder / "baselines.json").write_text(json.dumps(self.means, sort_keys=True))

    def load(self, folder: Path) -> None:
        """Load the baselines in `folder`; raises `StoreError` if it holds none."""
        file = folder / "baselines.json"
        try:
            self.means = {str(role): float(value) for role, value in json.loads(file.read_text()).items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise StoreError(f"{file}: holds no baselines: {error}") from error

    def digest(self) -> str:
        """Hex digest of roles and means."""
        return digest(("baselines", *(part for role in sorted(self.means) for part in (role, self.means[role].hex()))))


class BaselinesCarry(Carry, name="baselines"):
    """Running mean outcome of each role, 0 at first, for role-conditioned advantages (arXiv 2506.24119)."""

    def init(self, name: str, *, seed: int) -> Baselines:
        """Return the empty baselines of the first round."""
        return Baselines()


class TrackBaselines(Update, name="baselines"):
    """Moves the baseline of each role towards its outcomes, b = decay b + (1 - decay) R (arXiv 2506.24119).

    R is the outcome of a trajectory; outcomes are applied in row order. A role is the seat in a game, or the node for
    rows that are not game steps. Trajectories that could not be judged are skipped.
    """

    decay: float = Field(default=0.95, ge=0, lt=1, description="weight of the old baseline when an outcome is added")

    def run(self, baselines: Baselines, scored: list[Scored[Frame]], *, log: Log) -> Baselines:
        """Return the baselines of the next round.

        Inputs:
            baselines: baselines of earlier rounds
            scored: rows whose outcomes are added
        """
        means = dict(baselines.means)
        for rows in scored:
            ending = endings(rows)
            for role, outcome in zip(ending.roles, ending.outcomes.tolist(), strict=True):
                if np.isfinite(outcome):
                    means[role] = self.decay * means.get(role, 0.0) + (1.0 - self.decay) * outcome
        for role, mean in means.items():
            log.metric(f"{role}/baseline", mean)
        return Baselines(means)
