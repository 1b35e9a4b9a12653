"""`carry.replay` and `update.replay`: a replay buffer of transitions for off-policy training."""

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
    """Transitions as arrays of one length; `following` is the next observation, `mask` its legal actions.

    After a terminated step `following` is 0 and every action is legal.
    """

    observation: NDArray[np.float32]
    action: NDArray[np.int64]
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    following: NDArray[np.float32]
    mask: NDArray[np.int8]

    @classmethod
    def of(cls, rows: Trajectories) -> "Transitions":
        """Build the transitions of complete trajectories, without truncated last steps: their successor is unknown."""
        steps = WholeTrajectories.of(rows).rows
        current, following = steps[:, :-1][steps[:, 1:] >= 0], steps[:, 1:][steps[:, 1:] >= 0]
        ends = np.flatnonzero(rows.finish_is("terminated"))
        ends = ends[np.isin(ends, steps)]
        terminated = np.concatenate([np.zeros(len(current), bool), np.ones(len(ends), bool)])
        at = np.concatenate([current, ends])
        observations, masks = rows.numpy("observation"), rows.numpy("mask")
        no_observations = np.zeros((len(ends), *observations.shape[1:]), np.float32)
        all_legal = np.ones((len(ends), masks.shape[1]), np.int8)
        order = np.argsort(at, kind="stable")
        return cls(
            observations[at][order],
            rows.numpy("action")[at][order].astype(np.int64),
            rows.numpy("reward")[at][order].astype(np.float32),
            terminated[order],
            np.concatenate([observations[following], no_observations])[order],
            np.concatenate([masks[following], all_legal])[order],
        )

    def __len__(self) -> int:
        return len(self.action)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name."""
        return {name: getattr(self, name) for name in self.__slots__}

    def take(self, at: NDArray[np.int64]) -> "Transitions":
        """Return the transitions at positions `at`."""
        return Transitions(**{name: array[at] for name, array in self.arrays().items()})


class ReplayBuffer(Carried):
    """A ring of the last `capacity` transitions; `added` counts those of the last `add`, `total` all ever added."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.added = self.total = 0
        self._ring: Transitions | None = None  # arrays of length `capacity`, allocated by the first `add`

    def __len__(self) -> int:
        return min(self.total, self.capacity)

    def add(self, transitions: Transitions) -> None:
        """Overwrite the oldest transitions; raises `ValueError` if the shapes differ from those stored."""
        self.added = len(transitions)
        newest = transitions.take(np.arange(max(0, self.added - self.capacity), self.added))
        if self._ring is None and len(newest):
            empty = {name: np.zeros((self.capacity, *a.shape[1:]), a.dtype) for name, a in newest.arrays().items()}
            self._ring = Transitions(**empty)
        at = (self.total + self.added - len(newest) + np.arange(len(newest))) % self.capacity
        if self._ring is not None:
            for name, array in self._ring.arrays().items():
                array[at] = getattr(newest, name)
        self.total += self.added

    def sample(self, count: int, rng: np.random.Generator) -> Transitions:
        """Sample `count` transitions with replacement."""
        assert self._ring is not None, "the replay buffer is empty"
        return self._ring.take(rng.integers(len(self), size=count))

    def save(self, folder: Path) -> None:
        """Write the transitions and the counts."""
        from safetensors.numpy import save_file

        if self._ring is not None:
            save_file({name: np.ascontiguousarray(array) for name, array in self._used().items()}, folder / ARRAYS)
        state = {"capacity": self.capacity, "added": self.added, "total": self.total}
        (folder / STATE).write_text(json.dumps(state) + "\n")

    def load(self, folder: Path) -> None:
        """Load the buffer in `folder`; raises `StoreError` if it holds none of this capacity."""
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
        self.added, self.total, self._ring = added, total, None
        if saved:
            ring = {name: np.zeros((capacity, *array.shape[1:]), array.dtype) for name, array in saved.items()}
            for name, array in saved.items():
                ring[name][: len(self)] = array
            self._ring = Transitions(**ring)

    def digest(self) -> str:
        """Hex digest of the ring in storage order and of the counts."""
        arrays = [part for name, array in self._used().items() for part in (name, array.tobytes())]
        return digest(("replay", self.capacity, self.added, self.total, *arrays))

    def _used(self) -> dict[str, NDArray[Any]]:
        ring = {} if self._ring is None else self._ring.arrays()
        return {name: array[: len(self)] for name, array in ring.items()}


class ReplayCarry(Carry, name="replay"):
    """A replay buffer of at most `capacity` transitions (doi:10.1007/BF00992699), empty at first."""

    capacity: int = Field(
        default=50_000, ge=1, description="most transitions in the buffer; new ones replace the oldest"
    )

    def init(self, name: str, *, seed: int) -> ReplayBuffer:
        """Return the empty buffer of the first round."""
        return ReplayBuffer(self.capacity)


class AddToReplay(Update, name="replay"):
    """Adds the transitions of a round to a replay buffer, in place of the oldest.

    Steps of failed or incomplete episodes, and truncated last steps, are left out.
    """

    def run(self, replay: ReplayBuffer, scored: list[Scored[Trajectories]], *, log: Log) -> ReplayBuffer:
        """Return the buffer with the new transitions.

        Inputs:
            replay: buffer that grows; the output is its next version
            scored: whole episodes with rewards
        """
        rows = Trajectories.concat(scored)
        replay.add(Transitions.of(rows))
        log.metric("remembered", len(replay))
        log.metric("left_out_rows", len(rows) - replay.added)
        return replay
