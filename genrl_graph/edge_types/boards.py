"""The steps of one trajectory as a person reads them: boards where observations are such, else a line a step."""

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
"""Of a cell: nothing, in the first plane, in the second, in both. In games of two the first are one's own pieces."""


def moves(steps: "Trajectories", rows: NDArray[np.int64]) -> Transcript:
    """The transcript of a trajectory whose `steps`, in their order, stand at `rows`."""
    actions = steps.values("action")
    (last,) = steps.take([len(steps) - 1]).rows("seat", "finish")
    finish = last["finish"] or "no end"
    facts = f"seat {last['seat']}, {len(steps)} {'step' if len(steps) == 1 else 'steps'}, {finish}"
    seen = steps.numpy("observation")
    told = _boards(steps, seen) if is_board(seen) else _lines(steps, seen)
    return Transcript(rows, facts, f"actions {' '.join(map(str, actions))}", (("[moves]", told),))


def is_board(seen: NDArray[np.float32]) -> bool:
    """Whether observations of shape (steps, ...) are height x width x few planes of zeros and ones."""
    small = seen.ndim == 4 and max(seen.shape[1:3]) <= LONGEST_SIDE and 1 <= seen.shape[3] <= MOST_PLANES
    return small and bool(np.isin(seen, (0.0, 1.0)).all())


def board(seen: NDArray[np.float32]) -> list[str]:
    """One board, a line a row."""
    cells = (seen @ (1 << np.arange(seen.shape[-1]))).astype(int)
    return [" ".join(row) for row in SIGNS[cells].tolist()]


def _boards(steps: "Trajectories", seen: NDArray[np.float32]) -> str:
    """As many boards beside each other as there is room for; above each the step, its action and its reward."""
    blocks = []
    for at, (head, one) in enumerate(zip(_heads(steps), seen, strict=True)):
        lines = [f"{at}: {head}", *board(one)]
        width = max(map(len, lines))
        blocks.append([line.ljust(width) for line in lines])
    width = max(len(line) for block in blocks for line in block) + 3
    many = max(WIDTH // width, 1)
    shelves = [blocks[at : at + many] for at in range(0, len(blocks), many)]
    drawn = ["\n".join("   ".join(parts).rstrip() for parts in zip(*shelf, strict=True)) for shelf in shelves]
    return "\n\n".join(drawn)


def _lines(steps: "Trajectories", seen: NDArray[np.float32]) -> str:
    flat = seen.reshape(len(seen), -1)[:, :MOST_NUMBERS]
    more = " ..." if np.prod(seen.shape[1:]) > MOST_NUMBERS else ""
    lines = []
    for at, (head, numbers) in enumerate(zip(_heads(steps), flat, strict=True)):
        lines.append(f"{at}: {head}  sees {' '.join(f'{number:.3g}' for number in numbers)}{more}")
    return "\n".join(lines)


def _heads(steps: "Trajectories") -> list[str]:
    """What was done at each step, and what it earned where that is known and not 0."""
    actions = steps.values("action")
    rewards = steps.numpy("reward") if "reward" in steps.table.column_names else np.zeros(len(steps))
    return [
        f"action {action}" + (f", reward {reward:g}" if reward else "")
        for action, reward in zip(actions, rewards.tolist(), strict=True)
    ]
