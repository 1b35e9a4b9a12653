"""`carry.level` and `update.level`: difficulty of the tasks, raised and lowered by the mean reward."""

import json
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from genrl_graph.contract.node import Carry, Update
from genrl_graph.contract.policy import Carried
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.frame import Frame
from genrl_graph.edge_types.rollouts import Scored
from genrl_graph.errors import StoreError
from genrl_graph.seeds import digest


class Level(Carried):
    """A difficulty level from 0 to `highest` (None: unbounded). An update returns a new object."""

    mutable = False

    def __init__(self, value: int, highest: int | None = None) -> None:
        self.value, self.highest = value, highest

    def shifted(self, by: int) -> "Level":
        """Return the level shifted by `by`, clamped to 0..`highest`."""
        value = max(self.value + by, 0)
        return Level(value if self.highest is None else min(value, self.highest), self.highest)

    def save(self, folder: Path) -> None:
        """Write `level.json`."""
        (folder / "level.json").write_text(json.dumps({"value": self.value, "highest": self.highest}))

    def load(self, folder: Path) -> None:
        """Load the level in `folder`; raises `StoreError` if it holds none."""
        file = folder / "level.json"
        try:
            saved = json.loads(file.read_text())
            self.value, self.highest = int(saved["value"]), saved["highest"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{file}: holds no level: {error}") from error

    def digest(self) -> str:
        """Hex digest of the value and of `highest`."""
        return digest(("level", self.value, "" if self.highest is None else self.highest))


class LevelCarry(Carry, name="level"):
    """A difficulty level that starts at `start` and never exceeds `highest`."""

    start: int = Field(default=0, ge=0, description="level of the first round")
    highest: int | None = Field(default=None, ge=0, description="largest level; null: unbounded")

    @model_validator(mode="after")
    def _starts_within(self) -> Self:
        if self.highest is not None and self.start > self.highest:
            raise ValueError(f"start is {self.start}, above highest {self.highest}")
        return self

    def init(self, name: str, *, seed: int) -> Level:
        """Return the level of the first round."""
        return Level(self.start, self.highest)


class RaiseLevel(Update, name="level"):
    """Raises the level by 1 if the round's mean reward is at least `raise_at`, lowers it by 1 below `lower_at`.

    The mean is over the judged rows of all inputs; with `term` it is that of the reward term instead of the reward.
    Without judged rows the level stays the same. Every peer has its own level.
    """

    raise_at: float = Field(description="mean reward of a round from which the level rises by 1")
    lower_at: float | None = Field(
        default=None, description="mean reward below which the level falls by 1, never below 0; null: it never falls"
    )
    term: str | None = Field(
        default=None, description="reward term whose mean counts, such as correct; null: the reward"
    )

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.lower_at is not None and self.lower_at >= self.raise_at:
            raise ValueError(f"lower_at {self.lower_at} must be below raise_at {self.raise_at}")
        return self

    def run(self, level: Level, scored: list[Scored[Frame]], *, log: Log) -> Level:
        """Return the level of the next round.

        Inputs:
            level: level of this round
            scored: rows whose mean reward decides
        """
        column = "reward" if self.term is None else f"reward_{self.term}"
        values = np.concatenate([np.empty(0), *(rows.numpy(column) for rows in scored)])
        judged = values[np.isfinite(values)]
        by = self._step(float(judged.mean())) if len(judged) else 0
        after = level.shifted(by)
        log.metric("level", after.value)
        return after

    def _step(self, mean: float) -> int:
        if mean >= self.raise_at:
            return 1
        return -1 if self.lower_at is not None and mean < self.lower_at else 0
