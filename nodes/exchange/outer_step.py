"""The arithmetic of averages: combine the vectors of peers, and take an outer step (DiLoCo, arXiv 2311.08105)."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Combine = Literal["mean", "median", "trimmed_mean"]

BLOCK = 2**16  # numbers that are combined at a time, so that memory holds no second copy of all vectors


def combine(vectors: Sequence[Vector], how: Combine, *, trim: float) -> Vector:
    """Combine vectors of one length, number by number; the order of the vectors does not matter but for rounding.

    `median` and `trimmed_mean` hold against a minority of outliers (arXiv 1803.01498). The trimmed mean leaves out the
    share `trim` of the numbers at each end, rounded down.
    """
    size = len(vectors[0])
    cut = int(trim * len(vectors)) if how == "trimmed_mean" else 0
    combined = np.empty(size, np.float32)
    for at in _blocks(size):
        block = np.stack([vector[at] for vector in vectors]).astype(np.float64)
        if how == "median":
            combined[at] = np.median(block, axis=0)
        else:
            kept = np.sort(block, axis=0)[cut : len(vectors) - cut] if cut else block
            combined[at] = kept.mean(axis=0)
    return combined


def outer_step(
    start: Vector, momentum: Vector, change: Vector, *, learning_rate: float, beta: float
) -> tuple[Vector, Vector]:
    """Return the weights and the momentum after one step of SGD with Nesterov momentum, with `change` as the gradient.

    This is `torch.optim.SGD(nesterov=True)`: every operation is one of float32, so all peers get the same bits.
    """
    rate, keep = np.float32(learning_rate), np.float32(beta)
    moved = np.add(keep * momentum, change, dtype=np.float32)
    return np.subtract(start, rate * np.add(change, keep * moved, dtype=np.float32), dtype=np.float32), moved


def to_bfloat16(values: Vector) -> Vector:
    """Round to bfloat16, to nearest, ties to even; as float32, which holds these numbers exactly."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) & np.uint32(0xFFFF0000)
    return np.where(np.isfinite(values), rounded.view(np.float32), values)


def norm(values: Vector) -> float:
    """Return the Euclidean norm, summed in float64."""
    return float(np.sqrt(sum(float(np.square(values[at], dtype=np.float64).sum()) for at in _blocks(len(values)))))


def _blocks(size: int) -> Iterator[slice]:
    for at in range(0, size, BLOCK):
        yield slice(at, min(at + BLOCK, size))
