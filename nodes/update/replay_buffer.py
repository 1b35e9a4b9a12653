"""`carry.replay` and `update.replay`: what was seen, done and earned, remembered to be learned from again."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from genrl_graph.contract.node import Carry, Update
from genrl_graph.contract.policy import Carried
from genrl_graph.contract.resources import Log
from genrl_graph.edge_types.rollouts import Scored
from genrl_graph.edge_types.trajectories import Trajectories
from genrl_graph.errors import StoreError
from genrl_graph.nodes.advantage.returns import WholeTrajectories
from genrl_graph.seeds import digest

ARRAYS, STATE = "replay.safetensors", "replay.json"


@dataclass(frozen=True, slots=True)
class Transitions:
    """Steps with what came after them, arrays of one length; `mask` are the actions that are legal afterwards.

    After a terminal step nothing comes: `following` is 0 and every action is legal.
    """

    observation: NDArray[np.float32]
    action: NDArray[np.int64]
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    following: NDArray[np.float32]
    mask: NDArray[np.int8]

    @classmethod
    def of(cls, rows: Trajectories) -> "Transitions":
        """Those of whole trajectories, but for last steps that were truncated: what came after them is not known."""
        steps = WholeTrajectories.of(rows).rows
        at, after = steps[:, :-1][steps[:, 1:] >= 0], steps[:, 1:][steps[:, 1:] >= 0]
        ends = np.flatnonzero(rows.finish_is("terminated"))
        ends = ends[np.isin(ends, steps)]
        terminated = np.concatenate([np.zeros(len(at), bool), np.ones(len(ends), bool)])
        taken = np.concatenate([at, ends])
        seen, masks = rows.numpy("observation"), rows.numpy("mask")
        order = np.argsort(taken, kind="stable")
        return cls(
            seen[taken][order],
            rows.numpy("action")[taken][order].astype(np.int64),
            rows.numpy("reward")[taken][order].astype(np.float32),
            terminated[order],
            np.concatenate([seen[after], np.zeros((len(ends), *seen.shape[1:]), np.float32)])[order],
            np.concatenate([masks[after], np.ones((len(ends), masks.shape[1]), np.int8)])[order],
        )

    def __len__(self) -> int:
        return len(self.action)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name."""
        return {name: getattr(self, name) for name in self.__slots__}

    def take(self, at: NDArray[np.int64]) -> "Transitions":
        """Those at these positions."""
        return Transitions(**{name: array[at] for name, array in self.arrays().items()})


class ReplayBuffer(Carried):
    """The last `capacity` transitions, in a ring; `added` is how many the last update added, `total` all of them."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.added = self.total = 0
        self._held: Transitions | None = None  # arrays of the length of the capacity, once their shapes are known

    def __len__(self) -> int:
        return min(self.total, self.capacity)

    def add(self, transitions: Transitions) -> None:
        """Put transitions in the places of the oldest; raises `ValueError` where they have other shapes."""
        self.added = len(transitions)
        kept = transitions.take(np.arange(max(0, self.added - self.capacity), self.added))
        if self._held is None and len(kept):
            room = {name: np.zeros((self.capacity, *a.shape[1:]), a.dtype) for name, a in kept.arrays().items()}
            self._held = Transitions(**room)
        at = (self.total + self.added - len(kept) + np.arange(len(kept))) % self.capacity
        if self._held is not None:
            for name, array in self._held.arrays().items():
                array[at] = getattr(kept, name)
        self.total += self.added

    def sample(self, count: int, rng: np.random.Generator) -> Transitions:
        """So many transitions, drawn with replacement."""
        assert self._held is not None, "there is nothing to draw from"
        return self._held.take(rng.integers(len(self), size=count))

    def save(self, folder: Path) -> None:
        """Write the transitions and the counts."""
        from safetensors.numpy import save_file

        if self._held is not None:
            save_file({name: np.ascontiguousarray(array) for name, array in self._used().items()}, folder / ARRAYS)
        state = {"capacity": self.capacity, "added": self.added, "total": self.total}
        (folder / STATE).write_text(json.dumps(state) + "\n")

    def load(self, folder: Path) -> None:
        """Become what was saved; raises `StoreError` where there is no buffer of this capacity."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            state = json.loads((folder / STATE).read_text())
            capacity, added, total = (int(state[name]) for name in ("capacity", "added", "total"))
            saved = load_file(folder / ARRAYS) if total else {}
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise StoreError(f"{folder}: holds no replay buffer: {type(error).__name__}: {error}") from error
        if capacity != self.capacity:
            raise StoreError(f"{folder}: a replay buffer of {capacity}; this graph wants {self.capacity}")
        self.added, self.total, self._held = added, total, None
        if saved:
            held = {name: np.zeros((capacity, *array.shape[1:]), array.dtype) for name, array in saved.items()}
            for name, array in saved.items():
                held[name][: len(self)] = array
            self._held = Transitions(**held)

    def digest(self) -> str:
        """Hex digest of the transitions in their places, and of the counts."""
        arrays = [part for name, array in self._used().items() for part in (name, array.tobytes())]
        return digest(("replay", self.capacity, self.added, self.total, *arrays))

    def _used(self) -> dict[str, NDArray[Any]]:
        held = {} if self._held is None else self._held.arrays()
        return {name: array[: len(self)] for name, array in held.items()}


class ReplayCarry(Carry, name="replay"):
    """A replay buffer of at most `capacity` transitions (doi:10.1007/BF00992699), empty at first."""

    capacity: int = Field(50_000, ge=1)

    def init(self, name: str, *, seed: int) -> ReplayBuffer:
        """The empty buffer."""
        return ReplayBuffer(self.capacity)


class Remember(Update, name="replay"):
    """Adds the steps of a round to a replay buffer, in place of the oldest.

    Steps of episodes that failed or are not whole any more, and last steps that were truncated, are left out.
    """

    def run(self, replay: ReplayBuffer, scored: list[Scored[Trajectories]], *, log: Log) -> ReplayBuffer:
        """The buffer with the steps."""
        rows = Trajectories.concat(scored)
        replay.add(Transitions.of(rows))
        log.metric("remembered", len(replay))
        log.metric("left_out_rows", len(rows) - replay.added)
        return replay
