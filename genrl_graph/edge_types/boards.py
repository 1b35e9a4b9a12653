"""Render one trajectory for people: as boards if the observations are boards, else one line per step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from genrl_graph.edge_types.display import Transcript

if TYPE_CHECKING:
    from genrl_graph.edge_types.trajectories import Trajectories

LONGEST_SIDE, MOST_PLANES = 19, 2
WIDTH = 78
MOST_NUMBERS = 8
SIGNS = np.array([".", "x", "o", "*"])
"""Symbols of a cell: empty, in the first plane, in the second, in both.

In two-player games the first plane holds one's own pieces.
"""


def trajectory_transcript(steps: "Trajectories", rows: NDArray[np.int64]) -> Transcript:
    """Return the transcript of one trajectory; `steps` are sorted, and `rows` are their positions in the frame."""
    actions = steps.values("action")
    (last,) = steps.take([len(steps) - 1]).rows("seat", "finish_reason")
    finish = last["finish_reason"] or "no end"
    facts = f"seat {last['seat']}, {len(steps)} {'step' if len(steps) == 1 else 'steps'}, {finish}"
    observations = steps.numpy("observation")
    boards = tuple(tuple(board(each)) for each in observations) if is_board(observations) else ()
    text = _boards(steps, boards) if boards else _lines(steps, observations)
    return Transcript(rows, facts, f"actions {' '.join(map(str, actions))}", (("[moves]", text),), boards)


def is_board(observations: NDArray[np.float32]) -> bool:
    """Return whether observations are small boards: shape (steps, height, width, planes), zeros and ones only."""
    shape = observations.shape
    small = len(shape) == 4 and max(shape[1:3]) <= LONGEST_SIDE and 1 <= shape[3] <= MOST_PLANES
    return small and bool(np.isin(observations, (0.0, 1.0)).all())


def board(observation: NDArray[np.float32]) -> list[str]:
    """Render one board of shape (height, width, planes) as one line per row."""
    cells = (observation @ (1 << np.arange(observation.shape[-1]))).astype(int)
    return [" ".join(row) for row in SIGNS[cells].tolist()]


def _boards(steps: "Trajectories", boards: Sequence[Sequence[str]]) -> str:
    """Render as many boards side by side as fit, each below its step, action and reward."""
    blocks = []
    for step, (head, shown) in enumerate(zip(_heads(steps), boards, strict=True)):
        lines = [f"{step}: {head}", *shown]
        width = max(map(len, lines))
        blocks.append([line.ljust(width) for line in lines])
    width = max(len(line) for block in blocks for line in block) + 3
    per_strip = max(WIDTH // width, 1)
    strips = [blocks[start : start + per_strip] for start in range(0, len(blocks), per_strip)]
    texts = ["\n".join("   ".join(parts).rstrip() for parts in zip(*strip, strict=True)) for strip in strips]
    return "\n\n".join(texts)


def _lines(steps: "Trajectories", observations: NDArray[np.float32]) -> str:
    flat = observations.reshape(len(observations), -1)[:, :MOST_NUMBERS]
    more = " ..." if np.prod(observations.shape[1:]) > MOST_NUMBERS else ""
    lines = []
    for step, (head, numbers) in enumerate(zip(_heads(steps), flat, strict=True)):
        lines.append(f"{step}: {head}  sees {' '.join(f'{number:.3g}' for number in numbers)}{more}")
    return "\n".join(lines)


def _heads(steps: "Trajectories") -> list[str]:
    """Return the action of each step, and its reward if there is one other than 0."""
    actions = steps.values("action")
    rewards = steps.numpy("reward") if "reward" in steps.table.column_names else np.zeros(len(steps))
    return [
        f"action {action}" + (f", reward {reward:g}" if reward else "")
        for action, reward in zip(actions, rewards.tolist(), strict=True)
    ]
